"""Bounded look-ahead over a plan: read, decode, permute, hand out views."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvi.data.plan import Plan
from dvi.data.resident import Block, Budget, ChunkSource
from dvi.data.stopwatch import Stopwatch
from dvi.types import AnyArray, Slab, Span

__all__ = ["Block", "ChunkSource", "Stream"]

type _Numbers = NDArray[np.int64]
type Scatter = Callable[[AnyArray, _Numbers, AnyArray], None]  # array[where] = rows


def assign(array: AnyArray, where: _Numbers, rows: AnyArray) -> None:
    """Put rows where they are due, as NumPy does."""
    array[where] = rows


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows of a few chunks in the order of visits, which the background is reading.

    Parameters
    ----------
    parts : tuple of future
        Done when all chunks are there.
    arrays : tuple of array, optional
        Where the rows go; None where they are the result of the only part.
    stays : bool
        Whether the rows stay in memory.
    n_bytes : int
        What they take of the budget.
    """

    parts: tuple[Future[Any], ...]
    arrays: Block | None
    stays: bool
    n_bytes: int

    def wait(self) -> Block:
        """The rows, once they are there."""
        results = [part.result() for part in self.parts]
        rows: Block = results[0] if self.arrays is None else self.arrays
        return rows

    def cancel(self) -> None:
        """Read no further."""
        for part in self.parts:
            part.cancel()


