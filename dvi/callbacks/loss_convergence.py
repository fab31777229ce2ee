"""A callback that ends a fit whose loss no longer falls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dvi.callbacks.base import Callback
from dvi.errors import ArgumentError
from dvi.inference.settings import count, not_negative
from dvi.types import FloatArray

if TYPE_CHECKING:
    from dvi.approximation import Approximation

_NORMAL_IQR = 1.3489795003921634  # interquartile range of a normal distribution in standard deviations
_MEDIAN_ERROR = math.sqrt(math.pi / 2)  # standard error of a median in standard errors of the mean, for normal values


@dataclass(frozen=True, slots=True)
class Level:
    """Where the losses of a window lie: robust estimates of mean, its standard error, and their standard deviation."""

    centre: float
    error: float
    sd: float


class CheckLossConvergence(Callback):
    r"""Ends the fit once the mean loss has stopped falling.

    Losses of minibatches are noisy and depend on each other. Every ``every`` steps the last two windows of ``window``
    losses are compared: each is cut into about :math:`\sqrt{w}` batches of consecutive losses, and the median of the
    batch means :math:`m`, with a standard error :math:`e` from their spread, stands for the window. So a single value,
    however low or high, has no say. The loss has stopped falling where

    .. math::

        m_1 - m_2 \le \max\left(\delta, \sqrt{e_1^2 + e_2^2}\right)

    for the older window 1 and the newer window 2: the fall is below the tolerance :math:`\delta` or cannot be told from
    noise. The fit ends after ``patience`` such checks in a row.

    Parameters
    ----------
    every : int
        Steps between two checks.
    window : int
        Losses in a window, at least 4. The first check is after two windows.
    tolerance : float
        Fall from one window to the next that is too small to go on for, at least 0.
    diff : {"relative", "absolute"}
        Whether the tolerance is in standard deviations of the loss of one step, or in units of the loss.
    patience : int
        Checks in a row, at least 1.

    References
    ----------
    Flegal and Jones, *Batch means and spectral variance estimators in Markov chain Monte Carlo*,
    doi:10.1214/09-AOS735, for the errors of means of dependent values.
    Lugosi and Mendelson, *Mean estimation and regression under heavy-tailed distributions*, arXiv:1906.04280, for
    medians of means.

    Examples
    --------
    >>> check = CheckLossConvergence(window=100, tolerance=0.5, patience=1)
    >>> losses = np.random.default_rng(1).normal(size=200)
    >>> check(None, 1e3 - np.arange(200.0), 200)
    >>> try:
    ...     check(None, losses, 200)
    ... except StopIteration as stop:
    ...     print(str(stop)[:44])
    the mean loss has stopped falling at step 20
    """

    def __init__(
        self,
        every: int = 100,
        window: int = 1_000,
        tolerance: float = 0.1,
        diff: Literal["relative", "absolute"] = "relative",
        patience: int = 3,
    ) -> None:
        self.every = count("every", every, 1)
        self.window = count("window", window, 4)
        self.tolerance = not_negative("tolerance", tolerance)
        if diff not in ("relative", "absolute"):
            raise ArgumentError(f"diff={diff!r} is not allowed; give 'relative' or 'absolute'")
        self.diff = diff
        self.patience = count("patience", patience, 1)
        self._step = 0  # of the last check
        self._flat = 0  # checks in a row that found no fall

    def __repr__(self) -> str:
        return (
            f"CheckLossConvergence(every={self.every}, window={self.window}, tolerance={self.tolerance:g}, "
            f"diff={self.diff!r}, patience={self.patience})"
        )

    def __call__(self, approx: Approximation, losses: FloatArray, i: int, /) -> None:
        if i <= self._step:  # another fit
            self._step = self._flat = 0
        if i - self._step < self.every:
            return
        self._step = i
        recent = np.asarray(losses, dtype=np.float64)[-2 * self.window :]
        if len(recent) < 2 * self.window or not np.isfinite(recent).all():  # nothing can be said of such losses
            self._flat = 0
            return
        before, now = level(recent[: self.window]), level(recent[self.window :])
        fall, error = before.centre - now.centre, math.hypot(before.error, now.error)
        least = self.tolerance * (now.sd if self.diff == "relative" else 1.0)
        self._flat = self._flat + 1 if fall <= max(least, error) else 0
        if self._flat >= self.patience:
            self._flat = 0
            raise StopIteration(
                f"the mean loss has stopped falling at step {i}: over the last two windows of {self.window} steps it "
                f"fell by {fall:.3g} with a standard error of {error:.3g}, and the tolerance is {least:.3g}"
            )


def level(losses: FloatArray) -> Level:
    """The level of a window of finite losses ``(w,)``, from the medians and quartiles of batch means.

    The last ones that fill no batch are in the standard deviation only.
    """
    n_batches = math.isqrt(len(losses))
    size = len(losses) // n_batches
    means = losses[: n_batches * size].reshape(n_batches, size).mean(axis=1)
    error = _MEDIAN_ERROR * _robust_sd(means) / math.sqrt(n_batches)
    return Level(float(np.median(means)), error, _robust_sd(losses))


def _robust_sd(values: FloatArray) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) / _NORMAL_IQR
