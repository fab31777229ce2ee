"""Prior plus data terms equal PyMC's own joint log density on the full data, value and gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.graph.rewriting.db import RewriteDatabaseQuery

import dvi
from dvi.errors import ArgumentError, DviWarning, ModelError
from dvi.model.compile import Program
from dvi.model.graph import SplitModel, split

PY = Mode("py", RewriteDatabaseQuery(include=["fast_compile"], exclude=["BlasOpt"]))
N = 60


def evaluate(program: Program, z: np.ndarray, blocks: tuple[np.ndarray, ...] = ()) -> tuple[float, np.ndarray]:
    function = pytensor.function(
        [program.z, *program.blocks, *program.constants], list(program.outputs), mode=PY, on_unused_input="ignore"
    )
    value, gradient = function(z, *blocks, *program.values)
    return float(value), gradient


def joint(parts: SplitModel, z: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient on all rows of all sources."""
    value, gradient = evaluate(parts.prior, z)
    for term in parts.terms:
        v, g = evaluate(term.program, z, term.batch.source.head(term.batch.source.n_rows))
        value, gradient = value + v, gradient + g
    return value, gradient


def reference(model: pm.Model, parts: SplitModel, z: np.ndarray) -> tuple[float, np.ndarray]:
    point = {e.value_name: z[e.start : e.stop].reshape(e.shape) for e in parts.layout.entries}
    value = model.compile_logp(mode=PY)(point)
    gradient = model.compile_dlogp(vars=model.free_RVs, mode=PY)(point)
    return float(value), gradient


type Build = Callable[[Callable[..., Any]], None]


def normal(batch: Callable[..., Any]) -> None:
    y = batch(RNG["y"])
    pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sd"), observed=y)


def linear(batch: Callable[..., Any]) -> None:
    x, y = batch(RNG["x"], RNG["y"])
    pm.Normal("y", x @ pm.Normal("b", 0, 1, shape=3), 1.0, observed=y)


def gathered(batch: Callable[..., Any]) -> None:
    i, y = batch(RNG["group"], RNG["flag8"])
    a = pm.Normal("a", 0, pm.HalfNormal("s"), shape=5)
    pm.Bernoulli("y", logit_p=a[i], observed=y)


def matrix(batch: Callable[..., Any]) -> None:
    pm.Normal("y", pm.Normal("mu", 0, 10, shape=3), pm.HalfNormal("sd", shape=3), observed=batch(RNG["x"]))


def multivariate(batch: Callable[..., Any]) -> None:
    chol, _, _ = pm.LKJCholeskyCov("chol", n=3, eta=2, sd_dist=pm.Exponential.dist(1.0, shape=3))
    pm.MvNormal("y", mu=pm.Normal("mu", shape=3), chol=chol, observed=batch(RNG["x"]))


def counts(batch: Callable[..., Any]) -> None:
    pm.Multinomial("y", n=6, p=pm.Dirichlet("p", np.ones(3)), observed=batch(RNG["counts"]))


def mixture(batch: Callable[..., Any]) -> None:
    w = pm.Dirichlet("w", np.ones(2))
    mu = pm.Normal("mu", 0, 1, shape=2, transform=pm.distributions.transforms.ordered, initval=[-1.0, 1.0])
    pm.NormalMixture("y", w=w, mu=mu, sigma=1.0, observed=batch(RNG["y"]))


def censored(batch: Callable[..., Any]) -> None:
    observed = batch(np.clip(RNG["y"], -1.0, 1.0))
    pm.Censored("y", pm.Normal.dist(pm.Normal("mu"), 1.0), lower=-1.0, upper=1.0, observed=observed)


def ordinal(batch: Callable[..., Any]) -> None:
    x, y = batch(RNG["x"], RNG["group"])
    cuts = pm.Normal("cuts", 0, 1, shape=4, transform=pm.distributions.transforms.ordered, initval=[-2.0, -1, 1, 2])
    pm.OrderedLogistic("y", eta=x @ pm.Normal("b", shape=3), cutpoints=cuts, observed=y)


