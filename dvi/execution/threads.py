"""Lanes evaluated by the threads of this process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from dvi.data.resident import CACHE_BYTES
from dvi.data.stopwatch import Stopwatch
from dvi.execution.lane import PRIOR, LaneEvaluator, Problem
from dvi.execution.sharing import Sharing
from dvi.execution.stepping import step_of
from dvi.execution.tables import Table
from dvi.execution.tree import Node, assign, height, subtrees
from dvi.types import Evaluation, FloatArray, Report, Round, State, StepInfo, Times, Training, Work


class ThreadsExecutor:
    """Evaluate rounds with the threads of this process.

    Parameters
    ----------
    problem : Problem
    threads : int
        Threads that run kernels. As many read ahead.
    cache_bytes : int
        Rows that are kept between epochs, if the problem does not say.
    """

    def __init__(self, problem: Problem, threads: int, cache_bytes: int = CACHE_BYTES) -> None:
        self.problem = problem
        self._n_leaves = len(problem.leaves)
        self._threads = max(1, threads)
        self._evaluator = LaneEvaluator(problem, self._threads, cache_bytes)
        self._crew = self._evaluator.crew(self._threads - 1)
        self._nodes = lru_cache(maxsize=8)(self._plan_nodes)
        self._sharing: dict[Any, Sharing] = defaultdict(Sharing)  # of the leaves, and of each function that is mapped
        self._limits = threadpool_limits(limits=1)  # OpenBLAS splits its sums by its thread count
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="dvi-lane") if self._threads > 1 else None
        self._idle = Stopwatch()
        self._busy = 1  # threads that evaluate

    @property
    def evaluator(self) -> LaneEvaluator:
        return self._evaluator

    def evaluate(self, round: Round) -> Evaluation:
        """Log likelihood and score of the rows of one step, summed over lanes by the fixed tree."""
        if self._n_leaves == 0:
            return self.problem.empty(round)
        if self._n_leaves == 1:
            return self._evaluator.evaluate(0, round)
        return self.partial(round, range(self._n_leaves))[height(self._n_leaves), 0]

    def check(self, round: Round, leaves: range | None = None) -> None:
        """Refuse a likelihood whose rows are not independent, on the first leaf of each term."""
        seen = set()
        for i in range(self._n_leaves) if leaves is None else leaves:
            term = self.problem.leaves[i].term
            if term not in seen and term != PRIOR:
                self._evaluator.check_rows_independent(i, round.Z[:1])
                seen.add(term)

    def map(self, work: Work) -> list[Any]:
        """Results of the calls of some work, in order."""

        def run(part: range) -> list[Any]:
            return [work.function(*work.shared, item) for item in work.items[part.start : part.stop]]

        return self._spread(len(work.items), run, self._sharing[work.function])

    def partial(self, round: Round, leaves: range) -> dict[Node, Evaluation]:
        """The complete subtrees of some leaves."""
        sums = self._evaluator.zeros(len(leaves), round)

        def run(part: range) -> list[int]:
            at = slice(part.start, part.stop)
            return self._evaluator.add(leaves[at], round, sums[at])

        table = None if self._crew is None else self._evaluator.at_hand(leaves, round.step)
        if table is not None:
            n_rows = self._with_crew(leaves, round, sums, table, self._sharing[self._crew])
        else:
            n_rows = self._spread(len(leaves), run, self._sharing[None])
        return {
            node: self._evaluator.total(leaves[part], round, sums[part], n_rows[part])
            for node, part in self._nodes(leaves).items()
        }

    def _with_crew(self, leaves: range, round: Round, sums: FloatArray, table: Table, sharing: Sharing) -> list[int]:
        """Put the sums of leaves whose rows are at hand into zeros, with the crew or without, whichever is quicker."""
        alone = len(leaves) < 2 or sharing.keep()
        began = time.perf_counter()
        n_rows = self._evaluator.add_held(leaves, round, sums, table, None if alone else self._crew)
        elapsed = time.perf_counter() - began
        sharing.saw(len(leaves), elapsed, None if alone else elapsed)
        self._busy = 1 if alone else self._threads
        return n_rows

    def _plan_nodes(self, leaves: range) -> dict[Node, slice]:
        """The positions of the leaves that make up each subtree of some leaves."""
        found = subtrees(leaves, self._n_leaves).items()
        return {node: slice(r.start - leaves.start, r.stop - leaves.start) for node, r in found}

    def _spread(self, n: int, run: Callable[[range], list[Any]], sharing: Sharing) -> list[Any]:
        """Results of a function of positions below ``n``, of which it is given a run on each thread that pays."""
        own = sharing.own(n, self._threads)
        if self._pool is None or own == n:
            began = time.perf_counter()
            results = run(range(n))
            sharing.saw(n, time.perf_counter() - began)
            self._busy = 1
            return results

        def timed(part: range) -> tuple[list[Any], float, float]:
            began = time.perf_counter()
            return run(part), began, time.perf_counter()

        asked = time.perf_counter()
        parts = assign([1.0] * (n - own), [1] * min(self._threads - 1, n - own))
        rest = [self._pool.submit(timed, range(own + part.start, own + part.stop)) for part in parts]
        results, began, done = timed(range(own))
        busy, delay = done - began, 0.0
        for future in rest:
            more, other_began, other_done = future.result()
            results += more
            busy += other_done - other_began
            delay = max(delay, other_began - asked + max(0.0, time.perf_counter() - max(done, other_done)))
        elapsed = time.perf_counter() - asked
        sharing.saw(n, elapsed, (done - began) / own, delay)
        self._busy = 1 + len(rest)
        self._idle.add(self._busy * elapsed - busy)
        return results

    def spent(self, seconds: float) -> Times:
        """Where the time went since this was last asked, which is some seconds ago."""
        read, wait = self._evaluator.waiting.take() / self._busy, self._idle.take() / self._busy
        return Times(read, max(0.0, seconds - read - wait), wait)

    def close(self) -> None:
        """Stop the threads and give BLAS its own back."""
        self._evaluator.close()
        if self._crew is not None:
            self._crew.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._limits.restore_original_limits()


class ThreadsDriver:
    """Steps of a training in this process.

    Parameters
    ----------
    training : Training
    problem : Problem
    threads : int
    """

    n_hosts = 1

    def __init__(self, training: Training, problem: Problem, threads: int) -> None:
        self._training = training
        beside = ThreadPoolExecutor(1, thread_name_prefix="dvi-compile")
        preparing = beside.submit(training.prepare)  # beside the kernels of the data: compilers are other processes
        beside.shutdown(wait=False)
        self._executor = ThreadsExecutor(problem, threads)
        try:
            preparing.result()
        except BaseException:
            self._executor.close()
            raise

    def check(self, state: State) -> None:
        """Try the likelihood on the first rows before the first step."""
        self._executor.check(self._training.round(state))

    def use(self, training: Training) -> None:
        """Go on with another training of the same problem."""
        self._training = training
        training.prepare()

    def advance(self, state: State, n_steps: int) -> Report:
        """Run ``n_steps`` steps from a state."""
        objectives: list[float] = []
        n_rows, interrupted = 0, False
        last = state
        self._executor.spent(0.0)
        started = time.perf_counter()
        try:
            while len(objectives) < n_steps:
                done, info = self._step(last)
                objectives.append(info.objective)
                last = done  # after the objective, so that an interruption in between loses the step, not its loss
                n_rows += info.n_rows
        except KeyboardInterrupt:
            interrupted = True
        times = self._executor.spent(time.perf_counter() - started)
        return Report(last, np.array(objectives[: last.step - state.step]), n_rows, interrupted, times)

    def _step(self, state: State) -> tuple[State, StepInfo]:
        return step_of(self._training, state, self._answer)

    def _answer(self, request: Round | Work) -> Any:
        return self._executor.map(request) if isinstance(request, Work) else self._executor.evaluate(request)

    def close(self) -> None:
        """Stop the threads."""
        self._executor.close()
