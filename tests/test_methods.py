"""``fit`` as a user meets it: bad input before any work, refining, callbacks, seeds, PyMC's own objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytest
import xarray as xr
import zarr

import dvi
from dvi.errors import ArgumentError, ArgumentTypeError, DataError, ModelError, StoreNotFoundError
from dvi.model import compile as compiling

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
            ({"method": "nuts"}, ArgumentError, "method='nuts' is not known; give 'advi'"),
            ({"method": 3}, ArgumentError, "method=3"),
            ({"obj_optimiser": None}, ArgumentTypeError, "did you mean 'obj_optimizer'"),
            ({"zzz": 1}, ArgumentTypeError, "unknown keyword 'zzz'; allowed are"),
            ({"obj_n_mc": 0}, ArgumentError, "obj_n_mc=0"),
            ({"threads": 0}, ArgumentError, "threads=0"),
            ({"lanes": 99}, ArgumentError, "lanes=99 is not between 1 and"),
            ({"obj_optimizer": "adam"}, ArgumentTypeError, "obj_optimizer='adam' is not an optimizer"),
            ({"total_grad_norm_constraint": -1.0}, ArgumentError, "total_grad_norm_constraint=-1.0"),
            ({"callbacks": [3]}, ArgumentTypeError, "the callback 3 cannot be called"),
            ({"random_seed": -1}, ArgumentError, "random_seed=-1 is negative"),
            ({"random_seed": "a"}, ArgumentTypeError, "random_seed='a'"),
            ({"start": {"nu": 1}}, ArgumentError, r"start names \['nu'\]"),
            ({"start_sigma": {"nu": 1}}, ArgumentError, "no free variable 'nu'; the model has mu"),
            ({"start_sigma": {"mu": 0.0}}, ArgumentError, "start_sigma"),
            ({"inf_kwargs": {"jitter": 1}}, ArgumentTypeError, "unknown keyword 'jitter'"),
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


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    one, same, other = fit(), fit(), fit(random_seed=2)
    assert one.theta.tobytes() == same.theta.tobytes()
    assert one.theta.tobytes() != other.theta.tobytes()


def test_method_names_are_case_insensitive_and_objects_are_taken() -> None:
    named = fit(method="ADVI")
    advi = dvi.ADVI(model=model(), random_seed=1)
    assert dvi.fit(50, method=advi, progressbar=False, threads=1).theta.tobytes() == named.theta.tobytes()
    assert advi.approx.hist is advi.hist
    with pytest.raises(ArgumentError, match=r"\['random_seed'\] belong to the inference object"):
        dvi.fit(50, method=advi, random_seed=1)


def test_refine_goes_on_where_an_optimizer_stopped() -> None:
    whole = dvi.ADVI(model=model(), random_seed=1)
    whole.fit(60, obj_optimizer=dvi.adam(learning_rate=0.01), progressbar=False, threads=1)
    halves = dvi.ADVI(model=model(), random_seed=1)
    halves.fit(20, obj_optimizer=dvi.adam(learning_rate=0.01), progressbar=False, threads=1)
    halves.refine(40)
    assert halves.hist.tobytes() == whole.hist.tobytes()
    assert len(halves.hist) == 60


def test_refine_by_default_starts_another_decay_from_the_average() -> None:
    advi = dvi.ADVI(model=model(), random_seed=1)
    advi.fit(500, progressbar=False, threads=1)
    before = advi.approx.mean.eval()[0]
    advi.refine(500, progressbar=False)
    assert len(advi.hist) == 1000
    assert abs(advi.approx.mean.eval()[0] - Y.mean()) < 0.02
    assert abs(before - Y.mean()) < 0.1


def test_callbacks_see_every_step_and_can_stop() -> None:
    seen: list[tuple[int, int]] = []

    def stop(approx: dvi.Approximation, losses: np.ndarray, i: int) -> None:
        seen.append((i, len(losses)))
        if i == 7:
            raise StopIteration

    approx = fit(callbacks=[stop])
    assert seen == [(i, i) for i in range(1, 8)]
    assert len(approx.hist) == 7


def test_callbacks_are_called_as_often_as_they_ask() -> None:
    class Seldom:
        every = 20

        def __init__(self) -> None:
            self.seen: list[int] = []

        def __call__(self, approx: dvi.Approximation, losses: np.ndarray, i: int) -> None:
            self.seen.append(i)

    seldom, often = Seldom(), []
    fit(callbacks=[seldom, lambda _, losses, i: often.append(len(losses))])
    assert seldom.seen == [20, 40]
    assert often == list(range(1, 51))


def test_tracked_parameters_are_those_of_the_step() -> None:
    advi = dvi.ADVI(model=model(), random_seed=1)
    tracker = dvi.callbacks.Tracker(mean=advi.approx.mean.eval, std=advi.approx.std.eval)
    advi.fit(30, callbacks=[tracker], progressbar=False, threads=1)
    assert len(tracker["mean"]) == 30
    assert len(np.unique(np.concatenate(tracker["mean"]))) == 30
    assert tracker["std"][-1] == advi.approx.std.eval()


def test_callbacks_do_not_change_the_bits() -> None:
    assert fit(callbacks=[lambda *_: None]).theta.tobytes() == fit().theta.tobytes()


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


def test_several_draws_a_step_and_a_longest_gradient() -> None:
    assert fit(obj_n_mc=4).theta.tobytes() != fit().theta.tobytes()
    assert fit(total_grad_norm_constraint=1.0, obj_optimizer=dvi.sgd(learning_rate=1e-3)).theta.shape == (2,)


def test_start_and_start_sigma() -> None:
    advi = dvi.ADVI(model=model(), start={"mu": 5.0}, start_sigma={"mu": 0.5})
    assert advi.approx.mean.eval() == pytest.approx([5.0])
    assert advi.approx.std.eval() == pytest.approx([0.5])
    warm = dvi.ADVI(model=model(), start=fit(2000))
    assert warm.approx.mean.eval()[0] == pytest.approx(Y.mean(), abs=0.05)


def test_no_steps_leave_the_start() -> None:
    assert fit(0).hist.size == 0


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
