"""The pure half of a variational fit: where to evaluate next, and what to make of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dvi.errors import NonFiniteError
from dvi.inference.averaging import TailAverage
from dvi.inference.elbo import Elbo
from dvi.inference.optimizers import total_norm_constraint
from dvi.randomness import keyed_generator
from dvi.types import Evaluation, Family, FloatArray, Kernel, Optimizer, Round, State, StepInfo

_NOISE_SIZE = 2**16  # normal numbers drawn at once
_NOISE_STEPS = 64


@dataclass(frozen=True, eq=False)
class VariationalTraining:
    """Stochastic gradient ascent on the evidence lower bound of a Gaussian family.

    Parameters
    ----------
    family : Family
    elbo : Elbo
        The gradient estimator.
    optimizer : Optimizer
    averaging : TailAverage
    prior : Kernel
        Everything in the log density that does not depend on a batch.
    draws : int
        Monte Carlo draws of each step, ``S``.
    seed : int
    max_norm : float or None
        Longest gradient that is used as it is; None never clips, because clipping biases the posterior.
    origin : int
        Step from which the optimizer counts its own steps.
    """

    family: Family
    elbo: Elbo
    optimizer: Optimizer
    averaging: TailAverage
    prior: Kernel
    draws: int
    seed: int
    max_norm: float | None = None
    origin: int = 0

    def initial(self, theta: FloatArray) -> State:
        """The state before the first step."""
        return State(self.origin, theta, self.optimizer.init(theta), self.averaging.init(theta))

    def prepare(self) -> None:
        """Compile the prior term."""
        prepare = getattr(self.prior, "prepare", None)
        if prepare is not None:
            prepare()

    def noise(self, step: int) -> FloatArray:
        """Standard normal numbers ``(S, noise_dim)`` of one step: a pure function of seed and step."""
        d = self.family.noise_dim
        steps = max(1, min(_NOISE_STEPS, _NOISE_SIZE // (self.draws * d)))
        drawn: FloatArray = _noise(self.seed, step // steps, steps, self.draws, d)[step % steps]
        return drawn

    def round(self, state: State) -> Round:
        """Draws from the current approximation."""
        return Round(state.step, self.family.draw(state.theta, self.noise(state.step)))

    def apply(self, state: State, evaluation: Evaluation) -> tuple[State, StepInfo]:
        """One step of the optimizer on the gradient that an evaluation implies."""
        eps = self.noise(state.step)
        logp, score = self.prior(self.family.draw(state.theta, eps))
        if evaluation.n_rows:
            logp, score = logp + evaluation.loglik, score + evaluation.score
        value, gradient = self.elbo.gradient(self.family, state.theta, eps, logp, score)
        if not np.isfinite(value):
            raise NonFiniteError(
                f"the ELBO is {value} at step {state.step + 1}: the log density of priors, potentials and ordinary "
                "observed variables is not finite there; check their values, or lower the learning rate"
            )
        loss_gradient = -gradient
        if self.max_norm is not None:
            loss_gradient = total_norm_constraint(loss_gradient, self.max_norm)
        theta, slots = self.optimizer.update(state.step - self.origin, state.theta, loss_gradient, state.slots)
        average = self.averaging.update(state.step, theta, state.average)
        return State(state.step + 1, theta, slots, average), StepInfo(value, evaluation.n_rows)

    def result(self, state: State) -> FloatArray:
        """Parameters ``(p,)`` to report: the average over the tail once there is one."""
        return self.averaging.value(state.theta, state.average)


@lru_cache(maxsize=4)
def _noise(seed: int, block: int, steps: int, draws: int, d: int) -> Any:
    return keyed_generator(seed, "noise", block).standard_normal((steps, draws, d))
