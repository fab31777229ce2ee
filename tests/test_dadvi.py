"""Deterministic inference: what it finds, where it runs, how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pymc as pm
import pytest
from distributed import Client, LocalCluster

import dvi
from dvi.dadvi import DADVI
from dvi.errors import ArgumentError, ArgumentTypeError

QUIET: dict[str, Any] = {"progressbar": False, "threads": 1}


def regression(kind: str, n: int = 20_000, d: int = 4) -> pm.Model:
    """Correlated predictors and a response of one of two kinds, in batches."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(n, d)) @ np.linalg.cholesky(0.6 * np.ones((d, d)) + 0.4 * np.eye(d)).T
    eta = x @ np.array([1.0, -0.8, 0.5, 0.0]) - 0.3
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(np.int8) if kind == "logistic" else rng.poisson(np.exp(eta))
    xs, ys = dvi.Minibatch(x, y, batch_size=1000)
    with pm.Model() as model:
        predictor = pm.Normal("a", 0, 5) + xs @ pm.Normal("b", 0, 5, shape=d)
        if kind == "logistic":
            pm.Bernoulli("y", logit_p=predictor, observed=ys)
        else:
            pm.Poisson("y", pm.math.exp(predictor), observed=ys)
    return model


@pytest.fixture(scope="module")
def logistic() -> pm.Model:
    return regression("logistic")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers in this process."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def fitted(logistic: pm.Model) -> dvi.Approximation:
    return DADVI(model=logistic, random_seed=1).fit(**QUIET)


@pytest.mark.parametrize("kind", ["logistic", "poisson"])
def test_it_finds_what_many_stochastic_steps_find(kind: str) -> None:
    model = regression(kind)
    found = DADVI(model=model, random_seed=1).fit(**QUIET)
    assert found.run["dadvi"]["converged"]
    assert len(found.hist) == found.run["dadvi"]["steps"] <= 25
    assert (np.diff(found.hist) <= 1e-6).all()
    slow = dvi.fit(10_000, model=model, random_seed=2, **QUIET)
    assert np.abs((found.mean.eval() - slow.mean.eval()) / found.std.eval()).max() < 0.15
    np.testing.assert_allclose(found.std.eval(), slow.std.eval(), rtol=0.1)
    assert found.elbo(2000, random_seed=1).value > slow.elbo(2000, random_seed=1).value - 0.1


def test_seeds_differ_by_no_more_than_few_draws_leave_out(logistic: pm.Model, fitted: dvi.Approximation) -> None:
    many = DADVI(model=logistic, random_seed=2).fit(obj_n_mc=200, **QUIET)
    assert np.abs((many.mean.eval() - fitted.mean.eval()) / many.std.eval()).max() < 0.01
    np.testing.assert_allclose(many.std.eval(), fitted.std.eval(), rtol=0.01)


def test_same_bits_everywhere(logistic: pm.Model, fitted: dvi.Approximation, client: Client) -> None:
    threads = DADVI(model=logistic, random_seed=1).fit(progressbar=False, threads=2)
    cluster = DADVI(model=logistic, random_seed=1).fit(progressbar=False, client=client)
    for other in (threads, cluster):
        assert other.theta.tobytes() == fitted.theta.tobytes()
        assert other.hist.tobytes() == fitted.hist.tobytes()
        assert other.run["dadvi"] == fitted.run["dadvi"]


def test_full_rank_has_the_covariance(logistic: pm.Model) -> None:
    found = DADVI(model=logistic, full_rank=True, random_seed=1).fit(**QUIET)
    reference = dvi.fit(10_000, "fullrank_advi", logistic, random_seed=1, **QUIET)
    sd = found.std.eval()
    np.testing.assert_allclose(reference.cov.eval() / np.outer(sd, sd), found.cov.eval() / np.outer(sd, sd), atol=0.1)
    with pytest.raises(ArgumentError, match="obj_n_mc=8 is too few for a covariance of 5 dimensions"):
        DADVI(model=logistic, full_rank=True).fit(obj_n_mc=8, **QUIET)


