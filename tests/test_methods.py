"""``fit`` as a user meets it: every method by its name, bad input before any work, starts, seeds, what PyMC takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytest
import xarray as xr
import zarr

import dvi
from dvi.approximations.flow import FlowFamily
from dvi.errors import ArgumentError, ArgumentTypeError, DataError, ModelError, StoreNotFoundError, UnknownNameError
from dvi.model import compile as compiling
from dvi.model import kernel_cache

Y = np.random.default_rng(3).normal(2.0, 1.0, 2000)


def model(data: Any = Y, batch_size: int = 200) -> pm.Model:
    with pm.Model() as made:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=dvi.Minibatch(data, batch_size=batch_size))
    return made


def fit(n: int = 50, **settings: Any) -> dvi.Approximation:
    settings = {"model": model(), "random_seed": 1, "progressbar": False, "threads": 1} | settings
    return dvi.fit(n, **settings)


@pytest.fixture
def no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled before the input was checked")

    monkeypatch.setattr(compiling, "_build", refuse)


@pytest.mark.usefixtures("no_compiling")
class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "error", "message"),
        [
            ({"n": -1}, ArgumentError, "n=-1 is not allowed"),
            ({"n": 1.5}, ArgumentTypeError, "n=1.5 is of type float"),
            ({"n": True}, ArgumentTypeError, "n=True"),
            (
                {"method": "nuts"},
                UnknownNameError,
                "method='nuts' is not known; give advi, fullrank_advi, lowrank_advi",
            ),
            ({"method": "fulrank_advi"}, KeyError, "did you mean 'fullrank_advi'"),
            ({"method": "advi=planar"}, UnknownNameError, "method='advi=planar' is not known; .*did you mean 'advi'"),
            ({"method": "nfvi=plnr"}, UnknownNameError, "vfam='plnr' is not the name of a family"),
            ({"method": 3}, ArgumentTypeError, "method=3 is of type int; give a name or an Inference"),
            ({"method": dvi.ADVI}, ArgumentTypeError, "is of type type; give a name or an Inference"),
            ({"obj_optimiser": None}, ArgumentTypeError, "did you mean 'obj_optimizer'"),
            ({"zzz": 1}, ArgumentTypeError, "unknown keyword 'zzz'; allowed are"),
            ({"obj_n_mc": 0}, ArgumentError, "obj_n_mc=0"),
            ({"threads": 0}, ArgumentError, "threads=0"),
            ({"lanes": 99}, ArgumentError, "lanes=99 is not between 1 and"),
            ({"obj_optimizer": "adam"}, ArgumentTypeError, "obj_optimizer='adam' is not an optimizer"),
            ({"total_grad_norm_constraint": -1.0}, ArgumentError, "total_grad_norm_constraint = -1.0"),
            ({"callbacks": [3]}, ArgumentTypeError, "the callback 3 cannot be called"),
            ({"random_seed": -1}, ArgumentError, "random_seed=-1 is negative"),
            ({"random_seed": "a"}, ArgumentTypeError, "random_seed='a'"),
            ({"start": {"nu": 1}}, ArgumentError, r"start names \['nu'\]"),
            ({"start_sigma": {"nu": 1}}, ArgumentError, "no free variable 'nu'; the model has mu"),
            ({"start_sigma": {"mu": 0.0}}, ArgumentError, "start_sigma"),
            ({"start": {"mu": -1.0, "nu": 1}, "method": "svgd"}, ArgumentError, r"start names \['nu'\]"),
            ({"start_sigma": {"mu": 1.0}, "method": "svgd"}, ArgumentTypeError, "particles have no start_sigma"),
            ({"start_sigma": {"mu": 1.0}, "method": "map"}, ArgumentTypeError, "unknown keyword 'start_sigma'"),
            ({"start": {"mu": 1.0}, "method": "asvgd"}, ArgumentTypeError, "start belongs to the approximation"),
            ({"inf_kwargs": {"jitter": 1}}, ArgumentTypeError, "unknown keyword 'jitter'"),
            ({"backend": "jax"}, ArgumentError, "backend='jax' is not available"),
            ({"more_updates": {}}, ArgumentTypeError, "more_updates is not supported: a step is a pure function"),
            ({"model": 3}, ArgumentTypeError, "model=3 is of type int"),
        ],
    )
    def test_is_refused_in_one_line(self, settings: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            fit(**settings)
        assert "\n" not in str(caught.value)

    def test_no_model(self) -> None:
        with pytest.raises(ModelError, match="there is no model"):
            dvi.fit(10)

    @pytest.mark.parametrize(
        ("arrays", "batch_size", "error", "message"),
        [
            ((Y, Y[:5]), 2, DataError, "2000.*5"),
            ((Y,), 0, ArgumentError, "batch_size=0"),
            ((Y,), -3, ArgumentError, "batch_size=-3"),
            ((Y,), 2001, ArgumentError, "batch_size=2001.*2000 rows"),
            ((Y,), 2.0, ArgumentTypeError, "batch_size=2.0 is of type float"),
            ((Y,), True, ArgumentTypeError, "batch_size=True"),
            ((np.array(["a", "b"]),), 1, DataError, "str|<U1"),
            ((np.array([object()]),), 1, DataError, "object"),
            ((np.empty(0),), 1, DataError, "holds no values"),
            ((np.empty((0, 3)),), 1, DataError, "holds no values"),
            ((np.float64(3.0),), 1, DataError, "scalar|dimension"),
            ((), 1, ArgumentError, "no array"),
            (("/nowhere/at/all.zarr",), 1, StoreNotFoundError, "/nowhere/at/all.zarr"),
        ],
    )
    def test_minibatch(self, arrays: Any, batch_size: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            dvi.Minibatch(*arrays, batch_size=batch_size)
        assert "\n" not in str(caught.value)

    def test_minibatch_of_an_empty_store(self, tmp_path: Path) -> None:
        zarr.create_array(tmp_path / "e.zarr", shape=(0, 3), dtype="f8", chunks=(10, 3))
        with pytest.raises(DataError):
            dvi.Minibatch(zarr.open_array(tmp_path / "e.zarr"), batch_size=1)

    def test_names_of_dimensions_are_checked(self) -> None:
        array = xr.DataArray(np.ones((4, 2)), dims=("row", "feature"), name="x")
        with pytest.raises(ArgumentError, match="'feature' is not the leading dimension of 'x'"):
            dvi.Minibatch(array, batch_size=2, dims="feature")


@pytest.fixture(scope="module")
def shared() -> pm.Model:
    """Two variables, one of them positive, and a Minibatch."""
    with pm.Model() as made:
        pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sd"), observed=dvi.Minibatch(Y, batch_size=200))
    return made


# Settings that keep a fit of each method short, and the class of its approximation.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "advi": ("MeanField", {}),
    "fullrank_advi": ("FullRank", {}),
    "lowrank_advi": ("LowRank", {"inf_kwargs": {"rank": 1}}),
    "svgd": ("Empirical", {"inf_kwargs": {"n_particles": 10, "jitter": 0.3}}),
    "asvgd": ("FullRank", {"obj_n_mc": 10}),
    "nfvi": ("Flow", {"inf_kwargs": {"flow": "planar-scale-loc"}}),
    "nfvi=radial*2-scale-loc": ("Flow", {}),
    "map": ("Point", {}),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_by_its_name_in_any_case(name: str, shared: pm.Model) -> None:
    kind, settings = METHODS[name]
    found = [fit(10, method=m, model=shared, **settings) for m in (name, name.upper(), name.title())]
    assert type(found[0].family).__name__ == f"{kind}Family"
    assert found[0].run["method"] == name.partition("=")[0]
    assert len(found[0].hist) == 10
    assert len({(approx.theta.tobytes(), approx.hist.tobytes()) for approx in found}) == 1


@pytest.mark.parametrize("name", METHODS)
def test_another_seed_gives_other_bits(name: str, shared: pm.Model) -> None:
    _, settings = METHODS[name]
    one, other = (fit(10, method=name, model=shared, random_seed=seed, **settings) for seed in (1, 2))
    assert one.hist.tobytes() != other.hist.tobytes()


def test_nothing_is_compiled_that_advi_has_not_compiled(shared: pm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(2, model=shared)

    def refuse(*_: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(kernel_cache, "fill", refuse)
    for name, (_, settings) in METHODS.items():
        assert len(fit(2, method=name, model=shared, **settings).hist) == 2
    blocks = fit(2, method="svgd", model=shared, inf_kwargs={"n_particles": 300})
    assert blocks.params["histogram"].shape == (300, 2)


def test_inference_objects_are_methods(shared: pm.Model) -> None:
    advi = dvi.ADVI(model=shared, random_seed=1)
    approx = dvi.fit(10, method=advi, progressbar=False, threads=1)
    assert approx is advi.approx
    assert approx.theta.tobytes() == fit(10, model=shared).theta.tobytes()
    assert len(dvi.fit(5, method=advi, start=None, random_seed=None, progressbar=False).hist) == 15
    with pytest.raises(ArgumentError, match=r"\['random_seed'\] belong to the inference object"):
        dvi.fit(10, method=advi, random_seed=1)


def test_keywords_of_the_method_come_in_inf_kwargs(shared: pm.Model) -> None:
    assert fit(0, method="lowrank_advi", model=shared, inf_kwargs={"rank": 2}).params["B"].shape == (2, 2)
    assert fit(0, method="nfvi", model=shared, inf_kwargs={"flow": "scale-loc"}).family == FlowFamily(2, "scale-loc")
    started = fit(0, model=shared, inf_kwargs={"start": {"mu": 4.0}, "start_sigma": {"sd_log__": 0.25}})
    np.testing.assert_allclose(started.mean.eval()[0], 4.0)
    np.testing.assert_allclose(started.std.eval(), [0.1, 0.25])


@pytest.mark.parametrize("name", METHODS)
def test_none_stands_for_what_is_left_out(name: str, shared: pm.Model) -> None:
    _, settings = METHODS[name]
    approx = fit(0, method=name, model=shared, start=None, start_sigma=None, obj_optimizer=None, **settings)
    assert approx.hist.size == 0


@pytest.mark.parametrize("name", ["advi", "fullrank_advi", "lowrank_advi", "map", "nfvi=scale-loc", "svgd"])
def test_a_fit_starts_where_another_has_come_to(name: str, shared: pm.Model) -> None:
    first = fit(2000, model=shared)
    if name == "svgd":
        approx = fit(0, method=name, model=shared, start=first, inf_kwargs={"n_particles": 500, "jitter": 1e-3})
        np.testing.assert_allclose(approx.mean.eval(), first.mean.eval(), atol=1e-3)
        return
    for start in (first, first.sample(2000, random_seed=1)):
        approx = fit(0, method=name, model=shared, start=start)
        np.testing.assert_allclose(approx.mean.eval(), first.mean.eval(), atol=5e-3)
        if name != "map":
            np.testing.assert_allclose(approx.std.eval(), first.std.eval(), rtol=0.1)


def test_klqp_records_that_it_is_advi(shared: pm.Model) -> None:
    assert dvi.KLqp(dvi.MeanField(model=shared)).fit(2, progressbar=False).run["method"] == "advi"
    with pytest.raises(ArgumentError, match="no density"), shared:
        dvi.KLqp([dvi.Group(["mu"], "empirical", size=5), dvi.Group(None)])


def test_history_is_on_the_full_data_scale() -> None:
    small, large = fit(2000, model=model(batch_size=50)), fit(2000, model=model(batch_size=2000))
    exact = -0.5 * np.sum((Y - Y.mean()) ** 2) - 0.5 * len(Y) * np.log(2 * np.pi)
    for approx in (small, large):
        assert np.mean(-approx.hist[-500:]) == pytest.approx(exact, rel=0.01)


def test_optimizers_of_pymc_are_the_same_rules() -> None:
    ours = fit(obj_optimizer=dvi.adagrad_window(learning_rate=0.01))
    theirs = fit(obj_optimizer=pm.adagrad_window(learning_rate=0.01))
    assert ours.theta.tobytes() == theirs.theta.tobytes()
    assert fit(obj_optimizer=dvi.sgd(learning_rate=1e-5)).theta.tobytes() != ours.theta.tobytes()
    assert fit(obj_optimizer=pm.adam).theta.tobytes() == fit(obj_optimizer=dvi.adam()).theta.tobytes()


def test_a_model_without_minibatch_is_fitted_on_all_of_its_data() -> None:
    with pm.Model():
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=Y)
        approx = dvi.fit(3000, random_seed=1, progressbar=False)
    assert approx.mean.eval()[0] == pytest.approx(Y.mean(), abs=0.005)
    assert approx.std.eval()[0] == pytest.approx(1 / np.sqrt(len(Y)), rel=0.02)


def test_samples_have_dims_coords_and_deterministics() -> None:
    with pm.Model(coords={"side": ["left", "right"]}):
        mu = pm.Normal("mu", 0, 10, dims="side")
        pm.Deterministic("difference", mu[1] - mu[0])
        y = dvi.Minibatch(np.column_stack([Y, Y + 1]), batch_size=100)
        pm.Deterministic("residual", y - mu)
        pm.Normal("y", mu, 1.0, observed=y)
        approx = dvi.fit(20, random_seed=1, progressbar=False)
    posterior = approx.sample(30, random_seed=2).posterior
    assert set(posterior.data_vars) == {"mu", "difference"}
    assert posterior["mu"].sizes == {"chain": 1, "draw": 30, "side": 2}
    assert posterior["side"].values.tolist() == ["left", "right"]
    np.testing.assert_allclose(posterior["difference"], posterior["mu"][..., 1] - posterior["mu"][..., 0])
    xr.testing.assert_identical(posterior["mu"], approx.sample(30, random_seed=2).posterior["mu"])
    assert "2 dimensions (20 steps" in repr(approx)


@pytest.mark.parametrize(("draws", "error"), [(0, ArgumentError), (1.5, ArgumentTypeError)])
def test_draws_are_checked(draws: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="draws="):
        fit(0).sample(draws)


def test_a_pickle_for_a_worker_holds_no_data(tmp_path: Path) -> None:
    import cloudpickle

    from dvi.execution.lane import plan_problem
    from dvi.model.graph import split

    rng = np.random.default_rng(0)
    stored = zarr.create_array(tmp_path / "x.zarr", data=rng.normal(size=(20_000, 50)), chunks=(1000, 50))
    x, y = dvi.Minibatch(stored, rng.normal(size=20_000), batch_size=1000)
    with pm.Model() as made:
        pm.Normal("y", x @ pm.Normal("b", 0, 1, shape=50), pm.HalfNormal("s"), observed=y)
    sent = cloudpickle.dumps(plan_problem(split(made).terms, None, 0))
    assert len(sent) < 1_000_000
    assert len(sent) < stored.nbytes / 10
