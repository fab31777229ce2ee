"""The average of the last iterates, which a constant step cannot beat and a decaying one seldom does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dvi.compiled import compiled
from dvi.inference.settings import count, settle
from dvi.types import FloatArray

type State = tuple[FloatArray, ...]


@dataclass(frozen=True, slots=True)
class TailAverage:
    r"""Mean of the iterates from number ``first`` on.

    The mean of :math:`n` iterates is :math:`\bar\theta_n = \bar\theta_{n-1} + (\theta_n - \bar\theta_{n-1}) / n`,
    Welford's form, so that no large sum is ever formed.

    Parameters
    ----------
    first : int
        Number of the first iterate that enters the mean, at least 0; the numbers are those given to ``update``.
    before : int, optional
        Number of the first iterate of an earlier mean, which ends where the other begins, to tell how iterates drift.

    References
    ----------
    Polyak and Juditsky, *Acceleration of stochastic approximation by averaging*, doi:10.1137/0330046.
    Welford, *Note on a method for calculating corrected sums of squares and products*,
    doi:10.1080/00401706.1962.10490022.

    Examples
    --------
    >>> average = TailAverage(first=1)
    >>> state = average.init(np.zeros(1))
    >>> for step, theta in enumerate([7.0, 1.0, 2.0]):
    ...     state = average.update(step, np.array([theta]), state)
    >>> average.value(np.array([2.0]), state)
    array([1.5])
    """

    first: int
    before: int | None = None

    def __post_init__(self) -> None:
        settle(self, first=count("first", self.first, least=0))
        if self.before is not None:
            settle(self, before=count("before", self.before, least=0))

    def init(self, theta: FloatArray) -> State:
        """State for parameters ``theta (p,)``: a mean ``(p,)`` and how many iterates entered it ``()``, for each."""
        n_means = 1 if self.before is None else 2
        return (np.zeros_like(theta), np.zeros(())) * n_means

    def update(self, step: int, theta: FloatArray, state: State) -> State:
        """State after iterate number ``step``, which is ``theta (p,)``. No argument is written to."""
        if step >= self.first:
            return (*_entered(theta, *state[:2]), *state[2:])
        if self.before is not None and step >= self.before:
            return (*state[:2], *_entered(theta, *state[2:]))
        return state

    def value(self, theta: FloatArray, state: State) -> FloatArray:
        """The average ``(p,)``, or the last iterate ``theta (p,)`` itself where none has entered it yet."""
        mean, n = state[:2]
        return mean if n > 0 else theta

    def earlier(self, theta: FloatArray, state: State) -> FloatArray:
        """The average ``(p,)`` before it; ``theta (p,)`` itself where there is none."""
        return state[2] if len(state) > 2 and state[3] > 0 else theta


def _entered(theta: FloatArray, mean: FloatArray, n: FloatArray) -> State:
    count = float(n) + 1.0
    return _towards(theta, mean, count), np.asarray(count)


@compiled
def _towards(theta: FloatArray, mean: FloatArray, count: float) -> FloatArray:
    out = np.empty_like(theta)
    for i in range(theta.size):
        out[i] = (theta[i] - mean[i]) / count + mean[i]
    return out
