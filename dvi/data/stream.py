"""Bounded look-ahead over a plan: read, decode, permute, hand out views."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dvi.data.picks import aligned_empty
from dvi.data.plan import Plan
from dvi.types import AnyArray

type Block = tuple[AnyArray, ...]  # rows of every array of a source, C-contiguous views of one pool
type _Key = tuple[int, tuple[int, int]]  # lane, pool key


class ChunkSource(Protocol):
    """What a stream reads from."""

    def read(self, chunk: int) -> Block: ...


def load_pool(source: ChunkSource, plan: Plan, lane: int, epoch: int, pool: int) -> Block:
    """Read the chunks of a pool and permute their rows into new arrays, each chunk while it is hot in cache.

    Returns
    -------
    tuple of arrays, each of shape (rows of the pool, ...)
    """
    planned = plan.pool(lane, epoch, pool)
    lengths = np.diff(plan.starts)[list(planned.chunks)]
    ends = np.cumsum(lengths)
    pooled: list[AnyArray] = []
    for chunk, length, end in zip(planned.chunks, lengths.tolist(), ends.tolist(), strict=True):
        slabs = source.read(chunk)
        if not pooled:
            pooled = [aligned_empty((int(ends[-1]), *slab.shape[1:]), slab.dtype) for slab in slabs]
        start = end - length
        if planned.order is None:
            for out, slab in zip(pooled, slabs, strict=True):
                out[start:end] = slab
            continue
        places = np.flatnonzero((planned.order >= start) & (planned.order < end))
        picked = planned.order[places] - start
        for out, slab in zip(pooled, slabs, strict=True):
            out[places] = slab.take(picked, axis=0)
    return tuple(pooled)


@dataclass(eq=False)
class Stream:
    """Blocks of rows for any (step, lane), with the next pools loaded in the background.

    Nothing but time depends on what was asked before: an earlier step is simply read again.

    Parameters
    ----------
    source : ChunkSource
    plan : Plan
    background : ThreadPoolExecutor
        One thread that reads ahead, shared by all streams of a host.
    """

    source: ChunkSource
    plan: Plan
    background: ThreadPoolExecutor
    _pools: dict[_Key, Future[Block]] = field(default_factory=dict)

    def blocks(self, step: int, lane: int) -> Iterator[Block]:
        """Yield the rows of ``(step, lane)`` in blocks of at most ``plan.block_rows`` rows."""
        segments = self.plan.segments(step, lane)
        for segment in segments:
            arrays = self._pool(lane, segment.epoch, segment.pool)
            for start in range(segment.start, segment.stop, self.plan.block_rows):
                stop = min(start + self.plan.block_rows, segment.stop)
                yield tuple(array[start:stop] for array in arrays)

    def _pool(self, lane: int, epoch: int, pool: int) -> Block:
        plan = self.plan
        key = (lane, plan.pool_key(lane, epoch, pool))
        loading = self._pools.get(key)
        if loading is None:
            loading = self._load(lane, epoch, pool)
        try:
            arrays = loading.result()
        except BaseException:
            self._pools.pop(key, None)  # asked again, it is read again
            raise
        ahead = plan.following(lane, epoch, pool)
        wanted = {key, (lane, plan.pool_key(lane, *ahead))}
        for stale in [k for k in list(self._pools) if k[0] == lane and k not in wanted]:
            self._pools.pop(stale, None)  # another block of draws of the lane may have been quicker
        if not wanted <= self._pools.keys():
            self._load(lane, *ahead)
        return arrays

    def _load(self, lane: int, epoch: int, pool: int) -> Future[Block]:
        key = (lane, self.plan.pool_key(lane, epoch, pool))
        loading = self.background.submit(load_pool, self.source, self.plan, lane, epoch, pool)
        self._pools[key] = loading
        return loading

    def drop(self, lanes: set[int]) -> None:
        """Forget the pools of lanes that are now read elsewhere."""
        for key in [k for k in list(self._pools) if k[0] in lanes]:
            self._pools.pop(key).cancel()
