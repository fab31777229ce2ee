"""How many steps to do, in which units, and when it is enough: plans of stages, told how each of them came out."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from dvi.errors import DviWarning
from dvi.inference.curvature import whitening
from dvi.settings import Settings
from dvi.types import FloatArray

logger = logging.getLogger(__name__)

_EARLY = (0.1, 0.2)  # parts of a fit: one finds the place and the scales, one the curvature there
_LEAST = 1000  # steps of the first stage of a fit without an end
_AHEAD = 12.0  # times the drift over the last two fifths, where steps are small, is what a whole stage may still move
_WORST = 4.0  # of the tolerance, for a single dimension


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """Steps with one learning-rate schedule, whose last iterates are averaged.

    Parameters
    ----------
    steps : int
    spread : array, shape (d,), optional
        Sizes of bold steps of the mean; 1 for all by default.
    basis : array, shape (d, d), optional
        In its columns, directions and sizes of equally bold steps of the mean, where the curvature is known.
    """

    steps: int
    spread: FloatArray | None = None
    basis: FloatArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Where a stage has come to.

    Parameters
    ----------
    steps : int
        Steps of the approximation so far.
    mean, std : array, shape (d,)
    drift : array, shape (d,)
        How far the mean still moved at the end.
    curvature : tuple of array
        Sums over pairs of draws, see :mod:`dvi.inference.curvature`; empty where it was not learned.
    n_pairs : int
        In these sums.
    seconds : float
        Since the run began.
    """

    steps: int
    mean: FloatArray
    std: FloatArray
    drift: FloatArray
    curvature: tuple[FloatArray, ...] = ()
    n_pairs: int = 0
    seconds: float = 0.0


type Plan = Generator[Stage, Outcome, None]


def early_steps(n: int) -> tuple[int, ...]:
    """Steps of the stages before the last."""
    return tuple(int(part * n) for part in _EARLY)


def fixed(n: int, early: Sequence[int]) -> Plan:
    """``n`` steps: short stages to find the place and the scales, and a long one in units of these.

    Parameters
    ----------
    n : int
    early : sequence of int
        Steps of the short stages; none for a single stage, as for an optimizer that the user has set up.
    """
    ends = np.minimum(np.cumsum([0, *early, n]), n)
    first, *later = (int(steps) for steps in np.diff(ends) if steps)
    stage = Stage(first)
    for steps in later:
        stage = next_stage(steps, (yield stage))
    yield stage


def until_converged(settings: Settings) -> Plan:
    """Stages of which each is twice as long as the one before, until two of them agree.

    Two stages agree if their means differ by no more than ``tolerance`` posterior standard deviations, and their
    standard deviations by no more than that factor: in root mean square, and by no more than four times it in any
    dimension. As the second is the more accurate one, its own error is less.
    """
    stage = Stage(_LEAST)
    before: Outcome | None = None
    start: int | None = None
    while True:
        after = yield stage
        start = after.steps - stage.steps if start is None else start
        if before is not None:
            shift, ratio = difference(before, after)
            logger.info("after %d steps the mean has moved by %.3g sd, the scales by %.3g", after.steps, shift, ratio)
            if max(shift, ratio) <= settings.tolerance:
                return
        before = after
        left = settings.max_steps - (after.steps - start)
        late = settings.max_seconds is not None and after.seconds >= settings.max_seconds
        if left <= 0 or late:
            _warn(after, settings, "max_seconds" if late else "max_steps")
            return
        stage = next_stage(min(2 * stage.steps, left), after)


def next_stage(steps: int, after: Outcome) -> Stage:
    """A stage in the units, and where the curvature is known the directions, that the one before has found."""
    basis = None
    if after.curvature and (after.std > 0).all():
        with threadpool_limits(limits=1):  # OpenBLAS splits its sums by its thread count
            basis = whitening(after.curvature, after.n_pairs, after.std, _AHEAD * after.drift)
    return Stage(steps, next_spread(after), basis)


def next_spread(after: Outcome) -> FloatArray:
    """Sizes of bold steps of the mean ``(d,)``: a standard deviation, or what is left to go where that is more."""
    spread = np.maximum(after.std, _AHEAD * np.abs(after.drift))
    return np.where(spread > 0, spread, 1.0)


def difference(before: Outcome, after: Outcome) -> tuple[float, float]:
    """How far apart two outcomes are: their means in standard deviations, and the logarithms of these."""
    scale = np.where(after.std > 0, after.std, 0.01 * (1.0 + np.abs(after.mean)))
    shift = np.abs(after.mean - before.mean) / scale
    both = (after.std > 0) & (before.std > 0)
    ratio = np.abs(np.log(after.std[both] / before.std[both]))
    return _size(shift), _size(ratio)


def _size(values: FloatArray) -> float:
    if not len(values):
        return 0.0
    return max(math.sqrt(float(np.mean(values**2))), float(values.max()) / _WORST)


def _warn(after: Outcome, settings: Settings, limit: str) -> None:
    warnings.warn(
        f"the fit was stopped by {limit} after {after.steps} steps, before two stages agreed to tolerance="
        f"{settings.tolerance}; call refine(None) to go on, or give a larger {limit}",
        DviWarning,
        stacklevel=2,
    )
