"""Pure: from a schema and sizes in bytes to the arrays, chunks, batches and buckets of an ingest."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dvi.data.schema import Batch, Category, Column, Layout, Schema, encode, length, missing_rows
from dvi.data.shuffle import shuffle_keys
from dvi.errors import ArgumentError, ArgumentTypeError, DataError, suggestion
from dvi.types import AnyArray

MAX_BUCKETS = 4096

# The rule for memory, as parts of memory_bytes. A batch exists as read, encoded and scattered; a bucket as read, as
# sorted, and once more where slabs are cut from it; a slab as records and as compressed chunks.
_BATCH_SHARE = 12
_BUCKET_SHARE = 8
_SLAB_SHARE = 12


@dataclass(frozen=True, slots=True)
class Selection:
    """Which columns are read, which become arrays of their own, and which rows are dropped."""

    single: tuple[str, ...]
    packs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    dropna: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Columns to read."""
        return tuple(dict.fromkeys([*self.single, *(name for _, members in self.packs for name in members)]))


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array of the store: a column, or a matrix of packed columns."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # of one row
    dims: tuple[str, ...]  # with the rows
    columns: tuple[Column, ...]
    attrs: Mapping[str, object]
    is_pack: bool = False

    @property
    def row_nbytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """What will be written, and in which portions. ``n_rows`` counts rows that may be dropped on the way."""

    arrays: tuple[StoredArray, ...]
    coords: xr.Dataset
    record: np.dtype[Any]  # one row: its sort key, then the arrays by position
    n_rows: int
    chunk_rows: int
    batch_rows: int
    slab_rows: int
    n_buckets: int


def select(
    known: Sequence[str],
    columns: Sequence[str] | None,
    pack: Mapping[str, Sequence[str]] | None,
    dropna: bool | Sequence[str],
) -> Selection:
    """Which of the known columns are read, and as what: the rule for ``columns``, ``pack`` and ``dropna``.

    A packed column is not stored on its own as well; ``columns`` says which of the others are.

    Raises
    ------
    ArgumentError
        If a name is not known, or if two arrays would have the same name.
    """
    _check_pack(pack)
    packs = tuple((name, _names(f"pack[{name!r}]", members, known)) for name, members in (pack or {}).items())
    packed = {member for _, members in packs for member in members}
    chosen = tuple(known) if columns is None else _names("columns", columns, known)
    single = tuple(name for name in dict.fromkeys(chosen) if name not in packed)
    if clash := sorted(set(single) & {name for name, _ in packs}):
        raise ArgumentError(
            f"pack={clash[0]!r} has the name of a column that is stored on its own: choose another name, or leave the "
            "column out with columns=[...]."
        )
    if not single and not packs:
        raise ArgumentError("columns=[] leaves nothing to store: name at least one column.")
    selection = Selection(single, packs)
    if isinstance(dropna, bool):
        return Selection(single, packs, selection.names if dropna else ())
    return Selection(single, packs, _names("dropna", dropna, selection.names))


def _check_pack(pack: object) -> None:
    if pack is not None and not (isinstance(pack, Mapping) and all(isinstance(name, str) for name in pack)):
        raise ArgumentTypeError(f"pack={pack!r} is not allowed: pass a mapping of names to lists of column names.")


