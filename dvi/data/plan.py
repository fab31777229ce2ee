"""Which rows each step reads: a pure function of (seed, layout, lanes). No state and no input or output.

Lanes own chunks, strided. The chunks of a lane are put in random order and grouped into pools of a few, and the rows of
a pool are permuted, once for the whole run: so a pool that stays in memory lies there as it is visited, and every piece
of it is contiguous. In every epoch a lane visits each of its rows once: its pools in random order, each from a random
row on and round to that row again. Batches are cut from the endless sequence of epochs, so a batch may span two pools.
The sum over the rows of a lane is weighted by ``N_l / b_l``: the stratified estimator, unbiased for any chunk lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvi.errors import ArgumentError
from dvi.randomness import keyed_generator

ROWS_PER_LANE, BYTES_PER_LANE = 1024, 200_000
MAX_LANES, LANES_BY_BYTES = 64, 8
POOL_BYTES = 64_000_000
BLOCK_BYTES = 1_000_000
_STEPS, _PIECES = 256, 8192  # planned at once
_EPOCHS, _VISITS = 64, 4096  # drawn at once


class Segment(NamedTuple):
    """Rows ``start`` to ``stop`` of a permuted pool, and the pool that is visited after it."""

    pool: int
    start: int
    stop: int
    following: int


class Pieces(NamedTuple):
    """Segments of several steps as arrays of int64 ``(n,)``, in order."""

    step: NDArray[np.int64]
    pool: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    following: NDArray[np.int64]


class _Epochs(NamedTuple):
    """The visits of some epochs ``E`` of a lane."""

    pools: NDArray[np.int64]  # (E, pools)
    firsts: NDArray[np.int64]  # (E, pools), row of each pool that is visited first


def default_lanes(n_chunks: int, batch_size: int, row_bytes: int, ndim: int) -> int:
    """Return the number of lanes, the unit of determinism, of a new run.

    The rule: the largest power of two that is at most the number of chunks and 64, and that leaves each lane 1,024 rows
    and twice as many as the model has dimensions, as every lane has sums over all of them. Where rows are long, up to
    eight lanes of 200 kB, or twice the bytes of its sums, will do.

    Examples
    --------
    >>> default_lanes(100, 8192, 800, 100), default_lanes(100, 8192, 96, 1013), default_lanes(100, 500, 800, 200)
    (8, 4, 2)
    """
    by_rows = batch_size // max(ROWS_PER_LANE, 2 * ndim)
    by_bytes = batch_size * row_bytes // max(BYTES_PER_LANE, 16 * ndim)
    limit = max(1, min(n_chunks, max(by_rows, min(by_bytes, LANES_BY_BYTES)), MAX_LANES))
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
        return np.array([lengths[self.chunks(lane)].sum() for lane in range(self.lanes)], dtype=np.int64)

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
        """Chunks that a lane owns, in the order of the store: this is the rule.

        They are dealt out in turn. Those that do not go round are dealt in the order of the lanes' numbers read
        backwards, bit by bit, so that every subtree of lanes has as many as its sibling, to one: hosts share lanes by
        subtrees.
        """
        dealt = self.n_chunks // self.lanes * self.lanes
        chunks, last = np.arange(lane, dealt, self.lanes), dealt + int(self._turns[lane])
        return np.append(chunks, last) if last < self.n_chunks else chunks

    @cached_property
    def _turns(self) -> NDArray[np.int64]:
        """The place of each lane where lanes are in the order of their numbers read backwards, shape (L,)."""
        bits = (self.lanes - 1).bit_length()
        backwards = [int(f"{lane:0{bits}b}"[::-1], 2) for lane in range(self.lanes)]
        return np.argsort(np.argsort(backwards))

    @cached_property
    def _lane_sizes(self) -> list[tuple[int, int]]:
        """Rows and rows of a step of each lane, as Python's integers, which are quicker one at a time."""
        return list(zip(self.lane_rows.tolist(), self.lane_batch.tolist(), strict=True))

    @cached_property
    def _pools(self) -> Callable[[int], tuple[list[NDArray[np.int64]], list[int]]]:
        return lru_cache(maxsize=None)(self._plan_pools)

    def _plan_pools(self, lane: int) -> tuple[list[NDArray[np.int64]], list[int]]:
        """Chunks of each pool of a lane, and how many rows those have."""
        chunks, size = self.chunks(lane), self._pool_chunks(lane)
        if self.shuffled(lane) and len(chunks) > size:
            chunks = keyed_generator(self.seed, "chunks", lane).permutation(chunks)
        pools = [chunks[start : start + size] for start in range(0, len(chunks), size)]
        return pools, [int((self.starts[pool + 1] - self.starts[pool]).sum()) for pool in pools]

    def _epochs(self, lane: int, epochs: range) -> _Epochs:
        """Epochs of a lane. A generator is made for many at once, as that takes longer than what it draws."""
        n = max(1, min(_EPOCHS, _VISITS // self.n_pools(lane)))
        drawn = [self._drawn(lane, block, n) for block in range(epochs.start // n, (epochs.stop - 1) // n + 1)]
        begin = epochs.start % n
        pools, firsts = (np.concatenate(blocks)[begin : begin + len(epochs)] for blocks in zip(*drawn, strict=True))
        return _Epochs(pools, firsts)

    @cached_property
    def _drawn(self) -> Callable[[int, int, int], _Epochs]:
        return lru_cache(maxsize=2 * self.lanes)(self._draw_epochs)

    def _draw_epochs(self, lane: int, block: int, n: int) -> _Epochs:
        """A block of so many epochs."""
        sizes = np.array(self._pools(lane)[1])
        pools = np.tile(np.arange(len(sizes)), (n, 1))
        if not self.shuffled(lane):
            return _Epochs(pools, np.zeros_like(pools))
        generator = keyed_generator(self.seed, "epoch", lane, block)
        pools = generator.permuted(pools, axis=1)
        return _Epochs(pools, generator.integers(sizes[pools]))

    def _pool_chunks(self, lane: int) -> int:
        """Chunks of a pool: one where rows stay in order, so that nothing has to be copied."""
        return self.pool_chunks if self.shuffled(lane) else 1

    def n_pools(self, lane: int) -> int:
        """Pools that a lane reads in one epoch."""
        return len(self._pools(lane)[0])

    def most_pool_rows(self, lane: int) -> int:
        """Rows of the largest pool of a lane."""
        return max(self._pools(lane)[1])

    def pool_rows(self, lane: int, pool: int) -> int:
        """How many rows a pool has."""
        return self._pools(lane)[1][pool]

    def members(self, lane: int, pool: int) -> NDArray[np.int64]:
        """Chunks of one pool."""
        return self._pools(lane)[0][pool]

    def order(self, lane: int, pool: int) -> NDArray[np.int64]:
        """Positions in the concatenated chunks of a pool in the order of visits."""
        n_rows = self.pool_rows(lane, pool)
        if not self.shuffled(lane):
            return np.arange(n_rows)
        return keyed_generator(self.seed, "rows", lane, pool).permutation(n_rows)

    def segments(self, step: int, lane: int) -> list[Segment]:
        """Contiguous pieces of permuted pools that make up the batch of ``(step, lane)``, in order."""
        steps = self.steps_around(step, lane)
        return self._segments(lane, steps)[step - steps.start]

    def steps_around(self, step: int, lane: int) -> range:
        """Steps that are planned together with one: as many as make some thousands of pieces, and at most 256."""
        n_rows, batch = self._lane_sizes[lane]
        n = max(1, min(_STEPS, _PIECES // (1 + batch * self.n_pools(lane) // n_rows)))
        return range(step // n * n, step // n * n + n)

    @cached_property
    def _segments(self) -> Callable[[int, range], list[list[Segment]]]:
        return lru_cache(maxsize=2 * self.lanes)(self._plan_segments)

    def _plan_segments(self, lane: int, steps: range) -> list[list[Segment]]:
        """The segments of each of some steps."""
        found: list[list[Segment]] = [[] for _ in steps]
        for step, *segment in zip(*(column.tolist() for column in self.pieces(steps, lane)), strict=True):
            found[step - steps.start].append(Segment(*segment))
        return found

    def pieces(self, steps: range, lane: int) -> Pieces:
        """The segments of some steps of a lane: this is the rule of what a step takes.

        The pools that are visited lie one after the other on a line of rows. It is cut where a step begins, where a
        pool does, and where a visit comes to the last row of a pool and goes on with its first.
        """
        n_rows, batch = self._lane_sizes[lane]
        begin, end = steps.start * batch, steps.stop * batch
        epochs = self._epochs(lane, range(begin // n_rows, -(-end // n_rows) + 1))
        pools, firsts = epochs.pools.ravel(), epochs.firsts.ravel()
        sizes = np.array(self._pools(lane)[1])[pools]
        ends = np.concatenate([[0], np.cumsum(sizes)]) + begin // n_rows * n_rows
        cuts = np.concatenate([np.arange(begin, end + 1, batch), ends, ends[1:] - firsts])
        cuts = np.unique(cuts[(begin <= cuts) & (cuts <= end)])
        visit = np.searchsorted(ends, cuts[:-1], side="right") - 1
        start = (firsts[visit] + cuts[:-1] - ends[visit]) % sizes[visit]
        return Pieces(cuts[:-1] // batch, pools[visit], start, start + np.diff(cuts), pools[visit + 1])

    def rows(self, step: int, lane: int) -> NDArray[np.int64]:
        """Row numbers of the batch of ``(step, lane)``, in the order in which they are evaluated."""
        return np.concatenate([self._visits(lane, s.pool)[s.start : s.stop] for s in self.segments(step, lane)])

    def _visits(self, lane: int, pool: int) -> NDArray[np.int64]:
        """Row numbers of a pool in the order in which they are visited."""
        rows = np.concatenate([np.arange(self.starts[c], self.starts[c + 1]) for c in self.members(lane, pool)])
        return rows[self.order(lane, pool)]
