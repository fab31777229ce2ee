"""Aligned arrays that share their leading dimension, and the grid of row chunks in which they are read."""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dvi.data.chunks import Runs, lengths_of, regular_chunks, row_nbytes, rows_per_chunk, runs_of
from dvi.data.memory import DeliveredReader, DetachedReader, is_in_memory
from dvi.data.picks import aligned_empty
from dvi.errors import ArgumentError, DataError, DviWarning, NonFiniteError
from dvi.html import Section, card
from dvi.memory import format_bytes
from dvi.types import AnyArray, Reader

MAX_CHUNK_BYTES = 64 * 2**20
LEAST_CHUNK_BYTES = 2**16
MERGED_CHUNK_BYTES = 4 * 2**20
MOST_LANES = 64
LARGE_CHUNK_BYTES = 512 * 2**20
MAX_READ_FACTOR = 4.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Source:
    """Arrays whose rows belong together, read one row chunk at a time.

    Parameters
    ----------
    names
        A name for each array, for messages and fingerprints.
    readers
        The arrays, of equal length.
    starts
        Boundaries of the row chunks, ``(n_chunks + 1,)`` from 0 to the number of rows. `align` chooses them.

    Examples
    --------
    >>> import numpy as np
    >>> from dvi.data.readers import reader
    >>> source = Source.align([reader(np.ones((100, 3))), reader(np.zeros(100))], ["x", "y"])
    >>> x, y = source.read(0)
    >>> x.shape, y.shape
    ((100, 3), (100,))
    """

    names: tuple[str, ...]
    readers: tuple[Reader, ...]
    starts: NDArray[np.int64]  # (n_chunks + 1,)
    found_finite: set[int] = field(init=False, default_factory=set)  # a cache: chunks that need no second look

    def __post_init__(self) -> None:
        _check_aligned(self.names, self.readers)
        starts = np.ascontiguousarray(self.starts, dtype=np.int64)
        if len(starts) < 2 or starts[0] != 0 or starts[-1] != self.n_rows or (np.diff(starts) < 1).any():
            raise ArgumentError(f"starts must increase from 0 to {self.n_rows} rows: {starts!r} does not.")
        starts.flags.writeable = False
        object.__setattr__(self, "starts", starts)

    @classmethod
    def align(cls, readers: Sequence[Reader], names: Sequence[str] | None = None) -> Self:
        """Put arrays of equal length side by side, on the row grid that `row_grid` chooses."""
        names = tuple(f"array{i}" for i in range(len(readers))) if names is None else tuple(names)
        _check_aligned(names, readers)
        starts = row_grid(readers)
        for name, reader in zip(names, readers, strict=True):
            _warn_of_repeated_reads(name, reader, starts)
        source = cls(names, tuple(readers), starts)
        _warn_of_large_chunks(source)
        return source

    @property
    def n_rows(self) -> int:
        """Length of the leading dimension."""
        return self.readers[0].shape[0]

    @property
    def n_chunks(self) -> int:
        """Number of row chunks."""
        return len(self.starts) - 1

    @property
    def row_nbytes(self) -> int:
        """Decoded bytes of one row of all arrays."""
        return sum(map(row_nbytes, self.readers))

    @property
    def chunk_nbytes(self) -> int:
        """Decoded bytes of the largest row chunk."""
        return int(np.diff(self.starts).max()) * self.row_nbytes

    @property
    def in_memory(self) -> tuple[str, ...]:
        """Names of the arrays held in a process's memory, whose rows must be delivered to other processes."""
        return tuple(n for n, r in zip(self.names, self.readers, strict=True) if is_in_memory(r))

    @property
    def in_memory_nbytes(self) -> int:
        """Bytes of the arrays held in a process's memory."""
        return sum(self.n_rows * row_nbytes(r) for r in self.readers if is_in_memory(r))

    @property
    def undelivered(self) -> bool:
        """Whether rows have to be given to this process before it can read."""
        return any(isinstance(r, DetachedReader | DeliveredReader) for r in self.readers)

    def read(self, chunk: int) -> tuple[AnyArray, ...]:
        """Rows of one chunk, ``(rows, ...)`` from every array.

        NaN and infinities are refused when a process reads a chunk for the first time.
        """
        start, stop = self._rows(chunk)
        slabs = tuple(reader.read(start, stop) for reader in self.readers)
        if chunk not in self.found_finite:
            for name, reader, slab in zip(self.names, self.readers, slabs, strict=True):
                check_finite(slab, f"{name!r} ({reader.label}), chunk {chunk}", first_row=start)
            self.found_finite.add(chunk)
        return slabs

    @property
    def whole(self) -> tuple[AnyArray, ...] | None:
        """All rows of every array, where all of them are in memory in the form that kernels take."""
        arrays = [getattr(reader, "whole", None) for reader in self.readers]
        held = tuple(array for array in arrays if array is not None)
        return held if len(held) == len(arrays) else None

    def empty(self, n_rows: int) -> tuple[AnyArray, ...]:
        """Memory for some rows of every array."""
        return tuple(aligned_empty((n_rows, *reader.shape[1:]), reader.dtype) for reader in self.readers)

    def head(self, n: int) -> tuple[AnyArray, ...]:
        """First ``n`` rows of every array, or all rows if there are fewer."""
        return tuple(reader.read(0, min(n, self.n_rows)) for reader in self.readers)

    def pieces(self, chunk: int) -> dict[str, AnyArray]:
        """Rows of one chunk of the arrays in memory, by name: what `with_pieces` wants on the other side."""
        start, stop = self._rows(chunk)
        return {n: r.read(start, stop) for n, r in zip(self.names, self.readers, strict=True) if is_in_memory(r)}

    def with_pieces(self, pieces: Mapping[int, Mapping[str, AnyArray]]) -> Self:
        """The same source with the rows of some chunks delivered, as ``{chunk: {name: rows}}``."""
        readers = list(self.readers)
        for i, (name, reader) in enumerate(zip(self.names, self.readers, strict=True)):
            if isinstance(reader, DetachedReader | DeliveredReader):
                meta, held = (reader.meta, reader.pieces) if isinstance(reader, DeliveredReader) else (reader, {})
                fresh = {self._rows(chunk)[0]: slabs[name] for chunk, slabs in pieces.items()}
                readers[i] = DeliveredReader(meta, {**held, **fresh})
        return type(self)(self.names, tuple(readers), self.starts)

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data of a run, ready for JSON: names, shapes, dtypes, chunks and places, no secrets."""
        arrays = [
            {
                "name": name,
                "shape": list(reader.shape),
                "dtype": reader.dtype.name,
                "chunks": _chunks_summary(reader.chunk_rows),
                "label": reader.label,
            }
            for name, reader in zip(self.names, self.readers, strict=True)
        ]
        return {"n_rows": self.n_rows, "chunks": _chunks_summary(np.diff(self.starts).tolist()), "arrays": arrays}

    def _rows(self, chunk: int) -> tuple[int, int]:
        if not 0 <= chunk < self.n_chunks:
            raise ArgumentError(f"Chunk {chunk} does not exist: there are {self.n_chunks}, counted from 0.")
        return int(self.starts[chunk]), int(self.starts[chunk + 1])

    def _summary(self) -> str:
        total = format_bytes(self.n_rows * self.row_nbytes)
        largest = format_bytes(self.chunk_nbytes)
        return f"{self.n_rows:,} rows in {self.n_chunks:,} chunks of at most {largest}, {total} in all"

    def _table(self) -> list[tuple[str, str, str, str]]:
        shapes = [f"({', '.join(f'{n:,}' for n in reader.shape)})" for reader in self.readers]
        return [(n, r.dtype.name, s, r.label) for n, r, s in zip(self.names, self.readers, shapes, strict=True)]

    def __repr__(self) -> str:
        rows = "".join(f"\n  {name}  {dtype} {shape}  {label}" for name, dtype, shape, label in self._table())
        return f"<dvi.Source {self._summary()}>{rows}"

    def _repr_html_(self) -> str:
        arrays = Section("Arrays", self._table(), ("array", "dtype", "shape", "where"), is_open=True)
        return card("dvi.Source", self._summary(), [arrays])

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.names, self.readers, runs_of(np.diff(self.starts).tolist()))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


def row_grid(readers: Sequence[Reader]) -> NDArray[np.int64]:
    """The rule for the row chunks of aligned arrays, as boundaries ``(n_chunks + 1,)``.

    The coarsest stored chunking whose chunks, summed over all arrays, stay within 64 MB; if there is none, the stored
    chunking of the array with the most bytes per row. Consecutive small chunks are merged up to 4 MB, or up to a part
    of 64 of the data where that is less, so that small data too can be shared among lanes. Arrays in memory can be cut
    anywhere, so they have no say; if all are in memory, they are cut into chunks of that size.
    """
    total = sum(map(row_nbytes, readers))
    merged = max(LEAST_CHUNK_BYTES, min(MERGED_CHUNK_BYTES, readers[0].shape[0] * total // MOST_LANES))
    stored = [reader for reader in readers if not is_in_memory(reader)]
    if not stored:
        lengths = regular_chunks(readers[0].shape[0], rows_per_chunk(total, merged))
    else:
        chunkings = [reader.chunk_rows for reader in stored]
        fitting = [chunks for chunks in chunkings if max(chunks) * total <= MAX_CHUNK_BYTES]
        widest = max(range(len(stored)), key=lambda i: row_nbytes(stored[i]))
        lengths = min(fitting, key=len) if fitting else chunkings[widest]
    return np.cumsum([0, *merge_small(lengths, total, merged)], dtype=np.int64)


def merge_small(lengths: Sequence[int], row_bytes: int, most_bytes: int) -> list[int]:
    """Merge consecutive chunks of which one takes less than a quarter of ``most_bytes``, up to that."""
    merged: list[int] = []
    for rows in lengths:
        small = bool(merged) and min(rows, merged[-1]) * row_bytes < most_bytes // 4
        if small and (rows + merged[-1]) * row_bytes <= most_bytes:
            merged[-1] += rows
        else:
            merged.append(rows)
    return merged


def check_finite(slab: AnyArray, what: str, first_row: int) -> None:
    """Refuse NaN and infinities, naming the first row that has one.

    One pass without temporaries: a finite sum means finite values. The sum may overflow where no value is infinite, so
    only a second look can refuse.
    """
    if slab.dtype.kind != "f" or _sum_is_finite(slab):
        return
    finite = np.isfinite(slab)
    if finite.all():
        return
    index = np.unravel_index(int(np.argmin(finite)), slab.shape)
    row, column = first_row + int(index[0]), tuple(map(int, index[1:]))
    where = f"row {row}" + (f", column {column[0] if len(column) == 1 else column}" if column else "")
    raise NonFiniteError(
        f"{what}, has {slab[index]} at {where}: only finite numbers are allowed. "
        "Drop or impute such rows first; NaN is not read as missing data."
    )


def _sum_is_finite(slab: AnyArray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(slab.sum(dtype=np.float32 if slab.dtype == np.float16 else None))


def _check_aligned(names: Sequence[str], readers: Sequence[Reader]) -> None:
    if not readers:
        raise ArgumentError("A source needs at least one array, and none was given.")
    if len(names) != len(readers) or len(set(names)) != len(names):
        raise ArgumentError(f"{len(readers)} arrays need as many distinct names: {list(names)} were given.")
    for name, reader in zip(names, readers, strict=True):
        if reader.shape[0] != readers[0].shape[0]:
            raise DataError(
                f"Arrays must have equally many rows: {names[0]!r} ({readers[0].label}) has {readers[0].shape[0]}, "
                f"{name!r} ({reader.label}) has {reader.shape[0]}. Row i of each must be the same observation."
            )


def _warn_of_repeated_reads(name: str, reader: Reader, starts: NDArray[np.int64]) -> None:
    """Warn where the row grid cuts an array's stored chunks so that each is decoded several times over."""
    if is_in_memory(reader):
        return
    edges = np.cumsum([0, *reader.chunk_rows])
    first = np.searchsorted(edges, starts[:-1], side="right") - 1
    last = np.searchsorted(edges, starts[1:], side="left")
    factor = float((edges[last] - edges[first]).sum() / edges[-1])
    if factor > MAX_READ_FACTOR:
        warnings.warn(
            f"Every chunk of {name!r} ({reader.label}) will be decoded about {factor:.0f} times per epoch, because its "
            f"chunks are of up to {max(reader.chunk_rows)} rows and the other arrays ask for "
            f"{int(np.diff(starts).max())}. Store the arrays with equal row chunks, for instance with dvi.ingest.",
            DviWarning,
            stacklevel=4,
        )


def _warn_of_large_chunks(source: Source) -> None:
    """Warn where a chunk is so large that the few that a process holds may not fit in its memory."""
    if source.chunk_nbytes > LARGE_CHUNK_BYTES:
        warnings.warn(
            f"The largest row chunk takes {format_bytes(source.chunk_nbytes)} in memory, and a process holds several. "
            "Chunks of 1 to 64 MB are read best: store the arrays in smaller chunks, for instance with dvi.ingest.",
            DviWarning,
            stacklevel=4,
        )


def _chunks_summary(lengths: Sequence[int]) -> dict[str, Any]:
    digest = hashlib.sha256(repr(runs_of(lengths)).encode()).hexdigest()[:16]
    return {"count": len(lengths), "first": int(lengths[0]), "last": int(lengths[-1]), "sha256": digest}


def _rebuild(cls: type[Source], names: tuple[str, ...], readers: tuple[Reader, ...], runs: Runs) -> Source:
    return cls(names, readers, np.fromiter(itertools.accumulate(lengths_of(runs), initial=0), dtype=np.int64))
