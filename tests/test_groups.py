"""Approximations before they are fitted: which family each variable has, and where it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytest
import xarray as xr

import dvi
from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.structured import StructuredFamily
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError
from dvi.groups import family_of

COV = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.25]])


@pytest.fixture(scope="module")
def model() -> pm.Model:
    """A normal distribution of which two elements are correlated, behind three names and a transform."""
    with pm.Model() as made:
        a, sigma, c = pm.Normal("a", 0, 10), pm.HalfNormal("sigma", 10), pm.Normal("c", 0, 10)
        z = pm.math.stack([a, pm.math.log(sigma), c])
        pm.Potential("density", pm.logp(pm.MvNormal.dist([1.0, -1.0, 3.0], COV), z))
        pm.Potential("flat", 0.5 * (a**2 + sigma**2 + c**2) / 100 - pm.math.log(sigma))  # undoes the priors
    return made


@pytest.fixture(scope="module")
def two() -> pm.Model:
    with pm.Model() as made:
        pm.Normal("a", shape=2)
        pm.HalfNormal("sigma")
    return made


def test_full_rank_for_some_and_mean_field_for_the_rest(model: pm.Model) -> None:
    with model:
        inference = dvi.KLqp([dvi.Group([model["a"], "sigma"], "full_rank"), dvi.Group(None, "mean_field")])
    inference.approx.run["seed"] = 1
    approx = inference.fit(4000, obj_optimizer=dvi.adam(dvi.schedules.Cosine(0.05, 4000)), progressbar=False)
    np.testing.assert_allclose(approx.mean.eval(), [1.0, -1.0, 3.0], atol=0.05)
    np.testing.assert_allclose(approx.cov.eval(), COV, atol=0.05)
    assert set(approx.shared_params) == {"0.mu", "0.L_tril", "1.mu", "1.rho"}


def test_groups_of_variables_that_do_not_follow_each_other(model: pm.Model) -> None:
    approx = dvi.Structured([dvi.Group(["a", "c"], "fr"), dvi.Group(["sigma"], "mf")], model=model, start={"c": 4.0})
    assert isinstance(approx.family, StructuredFamily)
    assert [part.indices for part in approx.family.parts] == [(0, 2), (1,)]
    assert [type(part.family) for part in approx.family.parts] == [FullRankFamily, MeanFieldFamily]
    assert approx.mean.eval()[2] == 4.0


@pytest.mark.parametrize("name", ["sigma", "sigma_log__"])
def test_variables_by_name_and_by_the_name_of_their_value(two: pm.Model, name: str) -> None:
    approx = dvi.Structured([dvi.Group([name], "point"), dvi.Group(None)], model=two)
    assert [part.indices for part in approx.family.parts] == [(2,), (0, 1)]  # type: ignore[attr-defined]


def test_one_group_for_everything_is_its_family(two: pm.Model) -> None:
    everything = (dvi.Group(None, "fr"), dvi.Group(["a", "sigma"], "full_rank"))
    for groups in ([everything[0]], [everything[1]], [everything[1], dvi.Group(None, "mf")]):
        assert dvi.Structured(groups, model=two).family == FullRankFamily(3)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([dvi.Group(["a"]), dvi.Group(["a", "sigma"])], "Found duplicates: 'a' is in two groups"),
        ([dvi.Group(["sigma"]), dvi.Group(["sigma_log__", "a"])], "Found duplicates: 'sigma_log__'"),
        ([dvi.Group(["a", "a"]), dvi.Group(None)], "Found duplicates: 'a'"),
        ([dvi.Group(["a"])], r"No approximation is specified for \['sigma'\]; add Group\(None"),
        ([], r"No approximation is specified for \['a', 'sigma'\]"),
        ([dvi.Group(["a"]), dvi.Group(None), dvi.Group(None)], "2 groups have no variables"),
        ([dvi.Group(["b"]), dvi.Group(None)], "there is no free variable 'b'; the model has a, sigma"),
        (dvi.Group(None), r"Group\(None, 'mean_field'\) is not a list of dvi.Group"),
        (["mean_field"], r"is not a list of dvi.Group"),
    ],
)
def test_groups_that_are_not_allowed(two: pm.Model, groups: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        dvi.Structured(groups, model=two)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("a",), {}, ArgumentTypeError, r"group='a' is not a list of variables; give \['a'\]"),
        ((3,), {}, ArgumentTypeError, "group=3 is not a list"),
        (([],), {}, ArgumentError, "Got empty group"),
        (([3],), {}, ArgumentTypeError, "3 in a group is not a variable"),
        ((None, "fullrnk"), {}, UnknownNameError, "vfam='fullrnk' is not the name of a family; give 'mean_field'"),
        ((None, ""), {}, UnknownNameError, "vfam=''"),
        ((None, 3), {}, ArgumentTypeError, "vfam=3 is of type int"),
        ((None, "lr"), {"rank": 0}, ArgumentError, "rank=0 is not allowed"),
        ((None, "fr"), {"rank": 2}, ArgumentTypeError, "a group with vfam='fr' has no rank"),
        ((None, "lr"), {"rnk": 2}, ArgumentTypeError, "unknown keyword 'rnk'; did you mean 'rank'"),
        ((None, "empirical"), {"size": 0}, ArgumentError, "size=0 is not allowed"),
    ],
)
def test_a_group_that_is_not_allowed(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        dvi.Group(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mean_field", "MeanField"), ("MF", "MeanField"), ("MeanField", "MeanField"), ("full_rank", "FullRank"),
     ("fr", "FullRank"), ("low-rank", "LowRank"), ("LR", "LowRank"), ("point", "Point"), ("Empirical", "Empirical"),
     ("planar", "Flow"), ("Planar*2-Scale-Loc", "Flow")],
)  # fmt: skip
def test_names_of_families(name: str, kind: str) -> None:
    made = family_of(name, size=5 if name == "Empirical" else None)(4)
    assert type(made).__name__ == f"{kind}Family"
    assert made.ndim == 4


def test_ranks() -> None:
    assert [family_of("lr")(d).rank for d in (1, 4, 50)] == [1, 4, 10]  # type: ignore[attr-defined]
    assert family_of("lr", rank=3)(50).rank == 3  # type: ignore[attr-defined]


def test_reprs() -> None:
    assert repr(dvi.Group(["a"], "lr", rank=2)) == "Group(['a'], 'lr', rank=2)"
    assert repr(dvi.Group()) == "Group(None, 'mean_field')"


@pytest.mark.parametrize("make", [dvi.MeanField, dvi.FullRank, dvi.LowRank])
def test_approximations_are_fitted_by_klqp(two: pm.Model, make: Any) -> None:
    with two:
        approx = make(start={"sigma": 2.0}, start_sigma={"a": [0.3, 0.4]}, random_seed=5)
    assert approx.run["seed"] == 5
    np.testing.assert_allclose(approx.mean.eval(), [0, 0, np.log(2)])
    np.testing.assert_allclose(approx.std.eval(), [0.3, 0.4, 0.1], rtol=1e-6)
    inference = dvi.KLqp(approx)
    assert inference.fit(20, progressbar=False) is approx
    assert len(approx.hist) == 20
    assert not np.array_equal(approx.mean.eval(), [0, 0, np.log(2)])


def test_klqp_refuses_what_has_no_density(two: pm.Model) -> None:
    with pytest.raises(ArgumentTypeError, match="no density"):
        dvi.KLqp(dvi.Empirical(size=5, model=two))


def test_a_model_is_needed() -> None:
    with pytest.raises(ModelError, match="there is no model"):
        dvi.MeanField()
    with pytest.raises(ArgumentTypeError, match="model=3 is of type int"):
        dvi.MeanField(model=3)  # type: ignore[arg-type]


# Where they start


def test_start_from_the_same_family_is_exact(two: pm.Model) -> None:
    for make in (dvi.MeanField, dvi.FullRank, dvi.LowRank):
        first = make(model=two)
        first.theta = np.random.default_rng(1).normal(size=first.family.size)
        again = make(model=two, start=first)
        assert again.theta.tobytes() == first.theta.tobytes()
        assert again.theta is not first.theta


def test_start_from_another_family_takes_mean_and_sds(two: pm.Model) -> None:
    first = dvi.FullRank(model=two)
    first.theta = np.random.default_rng(1).normal(size=first.family.size)
    for make in (dvi.MeanField, dvi.LowRank):
        again = make(model=two, start=first)
        np.testing.assert_allclose(again.mean.eval(), first.mean.eval())
        np.testing.assert_allclose(again.std.eval(), first.std.eval(), rtol=1e-6)
    wider = dvi.FullRank(model=two, start=first, start_sigma={"a": 3.0})
    np.testing.assert_allclose(wider.std.eval(), [3.0, 3.0, first.std.eval()[2]], rtol=1e-6)
    np.testing.assert_allclose(wider.cov.eval() - np.diag(np.diag(wider.cov.eval())), 0, atol=1e-12)


def test_start_from_draws(two: pm.Model, tmp_path: Path) -> None:
    first = dvi.MeanField(model=two, start={"a": [1.0, -1.0], "sigma": 3.0}, start_sigma={"a": 0.5, "sigma": 0.2})
    first.save(tmp_path / "first.zarr")
    tree = first.sample(4000, random_seed=1)
    saved = xr.open_datatree(tmp_path / "first.zarr", engine="zarr")
    for start in (tree, tree["posterior"], tree.posterior.to_dataset(), saved, dvi.load(tmp_path / "first.zarr")):
        again = dvi.MeanField(model=two, start=start)
        np.testing.assert_allclose(again.mean.eval(), first.mean.eval(), atol=0.1)
        np.testing.assert_allclose(again.std.eval(), first.std.eval(), rtol=0.1)


def test_start_from_another_model_says_what_differs(two: pm.Model, model: pm.Model) -> None:
    other = dvi.MeanField(model=model)
    with pytest.raises(
        ArgumentError, match=r"of another model: variables \['a', 'sigma'\] against \['a', 'c', 'sigma'\]"
    ):
        dvi.MeanField(model=two, start=other)
    with pytest.raises(ArgumentError, match=r"the draws of 'a' have the shape \(1, 5\)"):
        dvi.MeanField(model=two, start=other.sample(5))
    with pytest.raises(ArgumentError, match="the draws have no c"):
        dvi.MeanField(model=model, start=dvi.MeanField(model=two).sample(5))


@pytest.mark.parametrize(
    ("start_sigma", "message"),
    [
        ({"b": 1.0}, "no free variable 'b'; the model has a, sigma"),
        ({"a": 0.0}, "not positive and finite"),
        ({"a": -1.0}, "not positive and finite"),
        ({"a": [1.0, np.nan]}, "not positive and finite"),
        ({"a": [1.0, 1.0, 1.0]}, r"start_sigma of 'a' has the shape \(3,\); give a number or an array of shape \(2,\)"),
        (0.5, "start_sigma=0.5 is not a dict"),
    ],
)
def test_standard_deviations_that_are_not_allowed(two: pm.Model, start_sigma: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        dvi.MeanField(model=two, start_sigma=start_sigma)


@pytest.mark.parametrize("name", ["sigma", "sigma_log__"])
def test_standard_deviations_are_those_of_the_unconstrained_value(two: pm.Model, name: str) -> None:
    np.testing.assert_allclose(dvi.MeanField(model=two, start_sigma={name: 2.0}).std.eval(), [0.1, 0.1, 2.0])


# Particles

DRAWS = {"a": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]]), "sigma": np.array([1.0, 2.0, 4.0])}
UNCONSTRAINED = np.column_stack([DRAWS["a"], np.log(DRAWS["sigma"])])


@pytest.mark.parametrize("kind", ["dict", "chains", "tree", "dataset", "array", "multitrace"])
def test_an_empirical_approximation_has_the_draws_it_was_given(two: pm.Model, kind: str) -> None:
    chains = {name: values[None] for name, values in DRAWS.items()}
    dataset = xr.Dataset({"a": (("chain", "draw", "i"), chains["a"]), "sigma": (("chain", "draw"), chains["sigma"])})
    given: Any = {
        "dict": DRAWS,
        "chains": chains,
        "tree": xr.DataTree.from_dict({"posterior": dataset}),
        "dataset": dataset,
        "array": UNCONSTRAINED,
        "multitrace": dvi.Empirical(DRAWS, model=two).sample(50, random_seed=1, return_inferencedata=False),
    }[kind]
    approx = dvi.Empirical(given, model=two)
    particles = approx.histogram.get_value()
    if kind == "multitrace":
        assert particles.shape == (50, 3)
        particles = np.unique(particles, axis=0)
    np.testing.assert_allclose(particles, UNCONSTRAINED)
    np.testing.assert_allclose(np.unique(approx.sample(200).posterior["sigma"]), [1.0, 2.0, 4.0])


def test_an_empirical_approximation_is_saved_and_loaded(two: pm.Model, tmp_path: Path) -> None:
    dvi.Empirical(DRAWS, model=two).save(tmp_path / "draws.zarr")
    loaded = dvi.load(tmp_path / "draws.zarr")
    np.testing.assert_allclose(loaded.params["histogram"], UNCONSTRAINED)
    assert np.exp(loaded.mean.eval()[2]) == pytest.approx(2.0)


def test_groups_are_saved_and_loaded(model: pm.Model, tmp_path: Path) -> None:
    approx = dvi.Structured([dvi.Group(["c", "a"], "lr", rank=1), dvi.Group(None, "planar*2")], model=model)
    approx.save(tmp_path / "groups.zarr")
    loaded = dvi.load(tmp_path / "groups.zarr", model=model)
    assert loaded.family == approx.family
    assert loaded.theta.tobytes() == approx.theta.tobytes()
    assert len(dvi.KLqp(loaded).fit(5, progressbar=False).hist) == 5


def test_particles_are_scattered_about_the_start(two: pm.Model) -> None:
    def made(**settings: Any) -> np.ndarray:
        return dvi.Empirical(size=4000, model=two, start={"a": [5.0, -5.0], "sigma": np.e}, **settings).params[
            "histogram"
        ]

    first = made(random_seed=1, jitter=0.5)
    np.testing.assert_allclose(first.mean(axis=0), [5, -5, 1], atol=0.05)
    np.testing.assert_allclose(first.std(axis=0), 0.5, rtol=0.05)
    assert np.array_equal(first, made(random_seed=1, jitter=0.5))
    assert not np.array_equal(first, made(random_seed=2, jitter=0.5))
    assert np.ptp(made(jitter=0.0), axis=0).max() < 1e-12


def test_as_many_particles_are_taken_as_they_are(two: pm.Model) -> None:
    first = dvi.Empirical(DRAWS, model=two)
    assert dvi.Empirical(size=3, model=two, start=first).theta.tobytes() == first.theta.tobytes()
    more = dvi.Empirical(size=500, model=two, start=first, random_seed=1, jitter=1e-3).params["histogram"]
    np.testing.assert_allclose(more.mean(axis=0), UNCONSTRAINED.mean(axis=0), atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Need `trace` or `size`"),
        ({"trace": DRAWS, "size": 3}, "Need `trace` or `size`"),
        ({"size": 0}, "size=0 is not allowed"),
        ({"size": 2.5}, "size=2.5 is of type float"),
        ({"size": 3, "jitter": -1.0}, "jitter = -1.0"),
        ({"size": 3, "jitter": np.nan}, "jitter = nan"),
        ({"trace": {"a": DRAWS["a"]}}, "the draws have no sigma; there are a"),
        ({"trace": np.zeros((5, 2))}, r"the draws have the shape \(5, 2\); give \(S, 3\)"),
        ({"trace": {**DRAWS, "sigma": -DRAWS["sigma"]}}, "sigma_log__ is nan; give draws inside the support"),
        ({"trace": 3}, "the draws are of type int"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in log:RuntimeWarning")
def test_particles_that_are_not_allowed(two: pm.Model, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        dvi.Empirical(model=two, **settings)


def test_the_family_of_particles(two: pm.Model) -> None:
    approx = dvi.Empirical(size=7, model=two)
    assert approx.family == EmpiricalFamily(3, 7)
    assert approx.run["method"] == "svgd"
