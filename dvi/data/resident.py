"""What a stream reads from, and how much of it may stay in memory between epochs."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from dvi.types import AnyArray

type Block = tuple[AnyArray, ...]  # rows of every array of a source, C-contiguous

CACHE_BYTES = 256 * 2**20  # of rows that a process keeps, by default


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
