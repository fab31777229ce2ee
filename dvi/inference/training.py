"""The pure half of a variational fit: where to evaluate next, and what to make of it."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from dvi.compiled import all_finite
from dvi.errors import NonFiniteError
from dvi.inference.averaging import TailAverage
from dvi.inference.curvature import empty_sums, with_pairs
from dvi.inference.norms import total_norm_constraint
from dvi.inference.optimizers import learning_rate_of
from dvi.inference.schedules import ObservingSchedule, observe, start_rate
from dvi.randomness import keyed_generator
from dvi.types import Family, FloatArray, Kernel, Objective, Optimizer, Round, State, StepInfo, Work

_NOISE_SIZE = 2**16  # normal numbers drawn at once
_NOISE_STEPS = 64


@dataclass(frozen=True, eq=False)
class VariationalTraining:
    """Stochastic gradient ascent on the objective of a family: one step for all methods.

    Parameters
    ----------
    family : Family
    objective : Objective
        The gradient estimator.
    optimizer : Optimizer
    averaging : TailAverage
    prior : Kernel or None
        Everything in the log density that does not depend on a batch; None where it is evaluated with the data.
    draws : int
        Monte Carlo draws of each step, ``S``.
    seed : int
    max_norm : float or None
        Longest gradient that is used as it is; None never clips, because clipping biases the posterior.
    origin : int
        Step from which the optimizer counts its own steps.
    points : array, shape (S, noise_dim), optional
        The same noise at every step, for a family whose draws are its particles.
    curved_from : int, optional
        Step from which the curvature is learned from pairs of draws.
    lenient : bool
        Leave the parameters as they are at a step whose objective or gradient is not finite, and report NaN for it,
        in place of an error.
    delayed : bool
        Evaluate each step at the parameters of one step before, so that it can be asked for before that one is done.
    """

    family: Family
    objective: Objective
    optimizer: Optimizer
    averaging: TailAverage
    prior: Kernel | None
    draws: int
    seed: int
    max_norm: float | None = None
    origin: int = 0
    points: FloatArray | None = None
    curved_from: int | None = None
    lenient: bool = False
    delayed: bool = False

    @cached_property
    def _observes(self) -> bool:
        """Whether the learning rate depends on the losses."""
        return isinstance(learning_rate_of(self.optimizer), ObservingSchedule)

    def initial(self, theta: FloatArray) -> State:
        """The state before the first step."""
        rate = start_rate(learning_rate_of(self.optimizer))
        curvature = () if self.curved_from is None else empty_sums(self.family.ndim)
        average, behind = self.averaging.init(theta), (theta,) if self.delayed else ()
        return State(self.origin, theta, self.optimizer.init(theta), average, rate, curvature, behind)

    def prepare(self) -> None:
        """Compile the prior term."""
        prepare = getattr(self.prior, "prepare", None)
        if prepare is not None:
            prepare()

    def noise(self, step: int) -> FloatArray:
        """Standard normal numbers ``(S, noise_dim)`` of one step: a pure function of seed and step.

        An even number of draws comes in antithetic pairs. Both of a pair see the same rows, so that what the choice of
        rows adds to the gradient of a scale cancels: the standard deviations of a fit on minibatches come out as those
        of a fit on full data.
        """
        if self.points is not None:
            return self.points
        d = self.family.noise_dim
        steps = max(1, min(_NOISE_STEPS, _NOISE_SIZE // max(1, self.draws * d)))
        drawn: FloatArray = _noise(self.seed, step // steps, steps, self.draws, d)[step % steps]
        return drawn

    def round(self, state: State) -> Round:
        """Draws from the current approximation, or from the one before."""
        return self._round(state.step, _evaluated(state))

    def following(self, state: State) -> Round | None:
        """Draws of the step after the next, which are from the current approximation where steps are one behind."""
        return self._round(state.step + 1, state.theta) if state.behind else None

    def _round(self, step: int, theta: FloatArray) -> Round:
        return Round(step, self.family.draw(theta, self.noise(step)))

    def step(self, state: State) -> Generator[Round | Work, Any, tuple[State, StepInfo]]:
        """One step of the optimizer on an estimate of the gradient."""
        eps, theta = self.noise(state.step), _evaluated(state)
        asked = Round(state.step, self.family.draw(theta, eps))
        evaluation = yield asked
        logp, score = evaluation.loglik, evaluation.score
        if self.prior is not None:
            log_prior, prior_score = self.prior(asked.Z)
            logp, score = logp + log_prior, score + prior_score
        work = self.objective.work(asked.Z, score)
        results = [] if work is None else (yield work)
        with np.errstate(over="ignore", invalid="ignore"):
            value, gradient = self.objective.gradient(self.family, theta, eps, logp, score, results)
            finite = math.isfinite(value) and all_finite(gradient)
        if not finite:
            self._refuse(state, value)
            return replace(state, step=state.step + 1, behind=_behind(state)), StepInfo(math.nan, evaluation.n_rows)
        done = self._apply(state, value, -gradient)
        if self.curved_from is not None and state.step >= self.curved_from:
            done = replace(done, curvature=with_pairs(state.curvature, asked.Z, score))
        return done, StepInfo(value, evaluation.n_rows)

    def _refuse(self, state: State, value: float) -> None:
        """Refuse a step that cannot be done, unless it is to be skipped."""
        if not self.lenient:
            raise NonFiniteError(
                f"the objective is {value} at step {state.step + 1}: the log density of priors, potentials and "
                "ordinary observed variables, or its gradient, is not finite there; check their values, or lower the "
                "learning rate"
            )

    def _apply(self, state: State, value: float, loss_gradient: FloatArray) -> State:
        if self.max_norm is not None:
            loss_gradient = total_norm_constraint(loss_gradient, self.max_norm)
        theta, slots = self.optimizer.update(
            state.step - self.origin, state.theta, loss_gradient, state.slots, float(state.rate[0])
        )
        theta.flags.writeable = False
        average = self.averaging.update(state.step, theta, state.average)
        rate = observe(learning_rate_of(self.optimizer), state.rate, -value) if self._observes else state.rate
        return State(state.step + 1, theta, slots, average, rate, state.curvature, _behind(state))

    def learning_rate(self, state: State) -> float:
        """The learning rate of the next step; 1 for an optimizer of other make that has none."""
        rate = learning_rate_of(self.optimizer) or 1.0
        return float(rate(state.step - self.origin) if callable(rate) else rate) * float(state.rate[0])

    def result(self, state: State) -> FloatArray:
        """Parameters ``(p,)`` to report: the average over the tail once there is one."""
        return self.averaging.value(state.theta, state.average)

    def drift(self, state: State) -> FloatArray:
        """How far the mean ``(d,)`` has moved between the average before the tail and that over it."""
        before = self.averaging.earlier(state.theta, state.average)
        return self.family.mean(self.result(state)) - self.family.mean(before)


def _evaluated(state: State) -> FloatArray:
    """The parameters at which the next step is evaluated."""
    return state.behind[0] if state.behind else state.theta


def _behind(state: State) -> tuple[FloatArray, ...]:
    """What is one step behind when the next step is done."""
    return (state.theta,) if state.behind else ()


@lru_cache(maxsize=4)
def _noise(seed: int, block: int, steps: int, draws: int, d: int) -> Any:
    generator = keyed_generator(seed, "noise", block)
    if draws % 2:
        return generator.standard_normal((steps, draws, d))
    half = generator.standard_normal((steps, draws // 2, d))
    return np.concatenate([half, -half], axis=1)
