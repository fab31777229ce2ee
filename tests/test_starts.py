"""Starts that are found on a few rows: close to the posterior, or the usual ones."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.errors import ArgumentError
from dvi.starts import start_from

N = 50_000


@pytest.fixture(scope="module")
def poisson() -> tuple[pm.Model, np.ndarray, np.ndarray]:
    """A Poisson regression far from its initial point, with the exact mode and standard deviations."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, 3)) * np.array([0.1, 1.0, 3.0])
    y = rng.poisson(np.exp(x @ np.array([4.0, 0.5, -0.3]) + 2.0))
    design, mode = np.column_stack([np.ones(N), x]), np.array([2.0, 4.0, 0.5, -0.3])
    hessian = np.eye(4)
    for _ in range(20):
        rate = np.exp(design @ mode)
        hessian = (design.T * rate) @ design + np.eye(4) / 25
        mode = mode + np.linalg.solve(hessian, design.T @ (y - rate) - mode / 25)
    xs, ys = dvi.Minibatch(x, y, batch_size=1000)
    with pm.Model() as model:
        predictor = pm.Normal("a", 0, 5) + xs @ pm.Normal("b", 0, 5, shape=3)
        pm.Poisson("y", pm.math.exp(predictor), observed=ys)
    return model, mode, np.sqrt(1 / np.diag(hessian))


def test_laplace_finds_the_posterior_of_a_fifth_of_the_rows(poisson: Any) -> None:
    model, mode, sd = poisson
    found = start_from(model, "laplace", seed=1, threads=1)
    np.testing.assert_allclose(found["sigma"], sd, rtol=0.05)  # of all rows, not of those that were read
    away = np.abs(found["mean"] - mode) / sd
    assert away.max() < 10.0  # standard deviations of the posterior of a fifth of the rows are 2.2 times as large
    assert (np.abs(mode) / sd).max() > 500.0


def test_same_bits_for_a_seed(poisson: Any) -> None:
    runs = [start_from(poisson[0], "laplace", seed, threads=threads) for seed, threads in ((1, 1), (1, 2), (2, 1))]
    assert runs[0]["mean"].tobytes() == runs[1]["mean"].tobytes()
    assert runs[0]["sigma"].tobytes() == runs[1]["sigma"].tobytes()
    assert not np.array_equal(runs[0]["mean"], runs[2]["mean"])


def test_all_rows_are_used_where_they_are_few() -> None:
    y = np.random.default_rng(1).normal(3.0, 1.0, 400)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=dvi.Minibatch(y, batch_size=100))
    found = start_from(model, "laplace", seed=1, threads=1)
    assert found["mean"][0] == pytest.approx(y.sum() / 400.01, abs=1e-5)
    assert found["sigma"][0] == pytest.approx(400.01**-0.5, rel=1e-5)


def test_it_is_never_worse_than_the_usual_start() -> None:
    """The density of the effects grows without bound as their scale goes to 0, so the mode is no place to start."""
    with pm.Model() as model:
        tau = pm.HalfNormal("tau", 1.0)
        pm.Normal("effects", 0, tau, shape=20)
    usual = dvi.MeanField(model=model).mean.eval()
    found = start_from(model, "laplace", seed=1, threads=1)
    np.testing.assert_array_equal(found["mean"], usual)
    np.testing.assert_array_equal(found["sigma"], np.full(21, 0.1))


def test_scales_are_kept_where_the_density_is_not_concave() -> None:
    with pm.Model() as model:
        pm.Flat("a")
        pm.Normal("b", 5.0, 0.01)
    found = start_from(model, "laplace", seed=1, sigma=0.3, threads=1)
    np.testing.assert_allclose(found["mean"], [0.0, 5.0], atol=1e-3)
    np.testing.assert_allclose(found["sigma"], [0.3, 0.01], rtol=1e-4)


def test_a_start_that_is_given_is_where_it_sets_out(poisson: Any) -> None:
    model, mode, sd = poisson
    found = start_from(model, "laplace", 1, mean=mode, sigma=sd, threads=1)
    assert (np.abs(found["mean"] - mode) / sd).max() < 10.0


def test_many_dimensions_take_random_directions() -> None:
    scale = np.linspace(0.5, 2.0, 800)
    with pm.Model() as model:
        pm.Normal("x", 1.0, scale)
    found = start_from(model, "laplace", seed=1, threads=1)
    np.testing.assert_allclose(found["sigma"], scale, rtol=1e-4)


def test_pathfinder_gives_the_mean_and_the_curvature_the_scales(poisson: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, mode, sd = poisson
    asked: list[dict[str, Any]] = []
    lengths: list[tuple[int, ...]] = []

    def fit_pathfinder(**settings: Any) -> dict[str, np.ndarray]:
        asked.append(settings)
        lengths.append(model["y"].shape.eval())
        offset = np.array([[-0.01], [0.01]])
        return {"a": mode[0] + offset[:, 0], "b": mode[1:] + offset}

    monkeypatch.setitem(sys.modules, "pymc_extras", SimpleNamespace(fit_pathfinder=fit_pathfinder))
    found = start_from(model, "pathfinder", seed=3, threads=1)
    assert [(a["model"], a["random_seed"]) for a in asked] == [(model, 3)]
    assert lengths[0][0] == 10_000
    np.testing.assert_allclose(found["mean"], mode, atol=1e-12)
    np.testing.assert_allclose(found["sigma"], sd, rtol=0.05)


def test_pathfinder_that_is_not_installed(poisson: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymc_extras", None)
    with pytest.raises(ArgumentError, match=r"needs pymc-extras.*pip install pymc-extras, or give init='laplace'"):
        start_from(poisson[0], "pathfinder", seed=1, threads=1)


def test_another_kind_is_refused(poisson: Any) -> None:
    with pytest.raises(ArgumentError, match="init='map' is not allowed"):
        start_from(poisson[0], "map", seed=1)  # type: ignore[arg-type]
