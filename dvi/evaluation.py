"""The log joint density of a model and its score over all rows, wherever they are, and the ELBO that follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dvi.execution.lane import Problem, plan_problem
from dvi.execution.opening import open_driver
from dvi.model.graph import SplitModel, split
from dvi.progress import Measure, Progress
from dvi.types import Driver, Evaluation, Family, FloatArray, Round, State, StepInfo, Work

if TYPE_CHECKING:
    import pymc as pm

type LogDensityFunction = Callable[[FloatArray], FloatArray]

_ROUND_BYTES = 64_000_000  # of the scores that all leaves return
_ROUND_TERMS = 4e9  # rows times draws: about a minute on one core
_LEAST_DRAWS = 16  # of a round, where memory allows: reading the rows then takes less time than using them
_PRIOR_BLOCKS = 16  # of the draws, where a model has no batches and its prior term is all there is to share
_LOG_JOINT = Measure("log joint density", -1)


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


@dataclass(frozen=True, eq=False)
class FullPass:
    """The log joint density of all rows as a training whose steps each evaluate a few of the draws.

    Parameters
    ----------
    Z : array, shape (S, d)
        Draws.
    draws : int
        Draws of a step.
    passes : int
        Steps over whose mean the draws are evaluated; more than one where a step takes a part of other axes too.
    """

    Z: FloatArray
    draws: int
    passes: int

    @property
    def n_steps(self) -> int:
        return self.passes * -(-len(self.Z) // self.draws)

    def initial(self) -> State:
        """The state before the first step: sums of zeros."""
        return State(0, np.empty(0), (np.zeros(len(self.Z)), np.zeros(self.Z.shape)), ())

    def prepare(self) -> None:
        """Nothing: the prior term is evaluated with the data."""

    def following(self, state: State) -> None:
        """Not known."""

    def round(self, state: State) -> Round:
        return Round(state.step % self.passes, self.Z[self._part(state)])

    def step(self, state: State) -> Generator[Round | Work, Any, tuple[State, StepInfo]]:
        found: Evaluation = yield self.round(state)
        logp, score = (slot.copy() for slot in state.slots)
        part = self._part(state)
        logp[part] += found.loglik / self.passes
        score[part] += found.score / self.passes
        value = float(np.add.reduce(found.loglik)) / len(found.loglik)
        return replace(state, step=state.step + 1, slots=(logp, score)), StepInfo(value, found.n_rows)

    def _part(self, state: State) -> slice:
        start = state.step // self.passes * self.draws
        return slice(start, start + self.draws)


def evaluate_all(
    parts: SplitModel, Z: FloatArray, client: Any = None, threads: int | None = None, progressbar: bool = True
) -> tuple[FloatArray, FloatArray]:
    """Log joint densities ``(S,)`` and scores ``(S, d)`` of the full data at draws ``Z (S, d)``.

    Rows are read chunk by chunk, once where the scores of all draws fit into 64 MB. The bits are the same for any
    number of threads and workers.

    Parameters
    ----------
    parts : SplitModel
    Z : array, shape (S, d)
    client, threads, progressbar
        As in :func:`dvi.diagnose`.
    """
    problem = whole_problem(parts)
    training = FullPass(Z, round_draws(problem, Z.shape[1]), passes_of(problem))
    if training.n_steps == 1:
        problem = replace(problem, cache_bytes=0)  # nothing is read again
    driver = open_driver(training, problem, client, threads)
    try:
        state = _run(driver, training, problem, progressbar)
    finally:
        driver.close()
    logp, score = state.slots
    return logp, score


def whole_problem(parts: SplitModel) -> Problem:
    """A problem whose every step reads all rows and evaluates the prior term, in as many lanes as the data allow."""
    planned = plan_problem(parts.terms, None, 0).terms
    return Problem(
        tuple(term.taking(term.plan.n_rows) for term in planned), parts.prior, 1 if planned else _PRIOR_BLOCKS
    )


def round_draws(problem: Problem, d: int) -> int:
    """Draws of one round. The rule: 64 MB of scores, 4e9 rows times draws, at least 16 draws if those fit, and 1."""
    rows = max((term.plan.n_rows for term in problem.terms), default=1)
    by_memory = int(_ROUND_BYTES // (8 * (d + 1) * len(problem.leaves)))
    return max(1, min(by_memory, max(_LEAST_DRAWS, int(_ROUND_TERMS // rows))))


def passes_of(problem: Problem) -> int:
    """Steps until every element of the other axes of which a step takes a part was taken."""
    ratios = [n / size for t in problem.terms for n, size in zip(t.picks.lengths, t.picks.sizes, strict=True)]
    return math.ceil(max(ratios, default=1))


def _run(driver: Driver, training: FullPass, problem: Problem, progressbar: bool) -> State:
    state, losses = training.initial(), np.empty(0)
    n_rows = max((t.plan.n_rows for t in problem.terms), default=0)
    with Progress(
        training.n_steps, enabled=progressbar, n_rows=n_rows, n_lanes=len(problem.leaves), measure=_LOG_JOINT
    ) as progress:
        driver.check(state)
        while state.step < training.n_steps:
            report = driver.advance(state, 1)
            if report.interrupted:
                raise KeyboardInterrupt
            state, losses = report.state, np.append(losses, -report.objectives)
            progress.update(len(report.objectives), losses, report.n_rows, driver.n_hosts, times=report.times)
    return state


def log_joint(model: pm.Model, more_replacements: Mapping[Any, Any] | None = None) -> LogDensityFunction:
    """The log joint density ``(S,)`` at unconstrained draws ``(S, d)``, every row of every Minibatch read once.

    Parameters
    ----------
    model : pm.Model
    more_replacements : mapping, optional
        As in :func:`dvi.fit`.
    """
    parts = split(model, more_replacements=more_replacements)

    def evaluate(Z: FloatArray) -> FloatArray:
        nonlocal parts
        if parts.stale:
            parts = split(model, more_replacements=more_replacements)
        return evaluate_all(parts, Z, progressbar=False)[0]

    return evaluate


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
