"""Converged particles lie in tight groups, of which many make up one mode."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dvi.inference.weights import importance_log_weights

MASS = np.array([0.2, 0.8])


def density(Z: np.ndarray) -> np.ndarray:
    """Two normal modes of sd 1, twelve sds apart in the first dimension."""
    near = stats.norm.logpdf(Z[:, :1], [-6.0, 6.0]) + np.log(MASS)
    return np.logaddexp(*near.T) + stats.norm.logpdf(Z[:, 1:]).sum(axis=1)


def grouped(d: int, group: int) -> np.ndarray:
    """Particles ``(n, d)``: normal quantiles or draws about each mode, ``group`` of them all but equal."""
    rng = np.random.default_rng(1)
    n = 60 if d == 1 else 200
    one = stats.norm.ppf((np.arange(n) + 0.5) / n)[:, None] if d == 1 else rng.normal(size=(n, d))
    places = np.concatenate([one - 6.0 * np.eye(d)[0], one + 6.0 * np.eye(d)[0]])
    return np.repeat(places, group, axis=0) + 1e-6 * rng.normal(size=(len(places) * group, d))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("group", [1, 30])
def test_a_mode_of_many_groups_has_its_mass(d: int, group: int) -> None:
    Z = grouped(d, group)
    weights = np.exp(importance_log_weights(Z, density(Z), density))
    assert weights.sum() == pytest.approx(1)
    assert weights[Z[:, 0] < 0].sum() == pytest.approx(MASS[0], abs=0.01)


def test_without_the_density_groups_stay_apart() -> None:
    Z = grouped(1, 30)
    weights = np.exp(importance_log_weights(Z, density(Z)))
    assert len(np.unique(weights.round(12))) > 2