def several(batch: Callable[..., Any]) -> None:
    x, y, flag = batch(RNG["x"], RNG["y"], RNG["flag"])
    b = pm.Normal("b", 0, 1, shape=3)
    pm.Normal("y", x @ b, 1.0, observed=y)
    pm.Bernoulli("flag", logit_p=b[0] * y, observed=flag)
    pm.Normal("other", b, 1.0, observed=RNG["x"][0])


def twice(batch: Callable[..., Any]) -> None:
    y = batch(RNG["y"])
    mu = pm.Normal("mu")
    pm.Normal("first", mu, 1.0, observed=y)
    pm.StudentT("second", nu=4, mu=mu, sigma=2.0, observed=y)


def two_sources(batch: Callable[..., Any]) -> None:
    mu = pm.Normal("mu")
    pm.Normal("y", mu, 1.0, observed=batch(RNG["y"]))
    pm.Normal("long", mu, 2.0, observed=batch(RNG["long"]))


def bounded(batch: Callable[..., Any]) -> None:
    lo = pm.Uniform("lo", -9, -5)
    mu = pm.TruncatedNormal("mu", 0, 1, lower=-3, upper=3)
    pm.Normal("y", mu + lo, pm.LogNormal("sd"), observed=batch(RNG["y"]))


def containers(batch: Callable[..., Any]) -> None:
    x, y = batch(RNG["x"], RNG["y"])
    scale = pm.Data("scale", np.linspace(1.0, 2.0, 40))
    b = pm.Normal("b", 0, scale[:3], dims="feature")
    pm.Deterministic("twice", 2 * b, dims="feature")
    pm.Potential("penalty", -(b**2).sum())
    pm.Normal("y", x @ b, pytensor.shared(np.float64(1.5), name="s"), observed=y)


def wide_integers(batch: Callable[..., Any]) -> None:
    pm.Poisson("y", pm.Gamma("rate", 2, 1), observed=batch(RNG["counts"][:, 0].astype(np.int64)))


def booleans(batch: Callable[..., Any]) -> None:
    pm.Bernoulli("y", p=pm.Beta("p", 1, 1), observed=batch(RNG["flag"].astype(bool)))


def hidden_levels(batch: Callable[..., Any]) -> None:
    i, y = batch(RNG["group"], RNG["y"])
    raw = pm.ZeroSumNormal("raw", sigma=1.0, shape=5)
    pm.Normal("y", (pm.Normal("mu") + raw * pm.HalfCauchy("tau", 1.0))[i], pm.Weibull("sd", 2, 1), observed=y)


def _data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "y": rng.normal(size=N),
        "x": rng.normal(size=(N, 3)),
        "long": rng.normal(size=2 * N),
        "group": rng.integers(0, 5, N).astype(np.int16),
        "flag": rng.integers(0, 2, N),
        "flag8": rng.integers(0, 2, N).astype(np.int8),
        "counts": rng.multinomial(6, [0.2, 0.3, 0.5], size=N),
    }


RNG = _data()
MODELS: list[Build] = [
    normal, linear, gathered, matrix, multivariate, counts, mixture, censored, ordinal, several, twice, two_sources,
    bounded, containers, wide_integers, booleans, hidden_levels,
]  # fmt: skip


def whole(*arrays: np.ndarray) -> Any:
    return arrays if len(arrays) > 1 else arrays[0]


def batched(*arrays: np.ndarray) -> Any:
    return dvi.Minibatch(*arrays, batch_size=20)


def pymc_batched(*arrays: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pm.Minibatch(*arrays, batch_size=20)


def build(make: Build, batch: Callable[..., Any]) -> pm.Model:
    with pm.Model(coords={"feature": ["a", "b", "c"]}) as model, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="total_size not provided")
        make(batch)
    return model


