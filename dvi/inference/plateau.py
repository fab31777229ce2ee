"""A learning rate that falls where the loss no longer does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dvi.errors import ArgumentError
from dvi.inference.settings import count, decay, not_negative, positive, settle
from dvi.types import FloatArray


@dataclass(frozen=True, slots=True)
class ReduceOnPlateau:
    r"""A learning rate that is multiplied by a factor whenever the loss has stopped falling.

    Losses of single steps are noisy, so that means over ``window`` steps are compared. A mean is an improvement where
    it is below the lowest one so far by more than ``tolerance`` times its own standard error, :math:`s / \sqrt{w}` for
    :math:`w` losses with standard deviation :math:`s`. After ``patience`` steps without one, the factor applies.

    Parameters
    ----------
    initial : float
        Learning rate before the first reduction, above 0.
    factor : float
        What is left of the learning rate after a reduction, above 0 and below 1.
    patience : int
        Steps without an improvement after which the learning rate is reduced, at least 1; rounded up to whole windows.
    window : int
        Steps in a mean, at least 1.
    tolerance : float
        Standard errors by which a mean has to fall, at least 0.
    cooldown : int
        Steps after a reduction whose losses are not looked at, at least 0.
    minimum : float
        Lowest learning rate, from 0 to ``initial``.

    Notes
    -----
    It is a function of the losses alone, so that a fit with it has the same bits wherever it runs. It remembers the
    factor, the lowest mean, steps without improvement, steps of cooldown left, and number, mean and sum of squared
    deviations of the losses of the present window (Welford's form). Losses that are not finite are left out.

    References
    ----------
    Welford, *Note on a method for calculating corrected sums of squares and products*,
    doi:10.1080/00401706.1962.10490022.

    Examples
    --------
    >>> schedule = ReduceOnPlateau(0.1, factor=0.5, patience=20, window=10)
    >>> memory = schedule.init()
    >>> for loss in [3.0] * 30:
    ...     memory = schedule.observe(memory, loss)
    >>> schedule(30) * float(memory[0])
    0.05
    """

    initial: float
    factor: float = 0.5
    patience: int = 1_000
    window: int = 100
    tolerance: float = 1.0
    cooldown: int = 0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        settle(
            self,
            initial=positive("initial", self.initial),
            factor=decay("factor", positive("factor", self.factor)),
            patience=count("patience", self.patience, least=1),
            window=count("window", self.window, least=1),
            tolerance=not_negative("tolerance", self.tolerance),
            cooldown=count("cooldown", self.cooldown, least=0),
            minimum=not_negative("minimum", self.minimum),
        )
        if self.minimum > self.initial:
            raise ArgumentError(f"minimum = {self.minimum} is above initial = {self.initial}. Pass at most that.")

    def __call__(self, step: int, /) -> float:
        return self.initial

    def init(self) -> FloatArray:
        return np.array([1.0, math.inf, 0.0, 0.0, 0.0, 0.0, 0.0])

    def observe(self, memory: FloatArray, loss: float) -> FloatArray:
        factor, lowest, waited, rest, n, mean, squares = memory.tolist()
        if rest > 0:
            return np.array([factor, lowest, waited, rest - 1, n, mean, squares])
        if not math.isfinite(loss):
            return memory
        n, before = n + 1, mean
        mean += (loss - mean) / n
        squares += (loss - before) * (loss - mean)
        if n < self.window:
            return np.array([factor, lowest, waited, rest, n, mean, squares])
        error = math.sqrt(squares / max(n - 1, 1) / n)
        if mean < lowest - self.tolerance * error:
            lowest, waited = mean, 0.0
        else:
            waited += n
        if waited >= self.patience:
            factor, waited, rest = max(factor * self.factor, self.minimum / self.initial), 0.0, self.cooldown
        return np.array([factor, lowest, waited, rest, 0.0, 0.0, 0.0])
