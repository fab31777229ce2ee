"""Default settings recover posteriors that are known exactly. Tolerances are in posterior standard deviations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytest

import dvi


def conjugate(y: np.ndarray, batch_size: int) -> pm.Model:
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=dvi.Minibatch(y, batch_size=batch_size))
    return model


def exact(y: np.ndarray) -> tuple[float, float]:
    precision = len(y) + 0.01
    return float(y.sum() / precision), precision**-0.5


@pytest.mark.parametrize("batch_size", [100, 10_000])
@pytest.mark.parametrize("settings", [{}, {"obj_n_mc": 5}])
def test_conjugate_normal(batch_size: int, settings: dict[str, Any]) -> None:
    y = np.random.default_rng(1).normal(3.0, 1.0, 10_000)
    mean, sd = exact(y)
    fits = [
        dvi.fit(10_000, model=conjugate(y, batch_size), random_seed=seed, progressbar=False, threads=1, **settings)
        for seed in range(4)
    ]
    errors = np.array([(f.mean.eval()[0] - mean) / sd for f in fits])
    ratios = np.array([f.std.eval()[0] / sd for f in fits])
    assert np.sqrt(np.mean(errors**2)) < 0.15
    assert abs(ratios.mean() - 1) < 0.1


def test_sorted_data_give_the_posterior_of_shuffled_data() -> None:
    y = np.random.default_rng(2).normal(-1.0, 1.0, 200_000)
    mean, sd = exact(y)
    results = []
    for data in (y, np.sort(y)):
        approx = dvi.fit(8000, model=conjugate(data, 4096), random_seed=3, progressbar=False)
        results.append((approx.mean.eval()[0], approx.std.eval()[0]))
    for found, spread in results:
        assert abs(found - mean) < 0.3 * sd
        assert spread == pytest.approx(sd, rel=0.15)


def test_matrix_of_the_quickstart() -> None:
    rng = np.random.default_rng(4)
    data = rng.random((40_000, 100)) * rng.integers(1, 10, size=100) + rng.random(100) * 10
    with pm.Model():
        mu = pm.Normal("mu", 0, 1e5, shape=100)
        sd = pm.HalfNormal("sd", shape=100)
        pm.Normal("likelihood", mu, sd, observed=dvi.Minibatch(data, batch_size=500), total_size=data.shape)
        approx = dvi.fit(20_000, random_seed=5, progressbar=False)
    error = (approx.mean.eval()[:100] - data.mean(axis=0)) / (data.std(axis=0) / 200)
    assert np.sqrt(np.mean(error**2)) < 0.5
    spread = np.exp(approx.mean.eval()[100:])
    np.testing.assert_allclose(spread, data.std(axis=0), rtol=0.02)
    level = -0.5 * np.log(2 * np.pi * np.e * data.var(axis=0)).sum() * len(data)
    assert -approx.hist[-2000:].mean() == pytest.approx(level, rel=0.01)


def test_ragged_chunks_do_not_weigh_more(tmp_path: Any) -> None:
    import dask.array as da

    y = np.concatenate([np.full(1000, 5.0), np.zeros(99_000)])
    ragged = da.from_array(y, chunks=((1000, 50_000, 49_000),))
    with pm.Model():
        x = dvi.Minibatch(ragged, batch_size=2048)
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=x)
        approx = dvi.fit(5000, random_seed=6, progressbar=False)
    mean, sd = exact(y)
    assert abs(approx.mean.eval()[0] - mean) < 0.3 * sd


@pytest.fixture(scope="module")
def regression() -> tuple[pm.Model, np.ndarray, np.ndarray]:
    """A linear regression whose coefficients depend on each other, with the exact mean and covariance of these."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(20_000, 4)) @ np.linalg.cholesky(0.6 * np.ones((4, 4)) + 0.4 * np.eye(4)).T
    y = x @ np.array([1.0, -2.0, 0.5, 0.0]) + rng.normal(size=20_000)
    covariance = np.linalg.inv(x.T @ x + np.eye(4))
    xs, ys = dvi.Minibatch(x, y, batch_size=1000)
    with pm.Model() as model:
        pm.Normal("y", xs @ pm.Normal("b", 0, 1, shape=4), 1.0, observed=ys)
    return model, covariance @ (x.T @ y), covariance


@pytest.mark.parametrize(
    ("method", "settings"),
    [("fullrank_advi", {}), ("lowrank_advi", {"inf_kwargs": {"rank": 3}}),
     ("nfvi", {"inf_kwargs": {"flow": "scale-loc"}}),
     ("advi", {}), ("map", {})],
)  # fmt: skip
@pytest.mark.parametrize("seed", [1, 2])
def test_every_method_on_correlated_coefficients(regression: Any, method: str, settings: Any, seed: int) -> None:
    model, mean, covariance = regression
    approx = dvi.fit(8000, method, model, random_seed=seed, progressbar=False, threads=1, **settings)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((approx.mean.eval() - mean) / sd).max() < 0.35
    if method in ("fullrank_advi", "lowrank_advi"):
        np.testing.assert_allclose(approx.cov.eval() / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.15)
    elif method != "map":  # independent normals of least divergence have the conditional standard deviations
        np.testing.assert_allclose(approx.std.eval(), 1 / np.sqrt(np.diag(np.linalg.inv(covariance))), rtol=0.1)
