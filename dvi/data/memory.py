"""Readers of arrays in memory: in this process, left behind in another, or delivered from there."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn, Self

import numpy as np

from dvi.data.chunks import Runs, check_array, check_rows, lengths_of, runs_of, virtual_chunks
from dvi.errors import DataError
from dvi.types import AnyArray, Reader


@dataclass(frozen=True, slots=True, eq=False)
class MemoryReader:
    """Rows of an array in this process's memory; a read is a view wherever the array is C-contiguous and native.

    Its pickle holds no data and gives a `DetachedReader`.

    Parameters
    ----------
    array
        ``(n_rows, ...)``
    stored_rows
        Lengths of the chunks that the array came in, if it came in chunks.
    label
        Where the array is, for people.
    """

    array: AnyArray = field(repr=False)
    stored_rows: tuple[int, ...] | None = field(default=None, repr=False)
    label: str = "memory"
    in_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_array(self.array.shape, self.array.dtype, f"The array in {self.label}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype.newbyteorder("=")

    @property
    def chunk_rows(self) -> tuple[int, ...]:
        return self.stored_rows or virtual_chunks(self.shape, self.dtype)

    @property
    def whole(self) -> AnyArray | None:
        """The array itself, if every read is a view of it."""
        flags = self.array.flags
        as_kernels_take_it = flags.c_contiguous and flags.aligned and flags.writeable and self.array.dtype.isnative
        return self.array if as_kernels_take_it else None

    def read(self, start: int, stop: int) -> AnyArray:
        check_rows(start, stop, self)
        return np.ascontiguousarray(self.array[start:stop], dtype=self.dtype)

    def __reduce__(self) -> tuple[type[DetachedReader], tuple[Any, ...]]:
        return DetachedReader, (self.shape, self.dtype, runs_of(self.chunk_rows), self.label)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


@dataclass(frozen=True, slots=True)
class DetachedReader:
    """What a pickled `MemoryReader` becomes: everything but the rows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    runs: Runs = field(repr=False)
    label: str = "memory"
    in_memory: ClassVar[bool] = True

    @property
    def chunk_rows(self) -> tuple[int, ...]:
        return lengths_of(self.runs)

    def read(self, start: int, stop: int) -> AnyArray:
        check_rows(start, stop, self)
        _refuse_undelivered(self, start, stop)


@dataclass(frozen=True, slots=True, eq=False)
class DeliveredReader:
    """The rows of a `DetachedReader` that were delivered to this process. Its pickle is a `DetachedReader` again.

    Parameters
    ----------
    meta
        What the rows are a part of.
    pieces
        Rows ``(n, ...)`` by the number of their first row; pieces do not overlap.
    """

    meta: DetachedReader
    pieces: Mapping[int, AnyArray] = field(repr=False)
    begins: tuple[int, ...] = field(init=False, repr=False)
    in_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "begins", tuple(sorted(self.pieces)))
        for begin, piece in self.pieces.items():
            check_rows(begin, begin + len(piece), self.meta)
            if piece.shape[1:] != self.shape[1:] or piece.dtype != self.dtype:
                raise DataError(
                    f"A piece of {self.label} at row {begin} has rows of shape {piece.shape[1:]} and dtype "
                    f"{piece.dtype}: shape {self.shape[1:]} and dtype {self.dtype} were announced."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.meta.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.meta.dtype

    @property
    def chunk_rows(self) -> tuple[int, ...]:
        return self.meta.chunk_rows

    @property
    def label(self) -> str:
        return self.meta.label

    def read(self, start: int, stop: int) -> AnyArray:
        check_rows(start, stop, self)
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        parts = []
        row = start
        while row < stop:
            at = bisect_right(self.begins, row) - 1
            begin = self.begins[max(at, 0)] if self.begins else stop
            part = self.pieces[begin][row - begin : stop - begin] if at >= 0 else ()
            if len(part) == 0:
                _refuse_undelivered(self, start, stop)
            parts.append(part)
            row += len(part)
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def __reduce__(self) -> tuple[type[DetachedReader], tuple[Any, ...]]:
        return DetachedReader, (self.shape, self.dtype, self.meta.runs, self.label)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


def is_in_memory(array: Reader) -> bool:
    """Whether an array's rows are held in a process's memory, and can be cut anywhere at no cost."""
    return bool(getattr(array, "in_memory", False))


def _refuse_undelivered(array: Reader, start: int, stop: int) -> NoReturn:
    raise DataError(
        f"Rows {start} to {stop} of {array.label}, shape {array.shape}, were not delivered to this worker: a pickle "
        "holds no data. Pass the array in the process that has it, or store it as Zarr with dvi.ingest."
    )