# PyMC itself refuses integers of another width than its own under pm.Minibatch, when the model is made.
REFUSED_BY_PYMC = {gathered, counts, ordinal, several, wide_integers}

# Nested distributions keep the fixed size that PyMC gave them under pm.Minibatch.
FIXED_SIZE = {mixture, censored}


@pytest.mark.parametrize("make", sorted(FIXED_SIZE, key=lambda make: make.__name__))
def test_fixed_sizes_that_cannot_be_lifted_are_refused_with_the_remedy(make: Build) -> None:
    with pytest.raises(ModelError, match=r"use dvi\.Minibatch"):
        split(build(make, pymc_batched))


@pytest.mark.parametrize(
    ("make", "batch"),
    [(make, batched) for make in MODELS]
    + [(make, pymc_batched) for make in MODELS if make not in {*REFUSED_BY_PYMC, *FIXED_SIZE}],
)
def test_parts_sum_to_the_joint_density_of_the_full_data(make: Build, batch: Callable[..., Any]) -> None:
    parts = split(build(make, batch))
    assert parts.terms
    full = build(make, whole)
    z = np.random.default_rng(1).normal(scale=0.5, size=parts.layout.ndim)
    value, gradient = joint(parts, z)
    expected, slope = reference(full, parts, z)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(parts.start, split(full).start)


@pytest.mark.parametrize("make", MODELS)
def test_models_without_batches_are_all_prior(make: Build) -> None:
    parts = split(build(make, whole))
    assert parts.terms == ()
    z = np.random.default_rng(2).normal(scale=0.5, size=parts.layout.ndim)
    value, gradient = joint(parts, z)
    expected, slope = reference(build(make, whole), parts, z)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-8)


def scale_of(total_size: Any, data: np.ndarray) -> float:
    """By what the data term of ``total_size`` exceeds the sum over all rows."""
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=dvi.Minibatch(data, batch_size=20), total_size=total_size)
    parts = split(model)
    value = evaluate(parts.terms[0].program, np.zeros(1), parts.terms[0].batch.source.head(len(data)))[0]
    return value / float(np.sum(-0.5 * data**2 - 0.5 * np.log(2 * np.pi)))


@pytest.mark.parametrize("data", [RNG["y"], RNG["x"], RNG["x"][:, :, None] * np.ones(2)], ids=["1d", "2d", "3d"])
def test_every_form_of_total_size_gives_the_full_data_scale(data: np.ndarray) -> None:
    forms = [None, N, (N, *[None] * (data.ndim - 1)), (N, ...), [N, ...], data.shape, (..., *data.shape)]
    for form in forms:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DviWarning)
            assert scale_of(form, data) == pytest.approx(1.0, rel=1e-12)


def test_total_size_that_contradicts_the_array_warns_with_both_numbers() -> None:
    with pytest.warns(DviWarning, match=r"600.*60 rows"):
        assert scale_of(600, RNG["x"]) == pytest.approx(10.0)
    with pytest.warns(DviWarning, match=r"6 of .* 3 elements along axis 1"):
        assert scale_of((N, 6), RNG["x"]) == pytest.approx(2.0)


@pytest.mark.parametrize("total_size", [-1, (-5, ...), [0, ...]])
def test_total_size_that_is_not_positive_is_refused(total_size: Any) -> None:
    with pytest.raises(ArgumentError, match="not positive"):
        scale_of(total_size, RNG["x"])


def test_total_size_of_an_ordinary_observed_array_scales_it() -> None:
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=RNG["x"], total_size=(10 * N, 3))
    with pm.Model() as plain:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=RNG["x"])
    z = np.array([0.3])
    prior = -0.5 * 0.3**2 - 0.5 * np.log(2 * np.pi)
    scaled, unscaled = evaluate(split(model).prior, z)[0] - prior, evaluate(split(plain).prior, z)[0] - prior
    assert scaled == pytest.approx(10 * unscaled)


