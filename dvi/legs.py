"""Legs: the stages of a run as they are done, and the training of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.inference.averaging import TailAverage
from dvi.inference.curvature import MOST_DIMENSIONS, Whitened
from dvi.inference.optimizers import adam
from dvi.inference.schedules import Cosine
from dvi.inference.training import VariationalTraining
from dvi.inference.units import InUnits
from dvi.stages import Stage
from dvi.types import Family, FloatArray, Kernel, Objective, Optimizer

_TAIL = 0.2  # part of the steps whose iterates are averaged
_PEAK_RATE = 0.05
_FINAL_RATE = 0.01  # of the peak
_BETA2 = 0.99  # a shorter memory than Adam's usual: gradients shrink by orders of magnitude as the scales do
_WITH_MEAN_FIRST = (MeanFieldFamily, FullRankFamily, LowRankFamily)


@dataclass(frozen=True, slots=True, eq=False)
class Leg:
    """A stage at its place in a run.

    Parameters
    ----------
    steps : int
    begun : int
        Step at which it began.
    origin : int
        Step from which the optimizer counts its own.
    units : array, shape (p,), optional
        Sizes of bold steps of the parameters.
    basis : array, shape (d, d), optional
        See :class:`~dvi.stages.Stage`.
    """

    steps: int
    begun: int
    origin: int
    units: FloatArray | None = None
    basis: FloatArray | None = None

    @property
    def end(self) -> int:
        """Step at which it ends."""
        return self.begun + self.steps


@dataclass(frozen=True, slots=True, eq=False)
class Trainer:
    """What the trainings of all legs of a run have in common.

    Parameters
    ----------
    family : Family
    objective : Objective
    optimizer : Optimizer or None
        That of the user; None for Adam with a step that decays along half a cosine over each leg.
    prior, draws, seed, max_norm, points, lenient, delayed
        As in :class:`~dvi.inference.training.VariationalTraining`.
    """

    family: Family
    objective: Objective
    optimizer: Optimizer | None
    prior: Kernel | None
    draws: int
    seed: int
    max_norm: float | None
    points: FloatArray | None
    lenient: bool = False
    delayed: bool = False

    def leg(self, stage: Stage, theta: FloatArray, begun: int, origin: int) -> Leg:
        """A stage that begins with parameters ``theta (p,)``. Units of the mean are 1 where a basis has them."""
        if self.optimizer is not None or stage.spread is None:
            return Leg(stage.steps, begun, origin)
        spread = stage.spread if stage.basis is None else np.ones_like(stage.spread)
        return Leg(stage.steps, begun, origin, self.family.units(theta, spread), stage.basis)

    def training(self, leg: Leg) -> VariationalTraining:
        """The training of a leg."""
        tail = max(1, round(_TAIL * leg.steps))
        before = max(leg.begun, leg.end - 2 * tail)
        return VariationalTraining(
            self.family, self.objective, self.optimizer or _default(leg), TailAverage(leg.end - tail, before=before),
            self.prior, self.draws, self.seed, self.max_norm, leg.origin, self.points,
            before if self.optimizer is None and self._learns_curvature() else None, self.lenient, self.delayed,
        )  # fmt: skip

    def _learns_curvature(self) -> bool:
        """Whether draws come in pairs, and the first parameters are the mean of a family of few dimensions."""
        paired = self.draws % 2 == 0 and self.points is None
        return paired and self.family.ndim <= MOST_DIMENSIONS and isinstance(self.family, _WITH_MEAN_FIRST)


def _default(leg: Leg) -> Optimizer:
    """The optimizer of a leg, in its units."""
    optimizer: Optimizer = adam(Cosine(_PEAK_RATE, steps=leg.steps, final=_FINAL_RATE), beta2=_BETA2)
    if leg.units is not None:
        optimizer = InUnits(optimizer, leg.units)
    return optimizer if leg.basis is None else Whitened(optimizer, leg.basis)
