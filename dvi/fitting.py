"""Inference objects: a method bound to a model, and the one impure loop."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from dvi.approximation import Approximation
from dvi.checkpointing import checkpointing
from dvi.data.digest import digests
from dvi.errors import ArgumentError, ArgumentTypeError, DviWarning, ModelError
from dvi.execution.lane import Problem, plan_problem
from dvi.execution.nonfinite import check_skipped
from dvi.execution.opening import open_driver
from dvi.inference.elbo import Elbo
from dvi.inference.training import VariationalTraining
from dvi.legs import Leg, Trainer
from dvi.memory import check_draws_fit
from dvi.model.compile import LazyKernel
from dvi.model.graph import split
from dvi.pacing import next_block
from dvi.persistence.checkpoints import Checkpoint
from dvi.persistence.writing import CheckpointWriter
from dvi.progress import ELBO, Progress
from dvi.settings import Callback, Settings, make_settings, to_json
from dvi.signals import keyboard_interrupts
from dvi.stages import Outcome, Plan, Stage, early_steps, fixed, until_converged
from dvi.types import Driver, FloatArray, Objective, Report, State
from dvi.underway import Underway, check_same_data, lanes_of, packed

logger = logging.getLogger(__name__)


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
        self._leg: Leg | None = None
        self._outcomes: tuple[Outcome, ...] = ()
        self._begun = 0  # step at which the run began
        self._started = time.monotonic()
        self._finished = False
        self._prior: LazyKernel | None = None
        self._replacements: Mapping[Any, Any] | None = None
        self._settings: Settings | None = None

    def __repr__(self) -> str:
        return f"<dvi.{type(self).__name__}: {self.approx!r}>"

    def _repr_html_(self) -> str:
        return self.approx._repr_html_()

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
        self._state = None
        return self._run(fresh=True)

    def refine(self, n: int | None, progressbar: bool | None = None) -> Approximation:
        """Run ``n`` more steps with the settings of the last fit.

        An optimizer given to :meth:`fit` goes on with its moments and counters; the default one starts another decay
        from the averaged parameters.
        """
        self._settings = replace(self._settings or make_settings(n, {}), n=n)
        if progressbar is not None:
            self._settings = replace(self._settings, progressbar=progressbar)
        return self._run()

    def resume(self, run: Underway, settings: Settings) -> Approximation:
        """Go on with a run that another process had begun. See :func:`dvi.resume`."""
        self._settings = settings
        return self._run(run)

    def _run(self, run: Underway | None = None, *, fresh: bool = False) -> Approximation:
        settings = self._settings
        assert settings is not None
        assert self.approx.model is not None
        if settings.staleness and not isinstance(self._objective, Elbo):
            raise ArgumentError(
                f"staleness={settings.staleness} is for methods that maximise the ELBO; leave it out with "
                f"{type(self).__name__}"
            )
        check_draws_fit(settings.draws or self._draws, self.approx.family, "draws of a step")
        if self._split.stale or settings.more_replacements is not self._replacements:
            self._replacements = settings.more_replacements
            self._split = split(self.approx.model, more_replacements=self._replacements)
        self._prior = None if self._blocks > 1 else LazyKernel(self._split.prior)
        if settings.include_transformed is not None:
            self.approx.include_transformed = settings.include_transformed
        if settings.n == 0:
            return self.approx
        if settings.checkpoint is not None:
            self.recorded()  # refuses what cannot be
        self._leg, self._finished = None, False
        self._begun = len(self.approx.hist) if run is None else run.begun
        self._started = time.monotonic() - (0.0 if run is None else run.seconds)
        with keyboard_interrupts(), checkpointing(settings, self._checkpoint, fresh=fresh) as writer:
            problem = self._problem(settings, run)
            with Progress(
                None if settings.n is None else settings.n - (0 if run is None else run.steps),
                enabled=settings.progressbar, n_rows=max((t.plan.n_rows for t in problem.terms), default=0),
                n_lanes=len(problem.leaves), row_nbytes=sum(t.source.row_nbytes for t in problem.terms),
                measure=self.measure, courses=self.approx.run.setdefault("course", []),
            ) as progress:  # fmt: skip
                self._stages(problem, settings, progress, writer, run)
            self._finish()
        self._tell_of_skipped()
        return self.approx

    def _problem(self, settings: Settings, run: Underway | None) -> Problem:
        """What is evaluated, recorded with the approximation; where a run goes on, it has to be what it was."""
        shared = self._split.prior if self._blocks > 1 else None  # the prior of many particles, evaluated by all hosts
        most = [min(t.batch.source.n_chunks, t.batch.batch_size) for t in self._split.terms]
        lanes = settings.lanes if run is None else lanes_of(self.approx.run, most)
        problem = plan_problem(self._split.terms, lanes, self.approx.run["seed"], shared, self._blocks)
        problem = replace(problem, lenient=settings.on_nonfinite == "skip", cache_bytes=settings.cache_bytes)
        data = [term.source.fingerprint() for term in problem.terms]
        if settings.checkpoint is not None:
            for term, record in zip(problem.terms, data, strict=True):
                for array, content in zip(record["arrays"], digests(term.source), strict=True):
                    array["content"] = content
        plans = [term.settings for term in problem.terms]
        if run is not None:
            check_same_data(self.approx.run, {"data": data, "lanes": plans})
        self.approx.run |= {"data": data, "lanes": plans}
        return problem

    def _tell_of_skipped(self) -> None:
        losses = self.approx.hist[self._begun :]
        skipped = int(np.isnan(losses).sum())
        if skipped:
            warnings.warn(
                f"{skipped} of {len(losses)} steps were skipped, because the log density or its gradient was not "
                "finite there; their loss is NaN",
                DviWarning,
                stacklevel=4,
            )

    def _finish(self) -> None:
        """What a method does once the steps are done."""

    def recorded(self) -> dict[str, Any]:
        """Settings of the method, for :func:`dvi.resume`.

        Raises
        ------
        ArgumentTypeError
            If it is not a method that can be resumed.
        """
        if not isinstance(self._objective, Elbo):
            raise ArgumentTypeError(
                f"a fit of {self._objective!r} cannot be resumed, so it takes no checkpoint; use a method of dvi, or "
                "dvi.callbacks.Checkpoint, which saves approximations"
            )
        return {"name": "elbo", "estimator": self._objective.estimator, "draws": self._draws}

    def _checkpoint(self) -> Checkpoint | None:
        """The run so far, None before its first step."""
        settings, leg, state = self._settings, self._leg, self._state
        if settings is None or leg is None or state is None or state.step != len(self.approx.hist):
            return None
        run = Underway(self._begun, leg, state, self._outcomes, self._seconds(), self._finished)
        record, numbers = packed(run)
        training = {"method": self.recorded(), "settings": to_json(settings), "run": record}
        return Checkpoint.of(self.approx, training, numbers)

    def _keep(self, writer: CheckpointWriter | None) -> None:
        """Have the run so far written."""
        if writer is not None and (latest := self._checkpoint()) is not None:
            writer.put(latest)

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _stages(
        self, problem: Problem, settings: Settings, progress: Progress, writer: CheckpointWriter | None,
        run: Underway | None,
    ) -> None:  # fmt: skip
        """Stage after stage of a plan, which is told how each came out, until it or someone else has enough."""
        plan = _plan(settings, run)
        driver: Driver | None = None
        try:
            outcomes = () if run is None else run.outcomes
            if run is None:
                leg, training, state = self._begin(next(plan), settings)
            else:
                leg, training, state = self._return(run, plan, settings)
            while True:
                self._leg, self._training, self._state, self._outcomes = leg, training, state, outcomes
                if driver is None:
                    driver = open_driver(training, problem, settings.client, settings.threads)
                    driver.check(state)
                else:
                    driver.use(training)
                if not self._steps(driver, state, leg.end, settings, progress, writer):
                    break
                outcome = self._outcome()
                leg, training, state = self._begin(plan.send(outcome), settings)
                outcomes = (*outcomes, replace(outcome, curvature=(), n_pairs=0))
        except StopIteration:
            self._finished = True
        finally:
            self._keep(writer)  # before what may take a while
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
            self._seconds(),
        )

    def _begin(self, stage: Stage, settings: Settings) -> tuple[Leg, VariationalTraining, State]:
        """A stage as a leg of the run, its training, and the state it starts from.

        An optimizer of the user's goes on with its moments and counters. The default one starts again, in the units of
        the stage.
        """
        before, last, trainer = self._state, self._training, self._trainer(settings)
        done, theta = len(self.approx.hist), self.approx.theta
        if before is None or last is None or settings.optimizer is None:
            leg = trainer.leg(stage, theta, done, origin=done)
            training = trainer.training(leg)
            return leg, training, training.initial(theta)
        leg = trainer.leg(stage, theta, done, last.origin)
        training = trainer.training(leg)
        theta = before.theta if np.array_equal(last.result(before), theta) else theta
        return leg, training, replace(before, theta=theta, average=training.averaging.init(theta))

    def _return(self, run: Underway, plan: Plan, settings: Settings) -> tuple[Leg, VariationalTraining, State]:
        """The leg that a run is at, its training and its state. The plan is told what it was told before."""
        next(plan)
        for outcome in run.outcomes:
            plan.send(outcome)
        training = self._trainer(settings).training(run.leg)
        if [a.shape for a in training.optimizer.init(run.state.theta)] != [a.shape for a in run.state.slots]:
            raise ArgumentError("obj_optimizer is not that of the fit: it keeps other arrays; give the same one again")
        self.approx.theta = training.result(run.state)
        return run.leg, training, run.state

    def _trainer(self, settings: Settings) -> Trainer:
        return Trainer(
            self.approx.family, self._objective, settings.optimizer, self._prior, settings.draws or self._draws,
            self.approx.run["seed"], settings.max_norm, self._points, settings.on_nonfinite == "skip",
            settings.staleness == 1,
        )  # fmt: skip

    def _steps(
        self, driver: Driver, state: State, end: int, settings: Settings, progress: Progress,
        writer: CheckpointWriter | None,
    ) -> bool:  # fmt: skip
        """Blocks of steps, history, callbacks and progress, until done (True), stopped or interrupted (False)."""
        block, training = 1, self._training
        assert training is not None
        try:
            while state.step < end:
                started = time.perf_counter()
                report = driver.advance(state, min(block, _due(settings.callbacks, state.step), end - state.step))
                elapsed = time.perf_counter() - started
                done = len(report.objectives)
                block = next_block(block, done, elapsed, report.times)
                self._record(report)
                progress.update(
                    done, self.approx.hist, report.n_rows, driver.n_hosts, training.learning_rate(report.state),
                    report.times,
                )  # fmt: skip
                if report.interrupted:
                    raise KeyboardInterrupt
                state = self._call_back(report.state, settings)
                if writer is not None and writer.is_due():
                    self._keep(writer)
        except KeyboardInterrupt:
            logger.warning("interrupted at step %d; the approximation is as it was there", len(self.approx.hist))
            progress.stopped("interrupted")
            return False
        except StopIteration as stop:
            reason = str(stop.value or stop) or "a callback"
            logger.info("a callback ended the fit at step %d: %s", len(self.approx.hist), reason)
            progress.stopped(reason)
            return False
        return True

    def _record(self, report: Report) -> None:
        assert self._training is not None
        self._state = report.state
        self.approx.update(self._training.result(report.state), -report.objectives)
        check_skipped(self.approx.hist)

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


def _plan(settings: Settings, run: Underway | None) -> Plan:
    """The stages of a run; those that one under way has begun are as long as they were."""
    if settings.n is None:
        return until_converged(settings)
    early = () if settings.optimizer is not None else early_steps(settings.n)
    if run is not None:
        ends = (run.begun, *(outcome.steps for outcome in run.outcomes), run.leg.end)
        early = (*(b - a for a, b in pairwise(ends)), *early[len(ends) - 1 :])
    return fixed(settings.n, early)


def _due(callbacks: tuple[Callback, ...], step: int) -> int:
    """Steps until the next callback: each is called after every step, or every ``callback.every`` steps."""
    return min((_every(c) - step % _every(c) for c in callbacks), default=sys.maxsize)


def _every(callback: Callback) -> int:
    return max(1, int(getattr(callback, "every", 1)))
