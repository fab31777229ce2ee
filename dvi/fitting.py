"""Inference objects: a method bound to a model, and the one impure loop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dvi.approximation import Approximation
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError, ModelError
from dvi.execution.lane import Problem, plan_problem
from dvi.execution.opening import open_driver
from dvi.inference.averaging import TailAverage
from dvi.inference.curvature import MOST_DIMENSIONS, Whitened
from dvi.inference.elbo import Elbo
from dvi.inference.optimizers import adam
from dvi.inference.schedules import Cosine
from dvi.inference.training import VariationalTraining
from dvi.inference.units import InUnits
from dvi.model.compile import LazyKernel
from dvi.model.graph import split
from dvi.progress import ELBO, Progress
from dvi.settings import Callback, Settings, make_settings
from dvi.stages import Outcome, Plan, Stage, fixed, until_converged
from dvi.types import Driver, FloatArray, Objective, Report, State

logger = logging.getLogger(__name__)

_BLOCK_SECONDS = 0.5  # of steps between two looks at the client
_TAIL = 0.2  # part of the steps whose iterates are averaged
_PEAK_RATE = 0.05
_FINAL_RATE = 0.01  # of the peak
_WITH_MEAN_FIRST = (MeanFieldFamily, FullRankFamily, LowRankFamily)
_BETA2 = 0.99  # a shorter memory than Adam's usual: gradients shrink by orders of magnitude as the scales do


class Inference:
    """A variational method bound to a model, with all that is needed to go on fitting.

    Parameters
    ----------
    approx : Approximation
        To be improved, with its model.
    objective : Objective, optional
        The ELBO, with the gradient that sticks the landing, by default.
    draws : int
        Draws of a step where ``obj_n_mc`` is not given.
    points : array, shape (S, noise_dim), optional
        The same noise at every step, for a family whose draws are its particles.
    blocks : int
        Parts into which particles are cut, to be evaluated by different threads or workers.

    Attributes
    ----------
    approx : Approximation
        The approximation so far.
    """

    measure = ELBO  # what its history is called, for people

    def __init__(
        self,
        approx: Approximation,
        objective: Objective | None = None,
        *,
        draws: int = 2,
        points: FloatArray | None = None,
        blocks: int = 1,
    ) -> None:
        if approx.model is None:
            raise ModelError("the approximation has no model; load it with dvi.load(store, model=model)")
        self._split = split(approx.model)
        self.approx = approx
        approx.run["measure"] = self.measure.name
        self._objective: Objective = objective if objective is not None else Elbo("stl")
        self._draws, self._points, self._blocks = draws, points, blocks
        self._training: VariationalTraining | None = None
        self._state: State | None = None
        self._prior: LazyKernel | None = None
        self._replacements: Mapping[Any, Any] | None = None
        self._settings: Settings | None = None

    def __repr__(self) -> str:
        return f"<dvi.{type(self).__name__}: {self.approx!r}>"

    @property
    def hist(self) -> FloatArray:
        """Loss of every step: the negative ELBO on the full-data scale, or what the method minimises in its place."""
        return self.approx.hist

    def fit(
        self, n: int | None = 10_000, score: bool | None = None, callbacks: Any = None, **settings: Any
    ) -> Approximation:
        """Run ``n`` steps from where the approximation is. Settings are those of :func:`dvi.fit`.

        Parameters
        ----------
        n : int or None
            Steps; None for as many as it takes.
        score : bool, optional
            Taken as PyMC takes it; the loss of every step is recorded in any case.
        callbacks : list of callables, optional
        **settings
            As in :func:`dvi.fit`.
        """
        self._settings = make_settings(n, {"callbacks": callbacks, **settings})
        if self._settings.include_transformed is not None:
            self.approx.include_transformed = self._settings.include_transformed
        self._state = None
        return self._run(n)

    def refine(self, n: int | None, progressbar: bool | None = None) -> Approximation:
        """Run ``n`` more steps with the settings of the last fit.

        An optimizer given to :meth:`fit` goes on with its moments and counters; the default one starts another decay
        from the averaged parameters.
        """
        self._settings = replace(self._settings or make_settings(n, {}), n=n)
        if progressbar is not None:
            self._settings = replace(self._settings, progressbar=progressbar)
        return self._run(n)

    def _run(self, n: int | None) -> Approximation:
        settings = self._settings
        assert settings is not None
        assert self.approx.model is not None
        if self._split.stale or settings.more_replacements is not self._replacements:
            self._replacements = settings.more_replacements
            self._split = split(self.approx.model, more_replacements=self._replacements)
        self._prior = None if self._blocks > 1 else LazyKernel(self._split.prior)
        if n == 0:
            return self.approx
        shared = self._split.prior if self._blocks > 1 else None  # the prior of many particles, evaluated by all hosts
        run = self.approx.run
        problem = plan_problem(self._split.terms, settings.lanes, run["seed"], shared, self._blocks)
        run["data"] = [term.source.fingerprint() for term in problem.terms]
        run["lanes"] = [term.settings for term in problem.terms]
        with Progress(
            n, enabled=settings.progressbar, n_rows=max((t.plan.n_rows for t in problem.terms), default=0),
            n_lanes=len(problem.leaves), measure=self.measure,
        ) as progress:  # fmt: skip
            if n is not None:
                self._stages(fixed(n, settings.optimizer is not None), problem, settings, progress)
            else:
                self._stages(until_converged(settings), problem, settings, progress)
        self._finish()
        return self.approx

    def _finish(self) -> None:
        """What a method does once the steps are done."""

    def _stages(self, plan: Plan, problem: Problem, settings: Settings, progress: Progress) -> None:
        """Stage after stage of a plan, which is told how each came out, until it or someone else has enough."""
        driver: Driver | None = None
        try:
            stage = next(plan)
            while True:
                state = self._begin(stage, settings)
                assert self._training is not None
                if driver is None:
                    driver = open_driver(self._training, problem, settings.client, settings.threads)
                    driver.check(state)
                else:
                    driver.use(self._training)
                if not self._steps(driver, state, stage.steps, settings, progress):
                    break
                stage = plan.send(self._outcome())
        except StopIteration:
            pass  # the plan is done
        finally:
            if driver is not None:
                driver.close()

    def _outcome(self) -> Outcome:
        """How a stage came out."""
        assert self._training is not None
        assert self._state is not None
        family, theta = self.approx.family, self.approx.theta
        training, state = self._training, self._state
        n_pairs = 0 if training.curved_from is None else (state.step - training.curved_from) * training.draws // 2
        return Outcome(
            len(self.approx.hist),
            family.mean(theta),
            family.std(theta),
            training.drift(state),
            state.curvature,
            n_pairs,
        )

    def _units(self, spread: FloatArray, basis: FloatArray | None) -> FloatArray:
        """Units of the parameters; of the mean they are 1 where a basis has them."""
        return self.approx.family.units(self.approx.theta, spread if basis is None else np.ones_like(spread))

    def _learns_curvature(self, draws: int) -> bool:
        """Whether draws come in pairs, and the first parameters are the mean of a family of few dimensions."""
        family = self.approx.family
        paired = draws % 2 == 0 and self._points is None
        return paired and family.ndim <= MOST_DIMENSIONS and isinstance(family, _WITH_MEAN_FIRST)

    def _begin(self, stage: Stage, settings: Settings) -> State:
        """The training of a stage and the state it starts from.

        An optimizer of the user's goes on with its moments and counters. The default one starts again, in the units of
        the stage.
        """
        before, last = self._state, self._training
        done, n = len(self.approx.hist), stage.steps
        family, theta = self.approx.family, self.approx.theta
        resumed = before is not None and last is not None and settings.optimizer is not None
        optimizer = settings.optimizer or adam(Cosine(_PEAK_RATE, steps=n, final=_FINAL_RATE), beta2=_BETA2)
        if settings.optimizer is None and stage.spread is not None:
            optimizer = InUnits(optimizer, self._units(stage.spread, stage.basis))
        if settings.optimizer is None and stage.basis is not None:
            optimizer = Whitened(optimizer, stage.basis)
        tail = max(1, round(_TAIL * n))
        draws = settings.draws or self._draws
        training = VariationalTraining(
            family, self._objective, optimizer, TailAverage(done + n - tail, before=max(done, done + n - 2 * tail)),
            self._prior, draws, self.approx.run["seed"], settings.max_norm,
            last.origin if resumed and last is not None else done, self._points,
            max(done, done + n - 2 * tail) if settings.optimizer is None and self._learns_curvature(draws) else None,
        )  # fmt: skip
        self._training = training
        if resumed and before is not None and last is not None:
            theta = before.theta if np.array_equal(last.result(before), theta) else theta
            return replace(before, theta=theta, average=training.averaging.init(theta))
        return replace(training.initial(theta), step=done)

    def _steps(self, driver: Driver, state: State, n: int, settings: Settings, progress: Progress) -> bool:
        """Blocks of steps, history, callbacks and progress, until done (True), stopped or interrupted (False)."""
        end, block = state.step + n, 1
        try:
            while state.step < end:
                started = time.perf_counter()
                report = driver.advance(state, min(block, _due(settings.callbacks, state.step), end - state.step))
                elapsed = time.perf_counter() - started
                done = len(report.objectives)
                block = max(1, min(2 * block, int(done * _BLOCK_SECONDS / max(elapsed, 1e-9))))
                self._record(report)
                progress.update(done, self.approx.hist, report.n_rows, driver.n_hosts)
                if report.interrupted:
                    raise KeyboardInterrupt
                state = self._call_back(report.state, settings)
        except KeyboardInterrupt:
            logger.warning("interrupted at step %d; the approximation is as it was there", len(self.approx.hist))
            return False
        except StopIteration as stop:
            logger.info("a callback ended the fit at step %d: %s", len(self.approx.hist), stop.value or stop)
            return False
        return True

    def _record(self, report: Report) -> None:
        assert self._training is not None
        self._state = report.state
        self.approx.update(self._training.result(report.state), -report.objectives)

    def _call_back(self, state: State, settings: Settings) -> State:
        """The state with the learning rate that callbacks ask for. StopIteration ends the fit."""
        due = [c for c in settings.callbacks if state.step % _every(c) == 0]
        if not due:
            return state
        assert self._training is not None
        before = self.approx.learning_rate = self._training.learning_rate(state)
        for callback in due:
            callback(self.approx, self.approx.hist, state.step)
        after = self.approx.learning_rate if settings.live_rate is None else float(settings.live_rate())
        if after != before:
            if not 0 < after < np.inf or before == 0:
                raise ArgumentError(f"learning_rate={after} was set from a callback; set a positive, finite number")
            factor, *rest = state.rate
            state = self._state = replace(state, rate=np.array([factor * after / before, *rest]))
        return state


def _due(callbacks: tuple[Callback, ...], step: int) -> int:
    """Steps until the next callback: each is called after every step, or every ``callback.every`` steps."""
    return min((_every(c) - step % _every(c) for c in callbacks), default=sys.maxsize)


def _every(callback: Callback) -> int:
    return max(1, int(getattr(callback, "every", 1)))
