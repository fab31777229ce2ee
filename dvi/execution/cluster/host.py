"""Lane hosts, which evaluate. One lives on every worker."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cloudpickle
import numpy as np
from distributed import get_worker

from dvi.data.resident import CACHE_BYTES
from dvi.errors import DataError
from dvi.execution.cluster.lines import Listener, listen
from dvi.execution.cluster.workers import tune_allocator
from dvi.execution.lane import Problem
from dvi.execution.threads import ThreadsExecutor
from dvi.execution.tree import Message, aligned
from dvi.memory import format_bytes
from dvi.types import AnyArray, FloatArray, Round, Work

POOLS_PART = 0.5  # of a worker's memory, of which Dask begins to spill at 0.6
CACHED_PART = 8  # one part of so many, for chunks that are kept

type Piece = dict[str, AnyArray]  # rows of one chunk, by array


def _returning_errors[**P, R](method: Callable[P, R]) -> Callable[P, R | Exception]:
    """A method that returns its errors, so that whatever is raised by a call to a host means that the host is lost."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R | Exception:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            return error

    return wrapped


class LaneHost:
    """Evaluates the lanes it was given, with the threads of its worker. Lives on a worker."""

    def __init__(self, problem: bytes) -> None:
        tune_allocator()
        self._problem: Problem = cloudpickle.loads(problem)
        self._executor: ThreadsExecutor | None = None
        self._leaves = range(0)
        self._pieces: dict[tuple[int, int], Piece] = {}
        self._lock = threading.Lock()  # a line has a thread of its own
        self._listener: Listener | None = None

    def line(self) -> str | None:
        """Where servers on this machine can ask for evaluations, if they can."""
        if self._listener is None:
            self._listener = listen(self.evaluate, get_worker().local_directory)
        return None if self._listener is None else self._listener.path

    def receive(self, term: int, chunk: int, piece: Piece) -> None:
        """Keep the rows of one chunk of arrays that only the client holds."""
        self._pieces[term, chunk] = piece

    @_returning_errors
    def prepare(self, leaves: range, Z: FloatArray) -> None:
        """Compile, take over lanes, and try the likelihood on their first rows.

        Parameters
        ----------
        leaves : range
        Z : array, shape (S, d)
        """
        with self._lock:
            self._prepare(leaves, np.array(Z))

    def _prepare(self, leaves: range, Z: FloatArray) -> None:
        limit = get_worker().memory_manager.memory_limit
        check_memory(self._problem, leaves, limit)
        if self._executor is None:
            threads = max(1, get_worker().state.nthreads)
            kept = CACHE_BYTES if limit is None else min(CACHE_BYTES, limit // CACHED_PART)
            self._executor = ThreadsExecutor(self._problem, threads, kept)
        needed = set(self._problem.chunks(leaves))
        self._pieces = {key: piece for key, piece in self._pieces.items() if key in needed}
        for t, term in enumerate(self._problem.terms):
            if term.source.undelivered:
                held = {chunk: piece for (owner, chunk), piece in self._pieces.items() if owner == t}
                self._executor.evaluator.use(t, term.source.with_pieces(held))
        self._executor.evaluator.drop(set(self._leaves) - set(leaves))
        self._leaves = leaves
        self._executor.check(Round(0, Z), leaves)

    @_returning_errors
    def evaluate(self, step: int, Z: FloatArray) -> Message:
        """Complete subtrees of this host's lanes."""
        assert self._executor is not None
        with self._lock:
            self._executor.spent(0.0)
            started = time.perf_counter()
            evaluations = self._executor.partial(Round(step, np.array(Z)), self._leaves)
            return Message.pack(evaluations, self._executor.spent(time.perf_counter() - started))

    @_returning_errors
    def map(self, work: Work) -> list[Any]:
        """Results of the calls of some work, in order."""
        assert self._executor is not None
        shared = tuple(aligned(x) if isinstance(x, np.ndarray) else x for x in work.shared)
        with self._lock:
            return self._executor.map(replace(work, shared=shared))

    def ping(self) -> None:
        """Answer."""

    def close(self) -> None:
        """Stop listening and reading ahead."""
        if self._listener is not None:
            self._listener.close()
        if self._executor is not None:
            self._executor.close()


def check_memory(problem: Problem, leaves: range, limit: int | None) -> None:
    """Refuse lanes whose pools do not fit the memory of a worker, at which Dask would pause it and then end it.

    Parameters
    ----------
    problem : Problem
    leaves : range
        What the worker is to evaluate.
    limit : int or None
        Bytes that the worker may use; None for any.
    """
    needed = problem.pool_bytes(leaves)
    if limit is None or needed <= POOLS_PART * limit:
        return
    chunks = max(term.source.chunk_nbytes for term in problem.terms)
    lanes = len({problem.leaves[i][:2] for i in leaves})
    raise DataError(
        f"a worker may use {format_bytes(limit)}, of which pools may take {POOLS_PART:.0%}, and its {lanes} lanes "
        f"would hold two pools each, {format_bytes(needed)} in all, of chunks of up to {format_bytes(chunks)}. Store "
        "the data in smaller chunks (dvi.ingest), give more workers or more memory (memory_limit=), or fewer lanes "
        "(lanes=)"
    )
