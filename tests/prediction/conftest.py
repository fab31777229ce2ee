"""One model and one approximation for all tests of predictions."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.approximation import Approximation
from dvi.prediction import running
from dvi.prediction.grid import Grid
from tests.prediction.cases import D, N, approximation, data


@pytest.fixture(scope="module")
def model() -> pm.Model:
    x, y, counts = dvi.Minibatch(*data(), batch_size=100)
    with pm.Model(coords={"obs": np.arange(N) + 1000}) as made:
        beta = pm.Normal("beta", 0, 1, shape=D)
        sigma = pm.HalfNormal("sigma")
        mu = pm.Deterministic("mu", x @ beta)
        pm.Deterministic("twice", 2 * sigma)
        pm.Normal("y", mu, sigma, observed=y, total_size=N)
        pm.Poisson("counts", pm.math.exp(mu), observed=counts, dims="obs")
        pm.Normal("plain", sigma, 1, observed=np.zeros(4))
    made.x, made.batch_y, made.counts = x, y, counts
    return made


@pytest.fixture(scope="module")
def approx(model: pm.Model) -> Approximation:
    return approximation(model)


@pytest.fixture
def small_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few items of several blocks, of several tiles each."""
    monkeypatch.setattr(running, "grid_of", lambda n_rows, *_, **__: Grid(n_rows, 600, 200, 64))
