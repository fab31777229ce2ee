"""The loop: history, refining, callbacks, learning rates that change, data that change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytest
from distributed import Client, LocalCluster
from pymc.variational import callbacks as pymc_callbacks

import dvi
from dvi.errors import ArgumentError, ModelError, NonFiniteError
from dvi.inference.elbo import Elbo
from dvi.model import compile as compiling

Y = np.random.default_rng(3).normal(2.0, 1.0, 2000)
QUIET: dict[str, Any] = {"progressbar": False, "threads": 1}


def conjugate(data: Any = Y, batch_size: int = 200) -> pm.Model:
    with pm.Model() as made:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=dvi.Minibatch(data, batch_size=batch_size))
    return made


@pytest.fixture(scope="module")
def model() -> pm.Model:
    return conjugate()


@pytest.fixture
def advi(model: pm.Model) -> dvi.ADVI:
    return dvi.ADVI(model=model, random_seed=1)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A worker in this process."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made


@pytest.fixture(params=["threads", "cluster"])
def where(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "threads":
        return QUIET
    return {"progressbar": False, "client": request.getfixturevalue("client")}


def bits(inference: dvi.Inference) -> tuple[bytes, bytes]:
    """Losses, and the parameters of the last step, before any averaging."""
    assert inference._state is not None
    assert inference._state.step == len(inference.hist)
    return inference.hist.tobytes(), inference._state.theta.tobytes()


def no_threads_left() -> bool:
    own = [t for t in threading.enumerate() if t.name.startswith("dvi-") and t.name != "dvi-lease"]
    for thread in own:
        thread.join(10)
    return not any(thread.is_alive() for thread in own)


# History and refining


def test_each_step_has_a_loss(advi: dvi.ADVI) -> None:
    first = advi.fit(20, **QUIET)
    assert len(advi.hist) == 20
    assert np.isfinite(advi.hist).all()
    losses = advi.hist.copy()
    assert advi.fit(5, **QUIET) is first is advi.approx
    assert len(advi.hist) == 25
    assert np.array_equal(advi.hist[:20], losses)
    assert advi.fit(0, **QUIET) is first
    assert len(advi.refine(3).hist) == 28


def test_a_second_fit_starts_from_the_result_of_the_first(advi: dvi.ADVI) -> None:
    advi.fit(2000, **QUIET)
    before = advi.approx.theta
    advi.fit(1, obj_optimizer=dvi.sgd(1e-12), **QUIET)
    np.testing.assert_allclose(advi.approx.theta, before, rtol=1e-6)


@pytest.mark.parametrize("optimizer", [dvi.adam(0.01), dvi.momentum(1e-5), dvi.sgd(dvi.schedules.Cosine(1e-4, 60))])
def test_refine_goes_on_with_the_optimizer(model: pm.Model, optimizer: Any) -> None:
    whole, parts = (dvi.ADVI(model=model, random_seed=1) for _ in range(2))
    whole.fit(60, obj_optimizer=optimizer, **QUIET)
    parts.fit(20, obj_optimizer=optimizer, **QUIET)
    parts.refine(30)
    parts.refine(10)
    assert bits(parts) == bits(whole)
    # The parameters reported are the mean over the last fifth of the steps of each call.
    assert parts.approx.theta.tobytes() != whole.approx.theta.tobytes()


def test_refine_with_the_default_optimizer_starts_another_decay(advi: dvi.ADVI) -> None:
    rates: list[Any] = []
    advi.fit(50, callbacks=[lambda approx, *_: rates.append(approx.learning_rate)], **QUIET)
    advi.refine(50)
    assert rates[:50] == rates[50:]
    assert rates[0] > 10 * rates[49] > 0


def test_refine_before_any_fit_takes_the_defaults(advi: dvi.ADVI) -> None:
    assert len(advi.refine(5, progressbar=False).hist) == 5


def test_what_the_user_changes_before_refine_counts(advi: dvi.ADVI) -> None:
    advi.fit(20, obj_optimizer=dvi.sgd(1e-12), **QUIET)
    advi.approx.shared_params["mu"].set_value([50.0])
    advi.refine(5)
    assert advi.approx.params["mu"] == pytest.approx([50.0])
    assert advi.hist[-5:].min() > 100 * advi.hist[:20].max()


# Callbacks


@pytest.mark.parametrize("last", [1, 3, 12])
def test_a_callback_ends_the_fit_and_no_loss_is_dropped(advi: dvi.ADVI, where: dict[str, Any], last: int) -> None:
    seen: list[tuple[Any, int, int]] = []

    def stop(approx: dvi.Approximation, losses: np.ndarray, i: int) -> None:
        seen.append((approx, len(losses), i))
        if i == last:
            raise StopIteration("enough")

    approx = advi.fit(12, callbacks=[stop], **where)
    assert seen == [(approx, i, i) for i in range(1, last + 1)]
    assert len(approx.hist) == last
    assert len(advi.refine(2, progressbar=False).hist) == last + 2


class Every:
    def __init__(self, every: int) -> None:
        self.every, self.seen = every, []

    def __call__(self, approx: dvi.Approximation, losses: np.ndarray, i: int) -> None:
        self.seen.append((i, len(losses)))


def test_callbacks_are_called_as_often_as_they_ask(advi: dvi.ADVI, where: dict[str, Any]) -> None:
    seldom, odd = Every(20), Every(7)
    advi.fit(50, callbacks=[seldom, odd], **where)
    assert seldom.seen == [(20, 20), (40, 40)]
    assert odd.seen == [(i, i) for i in range(7, 50, 7)]
    advi.refine(10)
    assert seldom.seen[-1] == (60, 60)


def test_callbacks_do_not_change_the_bits(model: pm.Model) -> None:
    plain, watched = (dvi.ADVI(model=model, random_seed=1) for _ in range(2))
    plain.fit(40, **QUIET)
    watched.fit(40, callbacks=[lambda approx, *_: approx.sample_unconstrained(3), Every(7)], **QUIET)
    assert bits(plain) == bits(watched)
    assert plain.approx.theta.tobytes() == watched.approx.theta.tobytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_callback_comes_out_and_threads_end(advi: dvi.ADVI, threads: int) -> None:
    def fail(approx: Any, losses: Any, i: int) -> None:
        if i == 4:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        advi.fit(9, callbacks=[fail], progressbar=False, threads=threads)
    assert len(advi.hist) == 4
    assert no_threads_left()
    assert len(advi.fit(2, **QUIET).hist) == 6


def test_tracked_parameters_are_those_of_the_step(advi: dvi.ADVI) -> None:
    tracker = dvi.callbacks.Tracker(mean=advi.approx.mean.eval, std=advi.approx.std.eval)
    advi.fit(30, callbacks=[tracker], **QUIET)
    assert len(np.unique(np.concatenate(tracker["mean"]))) == 30
    assert tracker["std"][-1] == advi.approx.std.eval()


def test_callbacks_of_pymc(advi: dvi.ADVI) -> None:
    tracker = pymc_callbacks.Tracker(mean=advi.approx.mean.eval, step=lambda approx, hist, i: (len(hist), i))
    check = pymc_callbacks.CheckParametersConvergence(every=20, tolerance=1e9, diff="absolute")
    advi.fit(100, callbacks=[tracker, check], **QUIET)
    assert len(advi.hist) == 40
    assert tracker["step"] == [(i, i) for i in range(1, 41)]
    assert tracker["mean"][-1] == advi.approx.mean.eval()


# Learning rates that change between steps


def halve(approx: dvi.Approximation, losses: Any, i: int) -> None:
    if i % 10 == 0:
        assert approx.learning_rate is not None
        approx.learning_rate *= 0.5


def halving(step: int) -> float:
    return 0.08 * 0.5 ** (step // 10)


@pytest.fixture(scope="module")
def scheduled(model: pm.Model) -> tuple[bytes, bytes]:
    advi = dvi.ADVI(model=model, random_seed=1)
    advi.fit(35, obj_optimizer=dvi.adam(halving), **QUIET)
    return bits(advi)


def test_a_learning_rate_set_by_a_callback(
    advi: dvi.ADVI, where: dict[str, Any], scheduled: tuple[bytes, bytes]
) -> None:
    advi.fit(35, obj_optimizer=dvi.adam(0.08), callbacks=[halve], **where)
    assert bits(advi) == scheduled
    assert advi.approx.learning_rate == 0.01


def test_a_learning_rate_that_is_a_shared_variable(
    advi: dvi.ADVI, where: dict[str, Any], scheduled: tuple[bytes, bytes]
) -> None:
    rate = pytensor.shared(0.08)

    def set_shared(approx: Any, losses: Any, i: int) -> None:
        if i % 10 == 0:
            rate.set_value(rate.get_value() / 2)

    advi.fit(35, obj_optimizer=dvi.adam(learning_rate=rate), callbacks=[set_shared], **where)
    assert bits(advi) == scheduled


def test_a_factor_set_by_a_callback_stays_when_refining(advi: dvi.ADVI, scheduled: tuple[bytes, bytes]) -> None:
    advi.fit(15, obj_optimizer=dvi.adam(0.08), callbacks=[halve], **QUIET)
    advi.refine(20)
    assert bits(advi) == scheduled


def test_a_callback_scales_what_is_left_of_a_schedule(model: pm.Model) -> None:
    ours, theirs = (dvi.ADVI(model=model, random_seed=1) for _ in range(2))
    ours.fit(35, obj_optimizer=dvi.sgd(dvi.schedules.Cosine(1e-4, 35)), callbacks=[halve], **QUIET)
    cosine = dvi.schedules.Cosine(1e-4, 35)
    theirs.fit(35, obj_optimizer=dvi.sgd(lambda step: cosine(step) * 0.5 ** (step // 10)), **QUIET)
    np.testing.assert_allclose(ours.hist, theirs.hist, rtol=1e-9)


@pytest.mark.parametrize("rate", [0.0, -0.1, np.nan, np.inf])
def test_a_learning_rate_that_is_not_allowed(advi: dvi.ADVI, rate: float) -> None:
    with pytest.raises(ArgumentError, match=r"learning_rate=.* was set from a callback"):
        advi.fit(5, callbacks=[lambda approx, *_: setattr(approx, "learning_rate", rate)], **QUIET)


def test_a_learning_rate_that_falls_on_a_plateau_has_the_same_bits_everywhere(model: pm.Model, client: Client) -> None:
    schedule = dvi.schedules.ReduceOnPlateau(0.05, patience=20, window=5)
    threads, cluster = (dvi.ADVI(model=model, random_seed=1) for _ in range(2))
    threads.fit(200, obj_optimizer=dvi.adam(schedule), **QUIET)
    cluster.fit(200, obj_optimizer=dvi.adam(schedule), client=client, progressbar=False)
    assert bits(threads) == bits(cluster)
    assert threads._state is not None
    assert threads._state.rate[0] < 0.5


def test_a_client_that_is_not_the_default_one(advi: dvi.ADVI, scheduled: tuple[bytes, bytes]) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        advi.fit(35, client=client, obj_optimizer=dvi.adam(0.08), callbacks=[halve], progressbar=False)
    assert bits(advi) == scheduled


# What a step is made of


def test_more_draws_a_step_have_the_same_mean_and_less_noise(model: pm.Model) -> None:
    still: dict[str, Any] = {"obj_optimizer": dvi.sgd(1e-15), **QUIET}
    losses = {}
    for draws in (1, 16):
        advi = dvi.ADVI(model=model, random_seed=1, start_sigma={"mu": 1.0})
        losses[draws] = advi.fit(400, obj_n_mc=draws, **still).hist
    one, many = losses.values()
    assert many.var() < one.var() / 5
    error = np.sqrt(one.var() / 400 + many.var() / 400)
    assert abs(one.mean() - many.mean()) < 4 * error


def test_a_longest_gradient_bounds_each_step(advi: dvi.ADVI) -> None:
    thetas = [advi.approx.theta]
    record = [lambda approx, *_: thetas.append(approx.theta)]
    advi.fit(20, callbacks=record, obj_optimizer=dvi.sgd(0.1), total_grad_norm_constraint=2.0, **QUIET)
    lengths = np.linalg.norm(np.diff(thetas[:17], axis=0), axis=1)  # until the average begins
    assert lengths.max() == pytest.approx(0.2)


def test_an_objective_that_is_not_finite(model: pm.Model) -> None:
    @dataclass
    class Broken:
        left: int

        def work(self, Z: Any, score: Any) -> None:
            """Nothing to share."""

        def gradient(self, *arguments: Any) -> Any:
            self.left -= 1
            value, gradient = Elbo("stl").gradient(*arguments)
            return (value, gradient) if self.left else (np.nan, gradient)

    inference = dvi.Inference(dvi.MeanField(model=model), Broken(4))
    with pytest.raises(NonFiniteError, match="the objective is nan at step 4"):
        inference.fit(10, callbacks=[lambda *_: None], **QUIET)
    assert len(inference.hist) == 3
    assert no_threads_left()


# Data that change


def test_replaced_data_are_those_of_one_fit() -> None:
    y, other = (dvi.Minibatch(data, batch_size=200) for data in (Y, Y + 5))
    with pm.Model() as own:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=y)
    advi = dvi.ADVI(model=own, random_seed=1)
    means = [
        advi.fit(1500, more_replacements=more, **QUIET).mean.eval()[0] for more in (None, {y: other}, {y: other}, None)
    ]
    np.testing.assert_allclose(means - Y.mean(), [0, 5, 5, 0], atol=0.05)


def test_ordinary_data_are_replaced_too() -> None:
    with pm.Model() as own:
        data = pm.Data("data", Y)
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=data)
    advi = dvi.ADVI(model=own, random_seed=1)
    means = [advi.fit(1500, more_replacements=more, **QUIET).mean.eval()[0] for more in ({data: Y + 5}, None)]
    np.testing.assert_allclose(means - Y.mean(), [5, 0], atol=0.05)


@pytest.mark.parametrize("again", ["fit", "refine"])
def test_data_that_are_set_are_read_by_the_next_steps(again: str) -> None:
    y = dvi.Minibatch(Y, batch_size=200)
    with pm.Model() as own:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=y)
    advi = dvi.ADVI(model=own, random_seed=1)
    advi.fit(1500, **QUIET)
    y.set_value(Y[:700] + 5)
    advi.refine(1500) if again == "refine" else advi.fit(1500, **QUIET)
    assert advi.approx.mean.eval()[0] == pytest.approx(Y[:700].mean() + 5, abs=0.1)
    assert advi.approx.run["data"][0]["n_rows"] == 700


@pytest.mark.parametrize("again", ["fit", "refine"])
def test_ordinary_data_that_are_set_are_read_by_the_next_steps(again: str) -> None:
    with pm.Model() as own:
        data = pm.Data("data", Y)
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=data)
    advi = dvi.ADVI(model=own, random_seed=1)
    advi.fit(1500, **QUIET)
    pm.set_data({"data": Y[:700] + 5}, model=own)
    advi.refine(1500) if again == "refine" else advi.fit(1500, **QUIET)
    assert advi.approx.mean.eval()[0] == pytest.approx(Y[:700].mean() + 5, abs=0.1)


# Without


def test_no_model_no_fit(model: pm.Model) -> None:
    approx = dvi.MeanField(model=model)
    approx.model = None
    with pytest.raises(ModelError, match="has no model"):
        dvi.Inference(approx)


def test_an_error_while_compiling_leaves_blas_and_threads_as_they_were(
    advi: dvi.ADVI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def fail(*_: Any, **__: Any) -> Callable[..., Any]:
        raise MemoryError

    with threadpool_limits(2):
        before = [pool["num_threads"] for pool in threadpool_info()]
        monkeypatch.setattr(compiling, "_build", fail)
        with pytest.raises(MemoryError):
            advi.fit(5, progressbar=False, threads=3)
        assert [pool["num_threads"] for pool in threadpool_info()] == before
    assert no_threads_left()
