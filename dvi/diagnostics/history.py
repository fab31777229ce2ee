"""Whether the losses at the end of a fit are still falling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dvi.types import FloatArray

_PART = 10  # the last tenth of the steps
_BATCHES = 20
_LEAST = 5 * _BATCHES  # losses; of fewer nothing is said


@dataclass(frozen=True, slots=True)
class Trend:
    """The fall of the mean loss over the last tenth of the steps.

    Parameters
    ----------
    fall : float
        Above 0 where the loss falls, in its own units.
    error : float
        Standard error of the fall.
    """

    fall: float
    error: float

    @property
    def falling(self) -> bool:
        """Whether the fall is more than noise."""
        return self.fall > 4.0 * self.error


def recent_trend(losses: FloatArray) -> Trend | None:
    """Fit a line to 20 batch means of the last tenth of the losses ``(steps,)``. None for fewer than 1,000 steps.

    Means of batches are nearly independent of each other where single losses are not.

    References
    ----------
    Flegal and Jones, *Batch means and spectral variance estimators in Markov chain Monte Carlo*,
    doi:10.1214/09-AOS735.

    Examples
    --------
    >>> trend = recent_trend(np.linspace(100.0, 0.0, 5000))
    >>> round(trend.fall, 1), trend.falling
    (10.0, True)
    """
    window = losses[-(len(losses) // _PART) :] if len(losses) >= _PART else losses[:0]
    if len(window) < _LEAST or not np.isfinite(window).all():
        return None
    size = len(window) // _BATCHES
    means = window[-_BATCHES * size :].reshape(_BATCHES, size).mean(axis=1)
    x = np.linspace(-0.5, 0.5, _BATCHES) * (_BATCHES - 1) / _BATCHES  # in windows
    slope = float(x @ means / (x @ x))
    residual = means - means.mean() - slope * x
    return Trend(-slope, math.sqrt(float(residual @ residual) / (_BATCHES - 2) / float(x @ x)))