@dataclass(eq=False)
class Stream:
    """Rows for any (step, lane), with the next pools loaded in the background.

    Nothing but time depends on what was asked before: an earlier step is simply read again.

    Parameters
    ----------
    source : ChunkSource
    plan : Plan
    background : Executor
        Threads that read ahead, shared by all streams of a host. They begin with what was submitted first.
    budget : Budget
        For pools that are kept.
    waiting : Stopwatch
        Told how long threads wait for rows that are not there yet.
    scatter : callable
        Puts rows ``(n, ...)`` where they are due in an array: ``scatter(array, where, rows)``.
    """

    source: ChunkSource
    plan: Plan
    background: Executor
    budget: Budget = field(default_factory=Budget)
    waiting: Stopwatch = field(default_factory=Stopwatch)
    scatter: Scatter = assign
    _pools: dict[tuple[int, int], Pool] = field(default_factory=dict)  # by lane and number
    _current: dict[int, tuple[int, Slab]] = field(default_factory=dict)
    _kept: dict[int, dict[int, Slab]] = field(default_factory=dict)  # of each lane, the pools that are there to stay
    _lock: Lock = field(default_factory=Lock, repr=False)

    def kept(self, lane: int) -> list[Slab] | None:
        """The rows of every pool of a lane, where all of them are in memory to stay."""
        known = self._kept.get(lane, {})
        n_pools = self.plan.n_pools(lane)
        return [known[pool] for pool in range(n_pools)] if len(known) == n_pools else None

    def blocks(self, step: int, lane: int) -> Iterator[Block]:
        """Yield the rows of ``(step, lane)`` as views, in blocks of at most ``plan.block_rows`` rows."""
        size = self.plan.block_rows
        for slab, first, last in self.spans(step, lane):
            for start in range(first, last, size):
                yield Span(slab, start, min(start + size, last)).rows

    def ahead(self, lane: int) -> None:
        """Have the first pool of a lane read, where every step takes all rows and it was not kept since the last."""
        if not (0 in self._kept.get(lane, ()) or self.plan.shuffled(lane)):
            self._loading(lane, 0)

    def spans(self, step: int, lane: int) -> Iterator[Span]:
        """The rows of ``(step, lane)``, of one pool after another."""
        for pool, start, stop, following in self.plan.segments(step, lane):
            current = self._current.get(lane)
            if current is None or current[0] != pool:
                current = None  # the memory of the last is that of the following, from here on
                current = self._current[lane] = pool, self._slab(lane, pool, following)
            yield Span(current[1], start, stop)
        if not self.plan.shuffled(lane):  # nothing is needed before the next step
            self._current.pop(lane, None)
            self._keep(lane, ())

    def _slab(self, lane: int, pool: int, following: int) -> Slab:
        """The rows of a pool. Forgets others that do not stay, and has the following one loaded, in their place."""
        slab = self._kept.get(lane, {}).get(pool) or self._wait(lane, pool)
        self._current.pop(lane, None)
        self._keep(lane, (pool, following))
        if following > pool or self.plan.shuffled(lane):
            self._loading(lane, following)
        return slab

    def _wait(self, lane: int, pool: int) -> Slab:
        """The rows of a pool, once they are there."""
        started = time.perf_counter()
        loading = self._loading(lane, pool)
        try:
            slab = Slab.of(loading.wait())
        except BaseException:
            self._forget(lane, pool)  # asked again, it is read again
            raise
        self.waiting.add(time.perf_counter() - started)
        if loading.stays:
            self._kept.setdefault(lane, {})[pool] = slab
        return slab

    def _keep(self, lane: int, pools: tuple[int, ...]) -> None:
        """Forget all pools of a lane but these and those that stay."""
        for other in [key[1] for key, known in list(self._pools.items()) if key[0] == lane and not known.stays]:
            if other not in pools:
                self._forget(lane, other)

    def _loading(self, lane: int, pool: int) -> Pool:
        """A pool that was asked for, now or before: by another thread perhaps, for other draws."""
        with self._lock:
            known = self._pools.get((lane, pool))
            if known is None:
                known = self._pools[lane, pool] = self._load(lane, pool)
            return known

    def _load(self, lane: int, pool: int) -> Pool:
        """Have a pool read: its rows to where they are visited, or its only chunk as it is."""
        chunks, n_rows = self.plan.members(lane, pool), self.plan.pool_rows(lane, pool)
        arrays = self.source.empty(n_rows) if self.plan.shuffled(lane) else None
        if arrays is None:
            parts: list[Future[Any]] = [self.background.submit(self.source.read, int(chunk)) for chunk in chunks]
        else:
            due = self.background.submit(_due, self.plan, lane, pool)
            ends = np.append(0, np.cumsum(np.diff(self.plan.starts)[chunks])).tolist()
            parts = [
                self.background.submit(_read, self.source, chunk, arrays, due, slice(*part), self.scatter)
                for chunk, part in zip(chunks.tolist(), pairwise(ends), strict=True)
            ]
        n_bytes = 0 if arrays is None and self.source.whole is not None else n_rows * self.source.row_nbytes
        stays = self.budget.take(n_bytes)
        return Pool(tuple(parts), arrays, stays, n_bytes if stays else 0)

    def _forget(self, lane: int, pool: int) -> Pool | None:
        known = self._pools.pop((lane, pool), None)  # another block of draws of the lane may have been quicker
        if known is not None:
            self.budget.give(known.n_bytes)
        return known

    def drop(self, lanes: set[int]) -> None:
        """Forget the rows of lanes that are now read elsewhere."""
        for lane, pool in [key for key in self._pools if key[0] in lanes]:
            if (known := self._forget(lane, pool)) is not None:
                known.cancel()
        for lane in lanes:
            self._current.pop(lane, None)
            self._kept.pop(lane, None)


# What the background does. A task waits for one that was submitted before it, so it never waits in vain.


def _due(plan: Plan, lane: int, pool: int) -> _Numbers:
    """The visit at which each row of the concatenated chunks of a pool is due."""
    visited = plan.order(lane, pool)
    due = np.empty_like(visited)
    due[visited] = np.arange(len(visited))
    return due


def _read(source: ChunkSource, chunk: int, arrays: Block, due: Future[_Numbers], rows: slice, scatter: Scatter) -> None:
    """Read a chunk, and put its rows, which are hot in cache, where they are visited."""
    where = due.result()[rows]
    for array, slab in zip(arrays, source.read(chunk), strict=True):
        scatter(array, where, slab)