def test_models_without_batches_and_with_scales() -> None:
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    with pm.Model():
        tau = pm.HalfCauchy("tau", 5)
        theta = pm.Normal("theta", shape=8)
        pm.Normal("y", pm.Normal("mu", 0, 5) + tau * theta, 12.0, observed=y)
        approx = DADVI(random_seed=1).fit(**QUIET)
        slow = dvi.fit(20_000, random_seed=2, **QUIET)
    assert approx.run["dadvi"]["converged"]
    assert np.abs((approx.mean.eval() - slow.mean.eval()) / slow.std.eval()).max() < 0.3
    assert approx.elbo(20_000, random_seed=1).value > slow.elbo(20_000, random_seed=1).value - 0.1


def test_callbacks_and_refine(logistic: pm.Model) -> None:
    inference = DADVI(model=logistic, random_seed=1)
    seen: list[tuple[int, int]] = []

    def stop(approx: dvi.Approximation, losses: np.ndarray, i: int) -> None:
        seen.append((i, len(losses)))
        if i == 3:
            raise StopIteration("enough")

    approx = inference.fit(callbacks=[stop], **QUIET)
    assert seen == [(1, 1), (2, 2), (3, 3)]
    assert approx.run["dadvi"]["reason"] == "stopped by a callback"
    assert not approx.run["dadvi"]["converged"]
    inference.fit(2, **QUIET)
    assert len(approx.hist) == 5
    assert inference.refine(None, progressbar=False).run["dadvi"]["converged"]
    steps = len(approx.hist)
    assert len(inference.refine(5).hist) == steps  # there is nothing left to do


def test_an_interruption_keeps_what_was_found(logistic: pm.Model) -> None:
    def interrupt(approx: Any, losses: Any, i: int) -> None:
        if i == 2:
            raise KeyboardInterrupt

    inference = DADVI(model=logistic, random_seed=1)
    approx = inference.fit(callbacks=[interrupt], **QUIET)
    assert len(approx.hist) == 2
    assert approx.run["dadvi"]["reason"] == "interrupted"
    np.testing.assert_array_equal(approx.theta, inference.approx.theta)
    assert inference.fit(**QUIET).run["dadvi"]["converged"]


def test_a_fit_until_convergence_honours_its_limits(logistic: pm.Model) -> None:
    most = DADVI(model=logistic, random_seed=1).fit(None, max_steps=2, **QUIET)
    assert (len(most.hist), most.run["dadvi"]["reason"]) == (2, "the number of steps is used up")
    late = DADVI(model=logistic, random_seed=1).fit(None, max_seconds=1e-9, **QUIET)
    assert (len(late.hist), late.run["dadvi"]["reason"]) == (1, "max_seconds are over")
    assert not late.run["dadvi"]["converged"]


def test_new_data_are_seen() -> None:
    y = dvi.Minibatch(np.random.default_rng(1).normal(3.0, 1.0, 5000), batch_size=500)
    with pm.Model():
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=y)
        inference = DADVI(random_seed=1)
        inference.fit(**QUIET)
        y.set_value(np.full(600, -2.0))
        approx = inference.refine(20)
    assert approx.mean.eval()[0] == pytest.approx(-2.0 * 600 / 600.01, abs=1e-5)
    assert approx.std.eval()[0] == pytest.approx(600.01**-0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"obj_n_mc": 7}, ArgumentError, "obj_n_mc=7 is odd"),
        ({"obj_optimizer": dvi.adam()}, ArgumentTypeError, "obj_optimizer has no use"),
        ({"total_grad_norm_constraint": 1.0}, ArgumentTypeError, "total_grad_norm_constraint has no use"),
        ({"lanes": 2}, ArgumentTypeError, "lanes has no use"),
        ({"tolerance": 0.01}, ArgumentTypeError, "tolerance has no use"),
        ({"staleness": 1}, ArgumentTypeError, "staleness has no use"),
        ({"checkpoint": "run"}, ArgumentTypeError, "checkpoint has no use"),
        ({"steps": 2}, ArgumentTypeError, "unknown keyword 'steps'"),
    ],
)
def test_settings_without_a_meaning_are_refused(
    logistic: pm.Model, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        DADVI(model=logistic).fit(**settings, **QUIET)
