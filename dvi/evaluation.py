"""The log joint density of a model over all rows, and the ELBO that follows from it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dvi.execution.lane import Problem, plan_problem
from dvi.execution.threads import ThreadsExecutor
from dvi.model.compile import LazyKernel
from dvi.model.graph import SplitModel, split
from dvi.types import Family, FloatArray, Round

if TYPE_CHECKING:
    import pymc as pm

type LogDensityFunction = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class ElboEstimate:
    r"""A Monte Carlo estimate of :math:`E_q[\log p(x, z) - \log q(z)]` on the full data.

    Parameters
    ----------
    value : float
    standard_error : float
        Of the value; NaN for one draw.
    draws : int

    Examples
    --------
    >>> float(ElboEstimate(-3.5, 0.1, 1000))
    -3.5
    """

    value: float
    standard_error: float
    draws: int

    def __float__(self) -> float:
        return self.value


def log_joint(model: pm.Model) -> LogDensityFunction:
    """The log joint density ``(S,)`` at unconstrained draws ``(S, d)``, every row of every Minibatch read once.

    Rows are read chunk by chunk, by the threads of this process. Where a Minibatch takes a part of other axes too, the
    mean over an epoch of them is returned.

    Parameters
    ----------
    model : pm.Model
    """
    parts = split(model)

    def evaluate(Z: FloatArray) -> FloatArray:
        nonlocal parts
        if parts.stale:
            parts = split(model)
        total = np.array(LazyKernel(parts.prior)(Z)[0])
        problem = _whole(parts)
        if problem.leaves:
            total += _log_likelihood(problem, Z)
        return total

    return evaluate


def _whole(parts: SplitModel) -> Problem:
    """A problem whose every step reads all rows."""
    planned = plan_problem(parts.terms, None, 0).terms
    return Problem(tuple(replace(t, plan=replace(t.plan, batch_size=t.plan.n_rows)) for t in planned))


def _log_likelihood(problem: Problem, Z: FloatArray) -> FloatArray:
    ratios = [n / size for t in problem.terms for n, size in zip(t.picks.lengths, t.picks.sizes, strict=True)]
    n_steps = math.ceil(max(ratios, default=1))
    executor = ThreadsExecutor(problem, len(os.sched_getaffinity(0)))
    try:
        total: FloatArray = sum((executor.evaluate(Round(i, Z)).loglik for i in range(n_steps)), start=np.zeros(len(Z)))
    finally:
        executor.close()
    return total / n_steps


def estimate_elbo(family: Family, theta: FloatArray, eps: FloatArray, evaluate: LogDensityFunction) -> ElboEstimate:
    """Estimate the ELBO from noise ``eps (S, noise_dim)``.

    Parameters
    ----------
    family : Family
    theta : array, shape (p,)
    eps : array, shape (S, noise_dim)
    evaluate : callable
        The log joint density ``(S,)`` of the full data at draws ``(S, d)``.
    """
    values = evaluate(family.draw(theta, eps)) - family.log_q(theta, eps)
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return ElboEstimate(float(np.mean(values)), error, len(values))
