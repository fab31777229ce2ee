"""Bounded look-ahead over a plan: read, decode, permute, hand out views."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvi.data.plan import Plan
from dvi.data.resident import Block, Budget, ChunkSource, Resident, make_resident
from dvi.data.stopwatch import Stopwatch
from dvi.types import NOWHERE, Rows

__all__ = ["Block", "ChunkSource", "Stream"]

type _Key = tuple[int, tuple[int, int]]  # lane, pool key
type _Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows of a few chunks, which the background is reading: in the order of visits, or to be gathered in it.

    Parameters
    ----------
    arrays : tuple of array
    places : future of array of int64, shape (rows of the pool,), optional
        Where in ``arrays`` the rows are that are visited one after another; None where they lie in that order.
    parts : sequence of future
        Done when all chunks are there.
    """

    arrays: Block
    places: Future[_Numbers] | None
    parts: Sequence[Future[Any]]

    def wait(self) -> _Numbers | None:
        """Where the rows are, once they are there."""
        for part in self.parts:
            part.result()
        return None if self.places is None else self.places.result()

    def cancel(self) -> None:
        """Read no further."""
        for part in self.parts:
            part.cancel()


@dataclass(eq=False)
class Stream:
    """Blocks of rows for any (step, lane), with the next pools loaded in the background.

    Nothing but time depends on what was asked before: an earlier step is simply read again.

    Parameters
    ----------
    source : ChunkSource
    plan : Plan
    background : Executor
        Threads that read ahead, shared by all streams of a host. They begin with what was submitted first.
    budget : Budget
        For decoded chunks that are kept.
    waiting : Stopwatch
        Told how long threads wait for rows that are not there yet.
    """

    source: ChunkSource
    plan: Plan
    background: Executor
    budget: Budget = field(default_factory=Budget)
    waiting: Stopwatch = field(default_factory=Stopwatch)
    _pools: dict[_Key, Pool] = field(default_factory=dict)
    _current: dict[int, tuple[tuple[int, int], Block, _Numbers | None]] = field(default_factory=dict)
    _residents: dict[int, Resident | None] = field(default_factory=dict)
    _always: dict[int, tuple[Rows, ...]] = field(default_factory=dict)
    _scratch: local = field(default_factory=local)

    def rows(self, step: int, lane: int) -> Iterable[Rows]:
        """The rows of ``(step, lane)``, of one pool after another."""
        known = self._always.get(lane)
        return self._rows(step, lane) if known is None else known

    def _rows(self, step: int, lane: int) -> Iterator[Rows]:
        if not self.plan.shuffled(lane) and self._residents.get(lane) is not None:
            found = tuple(self._pieces(step, lane))
            self._always[lane] = found  # views of rows that stay where they are, the same at every step
            yield from found
        else:
            yield from self._pieces(step, lane)

    def _pieces(self, step: int, lane: int) -> Iterator[Rows]:
        for segment in self.plan.segments(step, lane):
            arrays, places = self._pool(lane, segment.epoch, segment.pool)
            if places is None:
                views = tuple(array[segment.start : segment.stop] for array in arrays)
                yield Rows(views, NOWHERE, views)
            else:
                yield Rows(arrays, places[segment.start : segment.stop], self._buffers())

    def blocks(self, step: int, lane: int) -> Iterator[Block]:
        """Yield the rows of ``(step, lane)`` in blocks of at most ``plan.block_rows`` rows.

        A block is good until the same thread asks for another.
        """
        for rows in self.rows(step, lane):
            for start in range(0, len(rows), self.plan.block_rows):
                yield rows.block(start, min(start + self.plan.block_rows, len(rows)))

    def _buffers(self) -> Block:
        """Memory for one block, of each thread its own."""
        found: Block | None = getattr(self._scratch, "buffers", None)
        if found is None:
            found = self._scratch.buffers = self.source.empty(self.plan.block_rows)
        return found

    def _pool(self, lane: int, epoch: int, pool: int) -> tuple[Block, _Numbers | None]:
        plan = self.plan
        key = plan.pool_key(lane, epoch, pool)
        current = self._current.get(lane)
        if current is not None and current[0] == key:
            return current[1:]
        started = time.perf_counter()
        loading = self._pools.get((lane, key)) or self._load(lane, epoch, pool)
        try:
            places = loading.wait()
        except BaseException:
            self._pools.pop((lane, key), None)  # asked again, it is read again
            raise
        self.waiting.add(time.perf_counter() - started)
        self._current[lane] = (key, loading.arrays, places)
        ahead = plan.following(lane, epoch, pool)
        wanted = {(lane, key), (lane, plan.pool_key(lane, *ahead))}
        if not wanted <= self._pools.keys():
            self._load(lane, *ahead)
        for stale in [k for k in list(self._pools) if k[0] == lane and k not in wanted]:
            self._pools.pop(stale, None)  # another block of draws of the lane may have been quicker
        return loading.arrays, places

    def _load(self, lane: int, epoch: int, pool: int) -> Pool:
        """Have the chunks of a pool read: each to its place in the resident rows, or scattered over new memory."""
        if lane not in self._residents:
            self._residents[lane] = make_resident(self.source, self.plan, lane, self.budget)
        chunks = self.plan.members(lane, epoch, pool)
        lengths = np.diff(self.plan.starts)[chunks]
        order = self.background.submit(self.plan.order, lane, epoch, pool) if self.plan.shuffled(lane) else None
        resident = self._residents[lane]
        loading = (
            self._scattered(chunks, lengths, order)
            if resident is None
            else self._kept(resident, chunks, lengths, order)
        )
        self._pools[lane, self.plan.pool_key(lane, epoch, pool)] = loading
        return loading

    def _kept(self, resident: Resident, chunks: _Numbers, lengths: _Numbers, order: Future[_Numbers] | None) -> Pool:
        """A pool of resident rows, to be gathered, or a chunk of them as it is."""
        parts = [self.background.submit(resident.read, c) for c in chunks.tolist() if c in resident.missing]
        first = resident.first[chunks]
        if order is None:
            rows = slice(int(first[0]), int(first[0] + lengths[0]))
            return Pool(tuple(array[rows] for array in resident.arrays), None, parts)
        return Pool(resident.arrays, self.background.submit(_places, order, first, lengths), parts)

    def _scattered(self, chunks: _Numbers, lengths: _Numbers, order: Future[_Numbers] | None) -> Pool:
        """A pool in new memory, its rows in the order in which they are visited."""
        ends = np.cumsum(lengths)
        arrays = self.source.empty(int(ends[-1]))
        due = None if order is None else self.background.submit(_inverse, order)
        rows = (slice(end - n, end) for n, end in zip(lengths.tolist(), ends.tolist(), strict=True))
        parts = [
            self.background.submit(_scatter, self.source, chunk, arrays, due, part)
            for chunk, part in zip(chunks.tolist(), rows, strict=True)
        ]
        return Pool(arrays, None, parts)

    def drop(self, lanes: set[int]) -> None:
        """Forget the rows of lanes that are now read elsewhere."""
        for key in [k for k in list(self._pools) if k[0] in lanes]:
            self._pools.pop(key).cancel()
        for lane in lanes:
            self._current.pop(lane, None)
            self._always.pop(lane, None)
            resident = self._residents.pop(lane, None)
            if resident is not None:
                self.budget.give(resident.n_bytes)


# What the background does. A task waits for one that was submitted before it, so it never waits in vain.


def _places(order: Future[_Numbers], first: _Numbers, lengths: _Numbers) -> _Numbers:
    """Where the rows of a pool are in the resident rows, each chunk from its first row on."""
    rows = np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
    return rows[order.result()]


def _inverse(order: Future[_Numbers]) -> _Numbers:
    """The visit at which each row is due."""
    visited = order.result()
    due = np.empty_like(visited)
    due[visited] = np.arange(len(visited))
    return due


def _scatter(source: ChunkSource, chunk: int, arrays: Block, due: Future[_Numbers] | None, rows: slice) -> None:
    """Read a chunk, and put its rows, which are hot in cache, where they are visited."""
    slabs = source.read(chunk)
    where = rows if due is None else due.result()[rows]
    for array, slab in zip(arrays, slabs, strict=True):
        array[where] = slab