def _names(argument: str, given: Any, known: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise ArgumentTypeError(f"{argument}={given!r} is not allowed: pass a list of column names.")
    if not given and argument.startswith("pack"):
        raise ArgumentError(f"{argument} is empty: name at least one column.")
    for name in given:
        if name not in known:
            near = suggestion(name, known)
            raise ArgumentError(f"{argument} names {name!r}; known are {', '.join(map(repr, known))}{near}")
    return tuple(given)


def plan_ingest(
    schema: Schema, selection: Selection, layout: Layout, row_dim: str, *, chunk_bytes: int, memory_bytes: int
) -> IngestPlan:
    """What to write, in which portions.

    All arrays share the chunks of their rows, so that they stay aligned. The rule: as many rows as make the heaviest
    array's chunk ``chunk_bytes``, fewer if one chunk of every array together would take more than a twelfth of
    ``memory_bytes``, and then so that all chunks are about equally long.

    Parameters
    ----------
    schema : Schema
    selection : Selection
    layout : Layout
        Dimensions, attributes and coordinates of the source.
    row_dim : str
        Name of the leading dimension.
    chunk_bytes : int
        Size of a chunk of the heaviest array, in bytes, before compression.
    memory_bytes : int
        Memory to work in, in bytes.

    Raises
    ------
    ArgumentError
        If the rows do not fit in 4096 buckets of an eighth of ``memory_bytes``.
    DataError
        If columns cannot be packed, or a name cannot be that of a Zarr array.
    """
    by_name = {column.name: column for column in schema.columns}
    arrays = (
        *(_single(by_name[name], layout, row_dim) for name in selection.single),
        *(_pack(name, [by_name[member] for member in members], row_dim) for name, members in selection.packs),
    )
    coords = _coords(arrays, layout)
    _check_names(arrays, coords)
    record = np.dtype([("key", "u8"), *((str(i), a.dtype, a.shape) for i, a in enumerate(arrays))])
    n_buckets = max(1, math.ceil(schema.n_rows * record.itemsize * _BUCKET_SHARE / memory_bytes))
    if n_buckets > MAX_BUCKETS:
        least = math.ceil(schema.n_rows * record.itemsize * _BUCKET_SHARE / MAX_BUCKETS)
        raise ArgumentError(
            f"memory_bytes={memory_bytes} is too little for {schema.n_rows} rows of {record.itemsize} bytes: "
            f"at least {least} is needed."
        )
    slab_bytes = memory_bytes // _SLAB_SHARE
    heaviest = max(array.row_nbytes for array in arrays)
    chunk_rows = _evened(schema.n_rows, min(chunk_bytes // heaviest, slab_bytes // record.itemsize))
    return IngestPlan(
        arrays=arrays,
        coords=coords,
        record=record,
        n_rows=schema.n_rows,
        chunk_rows=chunk_rows,
        batch_rows=max(1, memory_bytes // _BATCH_SHARE // record.itemsize),
        slab_rows=chunk_rows * max(1, slab_bytes // record.itemsize // chunk_rows),
        n_buckets=n_buckets,
    )


def batch_nbytes(memory_bytes: int) -> int:
    """Size of the batches to ask a source for, in bytes."""
    return max(1, memory_bytes // _BATCH_SHARE)


def _evened(n_rows: int, most: int) -> int:
    """Rows of a chunk, at most ``most`` and at least one, so that the last chunk is hardly shorter than the others."""
    return math.ceil(n_rows / math.ceil(n_rows / max(1, most)))


def _single(column: Column, layout: Layout, row_dim: str) -> StoredArray:
    dims = layout.dims.get(column.name, ())
    attrs = dict(layout.attrs.get(column.name, {}))
    if column.categories is not None:
        attrs["categories"] = list(column.categories)
    if 0 in column.shape:
        raise DataError(f"Column {column.name!r} has rows of shape {column.shape}, which hold no values: leave it out.")
    return StoredArray(column.name, column.dtype, column.shape, (row_dim, *dims), (column,), attrs)


def _pack(name: str, columns: Sequence[Column], row_dim: str) -> StoredArray:
    for column in columns:
        if column.categories is not None or column.shape:
            what = "text" if column.categories is not None else f"of shape {column.shape} in each row"
            raise DataError(
                f"pack={name!r} names {column.name!r}, which is {what}: only columns of numbers are packed."
            )
    dtype = np.result_type(*(np.dtype(column.dtype) for column in columns))
    return StoredArray(name, dtype.str, (len(columns),), (row_dim, f"{name}_column"), tuple(columns), {}, is_pack=True)


def _coords(arrays: Iterable[StoredArray], layout: Layout) -> xr.Dataset:
    """The source's coordinates, names of packed columns and, where their name is free, tables of categories."""
    arrays = list(arrays)
    coords = layout.coords
    taken = {str(name) for name in coords.variables} | {str(d) for d in coords.dims}
    taken |= {array.name for array in arrays} | {dim for array in arrays for dim in array.dims if not array.is_pack}
    labels: tuple[Category, ...]
    for array in arrays:
        if array.is_pack:
            dim, labels = array.dims[1], tuple(column.name for column in array.columns)
        else:
            dim, labels = f"{array.name}_categories", array.columns[0].categories or ()
        if labels and dim not in taken:
            coords = coords.assign_coords({dim: np.asarray(labels)})
    return coords


def _check_names(arrays: Sequence[StoredArray], coords: xr.Dataset) -> None:
    taken = {str(name): "a coordinate" for name in coords.variables}
    taken |= {dim: "a dimension" for array in arrays for dim in array.dims}
    sizes = {str(dim): size for dim, size in coords.sizes.items()}
    for array in arrays:
        for dim, size in zip(array.dims[1:], array.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise DataError(
                    f"Dimension {dim!r} of {array.name!r} is {size} long and {sizes[dim]} elsewhere: rename it."
                )
        if array.name in taken:
            raise DataError(f"Column {array.name!r} has the name of {taken[array.name]} as well: rename one of them.")
        reserved = array.name.startswith("__") or array.name == "zarr.json" or not array.name.strip(".")
        if reserved or set(array.name) & {"/", "\\"}:
            raise DataError(
                f"Column {array.name!r} cannot be the name of a Zarr array: rename it to something without slashes, "
                "without a leading '__' and not only of dots."
            )


def records(batch: Batch, plan: IngestPlan, dropna: Collection[str], first_row: int, seed: int | None) -> AnyArray:
    """One record ``(n,)`` for each row of a batch that is kept; ``first_row`` is the source row of the first.

    The key is the row's place in the shuffle of ``seed``, or its number in the source if ``seed`` is None.
    """
    stop = first_row + length(batch)
    keys: NDArray[np.uint64] = (
        np.arange(first_row, stop, dtype=np.uint64) if seed is None else shuffle_keys(seed, first_row, stop)
    )
    lacking = [missing_rows(batch[name]) for name in dropna]
    if lacking and (dropped := np.any(lacking, axis=0)).any():
        batch = {name: values[~dropped] for name, values in batch.items()}
        keys = keys[~dropped]
    rows = np.empty(len(keys), plan.record)
    rows["key"] = keys
    for position, array in enumerate(plan.arrays if len(keys) else ()):
        field = rows[str(position)]
        if array.is_pack:
            for j, column in enumerate(array.columns):
                field[:, j] = encode(batch[column.name], column)
        else:
            field[...] = encode(batch[array.name], array.columns[0])
    return rows


def pieces(batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """The same rows in batches of at most ``rows`` and at least one."""
    for batch in batches:
        for start in range(0, length(batch), rows):
            yield {name: values[start : start + rows] for name, values in batch.items()}


def slabs(batches: Iterable[AnyArray], rows: int) -> Iterator[AnyArray]:
    """The same records in slabs of exactly ``rows``, but for the last."""
    waiting: list[AnyArray] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) < rows:
            continue
        joined = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
        full = len(joined) // rows * rows
        yield from (joined[start : start + rows] for start in range(0, full, rows))
        waiting = [joined[full:].copy()]
        del batch, joined  # before the next batch is made
    if any(map(len, waiting)):
        yield np.concatenate(waiting)