def test_potential_of_each_row_is_scaled_as_a_likelihood() -> None:
    with pm.Model() as model:
        y = dvi.Minibatch(RNG["y"], batch_size=20)
        mu = pm.Normal("mu")
        dvi.Potential("term", -((y - mu) ** 2))
    parts = split(model)
    assert [t.names for t in parts.terms] == [("term",)]
    value = evaluate(parts.terms[0].program, np.array([0.5]), (RNG["y"],))[0]
    assert value == pytest.approx(-((RNG["y"] - 0.5) ** 2).sum())


def test_only_the_arrays_that_the_likelihood_uses_are_read() -> None:
    with pm.Model() as model:
        _, y, _ = dvi.Minibatch(RNG["x"], RNG["y"], RNG["group"], batch_size=20)
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=y)
    assert split(model).terms[0].batch.source.names == ("minibatch.1",)


def refused_discrete() -> None:
    pm.Normal("y", pm.Poisson("k", 3.0), pm.HalfNormal("s"), observed=RNG["y"])


def refused_potential() -> None:
    mu = pm.Normal("mu")
    pm.Potential("bad", -((dvi.Minibatch(RNG["y"], batch_size=20) - mu) ** 2).sum())


def refused_local() -> None:
    x, y = dvi.Minibatch(RNG["y"], RNG["y"], batch_size=20)
    pm.Normal("y", pm.Normal("local", x, 1.0, shape=20), 1.0, observed=y)


def refused_two() -> None:
    x, y = dvi.Minibatch(RNG["y"], batch_size=20), dvi.Minibatch(RNG["y"], batch_size=20)
    pm.Normal("y", x * pm.Normal("b"), 1.0, observed=y)


def refused_constant() -> None:
    x = dvi.Minibatch(RNG["y"], batch_size=20)
    pm.Normal("y", x * pm.Normal("b"), 1.0, observed=RNG["y"][:20])


def refused_joint() -> None:
    y = dvi.Minibatch(RNG["y"], batch_size=20)
    pm.MvNormal("y", mu=pm.Normal("mu") * pt.ones(20), cov=np.eye(20), observed=y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "no free variables"),
        (lambda: pm.Normal("y", 0, 1, observed=RNG["y"]), "no free variables"),
        (refused_discrete, r"\['k'\] are discrete"),
        (refused_potential, r"'bad'.*dvi.Potential\('bad', ..., total_size=\)"),
        (refused_local, "'local' depends on a Minibatch"),
        (refused_two, "2 separate Minibatch calls"),
        (refused_constant, "its own data is not one"),
        (refused_joint, "one value for each row"),
    ],
)
def test_models_that_cannot_be_split_are_refused_by_name(make: Callable[[], object], message: str) -> None:
    with pm.Model() as model:
        make()
    with pytest.raises(ModelError, match=message):
        split(model)


@pytest.mark.parametrize("total_size", [0, -3, True, 2.5])
def test_total_size_of_a_potential_is_checked(total_size: Any) -> None:
    with pm.Model(), pytest.raises(ArgumentError, match="total_size="):
        dvi.Potential("p", dvi.Minibatch(RNG["y"], batch_size=20), total_size=total_size)


def test_scalar_potential_on_a_batch_is_refused() -> None:
    with pm.Model(), pytest.raises(ArgumentError, match="one value for each row"):
        dvi.Potential("p", dvi.Minibatch(RNG["y"], batch_size=20).sum())


def test_start_sets_initial_values_in_the_space_of_the_variable() -> None:
    model = build(normal, batched)
    parts = split(model, {"sd": 2.0, "mu": -1.0})
    np.testing.assert_allclose(parts.start, [-1.0, np.log(2.0)])
    with pytest.raises(ArgumentError, match=r"\['nu'\].*\['mu', 'sd'\]"):
        split(model, {"nu": 1.0})
