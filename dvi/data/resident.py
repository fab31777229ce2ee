"""Rows that stay in memory between epochs: arrays that are there anyway, and decoded chunks within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dvi.data.plan import Plan
from dvi.types import AnyArray

type Block = tuple[AnyArray, ...]  # rows of every array of a source, C-contiguous

CACHE_BYTES = 256 * 2**20  # of decoded chunks that a process keeps, by default


class ChunkSource(Protocol):
    """What a stream reads from."""

    @property
    def whole(self) -> Block | None:
        """All rows of every array, where they are in memory in the form that kernels take."""
        ...

    @property
    def row_nbytes(self) -> int: ...

    def read(self, chunk: int) -> Block: ...

    def empty(self, n_rows: int) -> Block:
        """Memory for some rows of every array."""
        ...


@dataclass(eq=False)
class Budget:
    """Bytes that may still be kept, shared by all streams of a process."""

    left: int = CACHE_BYTES
    _lock: Lock = field(default_factory=Lock, repr=False)

    def take(self, n_bytes: int) -> bool:
        """Take some bytes, if there are as many."""
        with self._lock:
            enough = n_bytes <= self.left
            self.left -= n_bytes if enough else 0
            return enough

    def give(self, n_bytes: int) -> None:
        """Give bytes back."""
        with self._lock:
            self.left += n_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """The rows of a lane in memory; a chunk is read from the source when it is first asked for.

    Parameters
    ----------
    source : ChunkSource
    arrays : tuple of array
        What holds the rows, or will.
    first : array of int64, shape (n_chunks,)
        Place of the first row of each chunk; -1 for chunks of other lanes.
    missing : set of int
        Chunks that were not read yet.
    n_bytes : int
        What it takes of the budget: 0 for arrays that are in memory anyway.
    """

    source: ChunkSource
    arrays: Block
    first: NDArray[np.int64]
    missing: set[int]
    n_bytes: int

    def read(self, chunk: int) -> None:
        """Read a chunk, which refuses what is not finite, and keep its rows."""
        slabs, start = self.source.read(chunk), int(self.first[chunk])
        if self.n_bytes:
            for array, slab in zip(self.arrays, slabs, strict=True):
                array[start : start + len(slab)] = slab
        self.missing.discard(chunk)


def make_resident(source: ChunkSource, plan: Plan, lane: int, budget: Budget) -> Resident | None:
    """Memory for the rows of a lane, if they are in memory anyway or the budget allows it."""
    chunks = plan.chunks(lane)
    if (whole := source.whole) is not None:
        return Resident(source, whole, plan.starts[:-1], set(chunks.tolist()), 0)
    n_rows = int(plan.lane_rows[lane])
    n_bytes = n_rows * source.row_nbytes
    if not budget.take(n_bytes):
        return None
    first = np.full(plan.n_chunks, -1, dtype=np.int64)
    first[chunks] = np.cumsum([0, *np.diff(plan.starts)[chunks[:-1]]])
    return Resident(source, source.empty(n_rows), first, set(chunks.tolist()), n_bytes)
