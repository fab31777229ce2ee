"""Which rows each step reads: a pure function of (seed, layout, lanes). No state and no input or output.

Lanes own chunks, strided. In every epoch a lane visits each of its rows once: its chunks in random order, grouped into
pools of a few chunks, the rows of a pool permuted. Batches are cut from the endless sequence of epochs, so a batch may
span two pools. The sum over the rows of a lane is weighted by ``N_l / b_l``: the stratified estimator, unbiased for any
chunk lengths.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvi.errors import ArgumentError
from dvi.randomness import keyed_generator

ROWS_PER_LANE = 1024
MAX_LANES = 64
POOL_BYTES = 64_000_000
BLOCK_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``start`` to ``stop`` of one permuted pool."""

    epoch: int
    pool: int
    start: int
    stop: int


def default_lanes(n_chunks: int, batch_size: int) -> int:
    """Return the number of lanes, the unit of determinism, of a new run.

    The rule: the largest power of two that is at most the number of chunks, ``batch_size // 1024`` and 64, and at
    least 1.
    """
    limit = max(1, min(n_chunks, batch_size // ROWS_PER_LANE, MAX_LANES))
    return int(2 ** np.floor(np.log2(limit)))


def default_pool_chunks(chunk_bytes: int, lanes: int) -> int:
    """Return how many chunks a lane permutes together.

    The rule: as many as keep one pool of every lane within 64 MB in total, and at least one. A second pool per
    lane is loaded ahead.
    """
    return max(1, POOL_BYTES // max(1, chunk_bytes * lanes))


def default_block_rows(row_bytes: int) -> int:
    """Return how many rows a kernel evaluates at once.

    The rule: about 1 MB with eight float64 temporaries a row, so that a block and what is computed from it stay in
    the L2 cache; a multiple of 64, at least 256 and at most 16384.
    """
    rows = BLOCK_BYTES // (row_bytes + 64)
    return int(min(16384, max(256, rows // 64 * 64)))


def share(total: int, weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Split an integer in proportion to weights by largest remainders, every part at least 1 and at most its weight.

    Parameters
    ----------
    total : int
        What to split; at least ``len(weights)`` and at most ``weights.sum()``.
    weights : array of int, shape (L,)
    """
    exact = total * weights / weights.sum()
    parts = np.clip(np.floor(exact).astype(np.int64), 1, weights)
    while (rest := total - int(parts.sum())) != 0:
        sign = 1 if rest > 0 else -1
        free = (parts < weights) if rest > 0 else (parts > 1)
        urgency = np.where(free, sign * (exact - parts), -np.inf)
        chosen = np.argsort(-urgency, kind="stable")[: min(abs(rest), int(free.sum()))]
        parts[chosen] += sign
    return parts


@dataclass(frozen=True, eq=False)
class Plan:
    """The rows of every (step, lane).

    Parameters
    ----------
    starts : array of int64, shape (n_chunks + 1,)
        Row boundaries of the chunks, from 0 to N.
    batch_size : int
        Rows of one step over all lanes.
    lanes : int
        Number of lanes, at most the number of chunks and at most ``batch_size``.
    pool_chunks : int
        Chunks that are permuted together.
    block_rows : int
        Rows evaluated at once.
    seed : int

    Examples
    --------
    >>> plan = Plan(np.array([0, 3, 6, 8]), batch_size=4, lanes=2, pool_chunks=2, block_rows=256, seed=0)
    >>> sorted(np.concatenate([plan.rows(step, 1) for step in range(3)]).tolist())
    [3, 4, 5]
    """

    starts: NDArray[np.int64]
    batch_size: int
    lanes: int
    pool_chunks: int
    block_rows: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.n_rows:
            raise ArgumentError(
                f"batch_size={self.batch_size} is not between 1 and the {self.n_rows} rows of the data; "
                "choose a smaller batch"
            )
        if not 1 <= self.lanes <= min(self.n_chunks, self.batch_size):
            raise ArgumentError(
                f"lanes={self.lanes} is not between 1 and {min(self.n_chunks, self.batch_size)}, the smaller of the "
                f"number of chunks ({self.n_chunks}) and batch_size ({self.batch_size}); leave lanes out"
            )

    @cached_property
    def lane_rows(self) -> NDArray[np.int64]:
        """Rows owned by each lane, ``N_l``, shape (L,)."""
        lengths = np.diff(self.starts)
        return np.array([lengths[lane :: self.lanes].sum() for lane in range(self.lanes)], dtype=np.int64)

    @cached_property
    def lane_batch(self) -> NDArray[np.int64]:
        """Rows that each lane takes at every step, ``b_l``, shape (L,)."""
        return share(self.batch_size, self.lane_rows)

    @property
    def n_rows(self) -> int:
        return int(self.starts[-1])

    @property
    def n_chunks(self) -> int:
        return len(self.starts) - 1

    @property
    def settings(self) -> dict[str, int]:
        """What has to be the same for the same bits, beside seed and data."""
        return {
            "batch_size": self.batch_size,
            "lanes": self.lanes,
            "pool_chunks": self.pool_chunks,
            "block_rows": self.block_rows,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan, (self.starts, self.batch_size, self.lanes, self.pool_chunks, self.block_rows, self.seed)

    def weight(self, lane: int) -> float:
        """``N_l / b_l``, which makes the sum over a lane's batch an unbiased estimate of the sum over its rows."""
        n_rows, batch = self._lane_sizes[lane]
        return n_rows / batch

    def shuffled(self, lane: int) -> bool:
        """Whether rows are permuted: not where every step takes all rows of the lane, as their order cannot matter."""
        n_rows, batch = self._lane_sizes[lane]
        return batch < n_rows

    def chunks(self, lane: int) -> NDArray[np.int64]:
        """Chunks that a lane owns, in the order of the store."""
        return np.arange(lane, self.n_chunks, self.lanes)

    @cached_property
    def _epoch(self) -> Callable[[int, int], tuple[NDArray[np.int64], list[int]]]:
        return lru_cache(maxsize=4 * self.lanes)(self._plan_epoch)

    @cached_property
    def _lane_sizes(self) -> list[tuple[int, int]]:
        """Rows and rows of a step of each lane, as Python's integers, which are quicker one at a time."""
        return list(zip(self.lane_rows.tolist(), self.lane_batch.tolist(), strict=True))

    def _plan_epoch(self, lane: int, epoch: int) -> tuple[NDArray[np.int64], list[int]]:
        """Chunk order of one epoch, and the row offsets at which its pools start, with the end appended."""
        chunks, size = self.chunks(lane), self._pool_size(lane)
        if self.shuffled(lane) and len(chunks) > size:
            chunks = keyed_generator(self.seed, "chunks", lane, epoch).permutation(chunks)
        lengths = self.starts[chunks + 1] - self.starts[chunks]
        ends = np.append(0, np.cumsum(lengths))
        return chunks, [*ends[:-1:size].tolist(), int(ends[-1])]

    def _pool_size(self, lane: int) -> int:
        """Chunks of a pool: one where rows stay in order, so that nothing has to be copied."""
        return self.pool_chunks if self.shuffled(lane) else 1

    def n_pools(self, lane: int) -> int:
        """Pools that a lane reads in one epoch."""
        return -(-len(self.chunks(lane)) // self._pool_size(lane))

    def most_pool_rows(self, lane: int) -> int:
        """Rows of the largest pool that a lane may load."""
        lengths = np.sort(np.diff(self.starts)[self.chunks(lane)])
        return int(lengths[-self._pool_size(lane) :].sum())

    def pool_key(self, lane: int, epoch: int, pool: int) -> tuple[int, int]:
        """What identifies the content of a pool: pools that are never permuted are the same in all epochs."""
        return (epoch, pool) if self.shuffled(lane) else (0, pool)

    def members(self, lane: int, epoch: int, pool: int) -> NDArray[np.int64]:
        """Chunks of one pool."""
        size = self._pool_size(lane)
        return self._epoch(lane, epoch)[0][pool * size : (pool + 1) * size]

    def order(self, lane: int, epoch: int, pool: int) -> NDArray[np.int64]:
        """Positions in the concatenated chunks of a pool in the order of visits."""
        offsets = self._epoch(lane, epoch)[1]
        n_rows = offsets[pool + 1] - offsets[pool]
        if not self.shuffled(lane):
            return np.arange(n_rows)
        return keyed_generator(self.seed, "rows", lane, epoch, pool).permutation(n_rows)

    def segments(self, step: int, lane: int) -> tuple[Segment, ...]:
        """Contiguous pieces of permuted pools that make up the batch of ``(step, lane)``, in order."""
        n_rows, batch = self._lane_sizes[lane]
        position, end = step * batch, (step + 1) * batch
        found = []
        while position < end:
            epoch, offset = divmod(position, n_rows)
            offsets = self._epoch(lane, epoch if batch < n_rows else 0)[1]
            pool = bisect_right(offsets, offset) - 1
            start = offset - offsets[pool]
            stop = min(start + end - position, offsets[pool + 1] - offsets[pool])
            found.append(Segment(epoch, pool, start, stop))
            position += stop - start
        return tuple(found)

    def following(self, lane: int, epoch: int, pool: int) -> tuple[int, int]:
        """``(epoch, pool)`` of the pool that comes after another."""
        return (epoch, pool + 1) if pool + 1 < self.n_pools(lane) else (epoch + 1, 0)

    def pool_rows(self, lane: int, epoch: int, pool: int) -> NDArray[np.int64]:
        """Row numbers of a pool in the order in which they are visited."""
        chunks = self.members(lane, epoch, pool)
        rows = np.concatenate([np.arange(self.starts[c], self.starts[c + 1]) for c in chunks])
        return rows[self.order(lane, epoch, pool)]

    def rows(self, step: int, lane: int) -> NDArray[np.int64]:
        """Row numbers of the batch of ``(step, lane)``, in the order in which they are evaluated."""
        pieces = (self.pool_rows(lane, s.epoch, s.pool)[s.start : s.stop] for s in self.segments(step, lane))
        return np.concatenate(list(pieces))
