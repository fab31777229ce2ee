"""The log joint density of a model over all rows, or over the rows of one step, asked again and again."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from pymc.logprob.utils import ParameterValueError

from dvi.errors import NonFiniteError
from dvi.evaluation import FullPass, passes_of, round_draws, whole_problem
from dvi.execution.lane import Problem, plan_problem
from dvi.execution.opening import open_driver
from dvi.model.graph import SplitModel
from dvi.types import Driver, FloatArray, Report, Times


class Evaluator:
    """Log joint densities and scores at any draws, from one set of open threads or hosts.

    The bits are the same for any number of threads and workers.

    Parameters
    ----------
    problem : Problem
        Of which the prior term is a part.
    passes : int
        Steps over whose mean the draws are evaluated.
    client : distributed.Client, optional
        The active client by default, if there is one.
    threads : int, optional
        Of this process, where no client is used: the cores at hand by default.

    Attributes
    ----------
    n_rows : int
        Rows read since it was made.
    n_passes : int
        Evaluations since it was made, each of which reads all rows of the problem.
    n_hosts : int
        Processes that evaluate lanes.
    times : Times
        Where the time went since it was made.
    """

    def __init__(self, problem: Problem, passes: int, client: Any = None, threads: int | None = None) -> None:
        self.problem = problem
        self.n_rows = self.n_passes = 0
        self.times = Times()
        self._passes, self._client, self._threads = passes, client, threads
        self._driver: Driver | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def n_hosts(self) -> int:
        return 1 if self._driver is None else self._driver.n_hosts

    def __call__(self, Z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Log joint densities ``(S,)`` and scores ``(S, d)`` at draws ``Z (S, d)``.

        Raises
        ------
        NonFiniteError
            Where one of them is not finite.
        KeyboardInterrupt
        """
        training = FullPass(Z, round_draws(self.problem, Z.shape[1]), self._passes)
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused below
                report = self._advance(training)
        except NonFiniteError:
            self.close()  # other threads may still be at the same rows
            raise
        except ParameterValueError as error:
            self.close()
            raise NonFiniteError(
                f"a parameter leaves its range at a draw ({error}); start nearer to the posterior"
            ) from error
        if report.interrupted:
            raise KeyboardInterrupt
        self.n_rows += report.n_rows
        self.times += report.times
        self.n_passes += training.n_steps
        logp, score = report.state.slots
        if not (np.isfinite(logp).all() and np.isfinite(score).all()):
            raise NonFiniteError(
                "the log density of priors, potentials and ordinary observed variables, or its gradient, is not finite "
                "at a draw; check their values, or start nearer to the posterior"
            )
        return logp, score

    def _advance(self, training: FullPass) -> Report:
        state = training.initial()
        if self._driver is None:
            self._driver = open_driver(training, self.problem, self._client, self._threads)
            self._driver.check(state)
        else:
            self._driver.use(training)
        return self._driver.advance(state, training.n_steps)

    def close(self) -> None:
        """End threads and hosts; another call starts them again."""
        if self._driver is not None:
            self._driver.close()
            self._driver = None


def all_rows(parts: SplitModel, client: Any = None, threads: int | None = None) -> Evaluator:
    """The log joint density of the full data.

    Parameters
    ----------
    parts : SplitModel
    client, threads
        As in :class:`Evaluator`.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> from dvi.model.graph import split
    >>> with pm.Model() as model:
    ...     y = dvi.Minibatch(np.zeros(1000), batch_size=100)
    ...     obs = pm.Normal("obs", pm.Normal("mu"), observed=y)
    >>> with all_rows(split(model), threads=1) as evaluate:
    ...     logp, score = evaluate(np.array([[0.5]]))
    >>> score.tolist()
    [[-500.5]]
    """
    problem = whole_problem(parts)
    return Evaluator(problem, passes_of(problem), client, threads)


def some_rows(parts: SplitModel, n_rows: int, seed: int, client: Any = None, threads: int | None = None) -> Evaluator:
    """An unbiased estimate of it from the same few rows at every call, drawn at random.

    Parameters
    ----------
    parts : SplitModel
    n_rows : int
        Of each source, or all where there are fewer.
    seed : int
    client, threads
        As in :class:`Evaluator`.
    """
    planned = plan_problem(parts.terms, None, seed).terms
    return Evaluator(
        Problem(tuple(t.taking(min(n_rows, t.plan.n_rows)) for t in planned), parts.prior), 1, client, threads
    )
