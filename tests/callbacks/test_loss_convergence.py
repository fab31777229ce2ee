"""A fit ends when its mean loss no longer falls, and neither noise nor a lucky value decides that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.callbacks import CheckLossConvergence
from dvi.callbacks.loss_convergence import level
from dvi.errors import ArgumentError
from dvi.types import FloatArray


def end_of(check: CheckLossConvergence, losses: FloatArray) -> int | None:
    """The step at which a check ends a fit with these losses."""
    for i in range(check.every, len(losses) + 1, check.every):
        try:
            check(None, losses[:i], i)  # type: ignore[arg-type]
        except StopIteration:
            return i
    return None


def noise(seed: int, n: int, dependence: float = 0.0) -> FloatArray:
    """Standard normal losses, each correlated with the one before."""
    fresh = np.random.default_rng(seed).normal(size=n)
    for i in range(1, n):
        fresh[i] = dependence * fresh[i - 1] + np.sqrt(1 - dependence**2) * fresh[i]
    return fresh


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("dependence", [0.0, 0.9])
def test_a_level_loss_ends_the_fit_soon(seed: int, dependence: float) -> None:
    end = end_of(CheckLossConvergence(every=50, window=500, patience=3), noise(seed, 5_000, dependence))
    assert end is not None and 1_100 <= end <= 3_000


@pytest.mark.parametrize("seed", range(10))
def test_a_loss_that_falls_goes_on_until_it_is_level(seed: int) -> None:
    """Half a standard deviation a window is far less than the noise of one step."""
    trend = -0.5 / 500 * np.minimum(np.arange(12_000), 8_000)
    end = end_of(CheckLossConvergence(every=50, window=500), noise(seed, 12_000) + trend)
    assert end is not None and 8_000 < end < 11_000


@pytest.mark.parametrize("lucky", [-1e9, 1e9])
@pytest.mark.parametrize("every", [1, 10])
def test_one_value_does_not_decide(lucky: float, every: int) -> None:
    losses = noise(3, 2_000) - 1.0 / 200 * np.arange(2_000)
    losses[777] = lucky
    assert end_of(CheckLossConvergence(every=every, window=200, patience=3), losses) is None


def test_a_loss_that_rises_ends_the_fit() -> None:
    assert end_of(CheckLossConvergence(every=10, window=100, patience=2), np.arange(1e3)) == 210


def test_equal_losses_end_the_fit_and_say_why() -> None:
    check = CheckLossConvergence(every=10, window=100, patience=1)
    with pytest.raises(StopIteration, match=r"stopped falling at step 200.*fell by 0 with a standard error of 0"):
        check(None, np.full(200, 7.0), 200)  # type: ignore[arg-type]


def test_tolerance_is_in_standard_deviations_or_in_units_of_the_loss() -> None:
    losses = 100.0 * noise(1, 4_000) - 100.0 / 500 * np.arange(4_000)  # falls by 1 sd, or 100 units, a window
    for diff, small, large in (("relative", 0.5, 2.0), ("absolute", 50.0, 200.0)):
        assert end_of(CheckLossConvergence(window=500, tolerance=small, diff=diff), losses) is None  # type: ignore[arg-type]
        assert end_of(CheckLossConvergence(window=500, tolerance=large, diff=diff), losses) == 1_200  # type: ignore[arg-type]


def test_patience_is_of_checks_in_a_row() -> None:
    losses = np.concatenate([np.zeros(200), -np.arange(1.0, 201.0), np.full(200, -201.0), -np.arange(202.0, 402.0)])
    assert end_of(CheckLossConvergence(every=100, window=100, patience=1), losses) == 200
    assert end_of(CheckLossConvergence(every=100, window=100, patience=2), losses) is None  # level at 200, 600


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_is_said_of_windows_with_losses_that_are_not_finite(value: float) -> None:
    losses = np.zeros(1_000)
    losses[150] = value
    assert end_of(CheckLossConvergence(every=10, window=100, patience=1), losses) == 360
    assert end_of(CheckLossConvergence(every=10, window=100), np.full(1_000, value)) is None


def test_another_fit_starts_afresh() -> None:
    check = CheckLossConvergence(every=10, window=100, patience=3)
    assert end_of(check, np.zeros(1_000)) == 220
    assert end_of(check, np.zeros(1_000)) == 220
    assert end_of(check, np.zeros(210)) is None  # two checks
    assert end_of(check, np.zeros(1_000)) == 220


def test_errors_of_dependent_losses_are_those_of_their_means() -> None:
    """The spread of the level over many windows is the error that a window claims."""
    for dependence in (0.0, 0.8):
        levels = [level(noise(seed, 2_000, dependence)) for seed in range(200)]
        spread = np.std([found.centre for found in levels])
        claimed = np.median([found.error for found in levels])
        assert 0.7 < claimed / spread < 1.3
        assert np.mean([found.sd for found in levels]) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    "settings", [{"every": 0}, {"window": 3}, {"window": 10.0}, {"tolerance": -1}, {"diff": "sd"}, {"patience": 0}]
)
def test_settings_that_are_not_allowed(settings: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(settings))):
        CheckLossConvergence(**settings)


def test_repr_says_the_settings() -> None:
    check = CheckLossConvergence(every=5, window=40, tolerance=0.2, diff="absolute", patience=2)
    assert eval(repr(check)).__dict__ == check.__dict__


def test_a_fit_that_has_converged_is_ended() -> None:
    y = dvi.Minibatch(np.random.default_rng(1).normal(3.0, 1.0, 1_000), batch_size=100)
    with pm.Model():
        mu = pm.Normal("mu", 0, 10)
        pm.Normal("y", mu, 1, observed=y)
        check = CheckLossConvergence(every=50, window=300)
        approx = dvi.fit(20_000, random_seed=1, callbacks=[check], progressbar=False)
    assert 600 < len(approx.hist) < 10_000
    assert approx.mean.eval()[0] == pytest.approx(3.0, abs=0.15)
