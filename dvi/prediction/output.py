"""Where what is kept goes: a Zarr group that is whole or absent and can be finished after a stop, or memory."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import filelock
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from dvi.data.store import COMPLETE, Target, publish
from dvi.data.workspace import Workspace
from dvi.errors import StoreError, StoreExistsError, StoreNotFoundError
from dvi.persistence.places import label_of, open_root
from dvi.types import AnyArray

_RECORD = "dvi_prediction"  # attribute of the root: what the store is made from
_DONE = "dvi_done"  # array of the root while it is made: which items are written
_CODECS = (BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec())


@dataclass(frozen=True, slots=True)
class Kept:
    """One array that is kept: of a variable with values for each row.

    Parameters
    ----------
    group, name : str
    shape : tuple of int
    axis : int
        The one of the rows.
    chunk_rows : int
        Rows of a chunk; other axes are whole.
    dtype : dtype
    dims : tuple of str
    """

    group: str
    name: str
    shape: tuple[int, ...]
    axis: int
    chunk_rows: int
    dtype: np.dtype[Any]
    dims: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def shape_of(self, n_rows: int) -> tuple[int, ...]:
        """Shape of some of its rows."""
        return (*self.shape[: self.axis], n_rows, *self.shape[self.axis + 1 :])

    def where(self, start: int, stop: int) -> tuple[slice, ...]:
        """Index of some of its rows."""
        return (*(slice(None),) * self.axis, slice(start, stop))


@dataclass(frozen=True, slots=True)
class Record:
    """What a store is made from: a digest of everything but the seed, and the seed."""

    identity: str
    seed: int


@dataclass(frozen=True, slots=True)
class Place:
    """A group that is being written, as workers find it: a path, a URL or a Zarr store."""

    where: Any
    label: str

    def writer(self) -> Writer:
        """Open the group for writing.

        Raises
        ------
        StoreNotFoundError
            If this process does not see it.
        """
        try:
            return Writer(zarr.open_group(self.where, mode="r+", use_consolidated=False))
        except FileNotFoundError as error:
            raise StoreNotFoundError(
                f"{self.label} was not found by this process. Choose a store that every worker can write to: on a "
                "shared file system or in an object store."
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class Writer:
    """An open group."""

    group: zarr.Group

    def write(self, kept: Kept, start: int, values: AnyArray) -> None:
        """Write values from a row on, which is the first of a chunk."""
        array: Any = self.group[f"{kept.group}/{kept.name}"]
        array = array.with_config({"write_empty_chunks": True})
        array[kept.where(start, start + values.shape[kept.axis])] = values

    def done(self) -> AnyArray:
        """Which items are written, ``(n_items,)``."""
        array: Any = self.group[_DONE]
        found: AnyArray = array[:]
        return found

    def mark(self, number: int) -> None:
        """Note that an item is written."""
        array: Any = self.group[_DONE]
        array[number] = 1


def check_free(target: Target, overwrite: bool) -> None:
    """Refuse to replace a result unasked, and ever to replace anything else.

    Raises
    ------
    StoreExistsError
        If there is something and ``overwrite`` is False.
    StoreError
        If there is something that was not written here.
    """
    try:
        found = open_root(target).attrs.asdict()
    except StoreNotFoundError:
        return
    except StoreError:
        if target.path is None:
            raise
        found = {}
    ours = _RECORD in found
    if ours and target.path is None and found.get(COMPLETE) is False:
        return
    if not overwrite:
        remedy = "Open it with xarray.open_datatree, pass overwrite=True to replace it, or choose" if ours else "Choose"
        raise StoreExistsError(f"{label_of(target)} exists already. {remedy} another name.")
    if not ours:
        raise StoreError(
            f"{label_of(target)} was not written by predict or log_likelihood and is not replaced. Choose another "
            "name, or delete it."
        )


@contextmanager
def locked(target: Target) -> Iterator[Workspace]:
    """The folder beside a local store in which it is made, for this process alone. Of no use to other stores."""
    work = Workspace(target.workspace)
    if target.path is None:
        yield work
        return
    try:
        work.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(work.folder / "lock")
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise StoreError(
            f"Another process is writing {label_of(target)}, in {work.folder}: wait for it, end it, or choose another "
            "store."
        ) from error
    except OSError as error:
        raise StoreError(
            f"{label_of(target)} cannot be written: {error}. Choose a folder that you may write to."
        ) from error
    try:
        yield work
    finally:
        if not work.group.exists():
            work.remove()
        lock.release()


def place_in(target: Target, work: Workspace) -> Place:
    """Where a group is while it is written."""
    where = target.group(work)
    return Place(where if target.path is None else str(where), label_of(target))


def found_record(place: Place) -> Record | None:
    """The record of a call that was stopped, None if there is none that got as far as its first item."""
    try:
        attributes = zarr.open_group(place.where, mode="r", use_consolidated=False).attrs.asdict()
    except FileNotFoundError:
        return None
    stored = attributes.get(_RECORD)
    if attributes.get(COMPLETE) is not False or not isinstance(stored, dict):
        return None
    return Record(str(stored["identity"]), int(stored["seed"]))


def create(
    place: Place, record: Record, kept: tuple[Kept, ...], groups: Mapping[str, xr.Dataset], n_items: int
) -> None:
    """Write everything but the values: what was there is deleted, and the record comes last.

    Parameters
    ----------
    place : Place
    record : Record
    kept : tuple of Kept
    groups : mapping of str to Dataset
        Coordinates and small variables of each group.
    n_items : int
    """
    unfinished: dict[str, Any] = {_RECORD: None, COMPLETE: False}
    root = zarr.open_group(place.where, mode="a", use_consolidated=False, attributes=unfinished)
    root.attrs.put(unfinished)
    for name in [*root.group_keys(), *root.array_keys()]:
        del root[name]
    for name, dataset in groups.items():
        encoding = {str(k): {"compressors": _CODECS} for k in dataset.variables}
        dataset.to_zarr(
            place.where, group=name, mode="a", zarr_format=3, consolidated=False, encoding=encoding,
            write_empty_chunks=True,
        )  # fmt: skip
    for array in kept:
        chunks = tuple(max(1, n) for n in array.shape_of(array.chunk_rows))
        root.require_group(array.group).create_array(
            array.name, shape=array.shape, chunks=chunks, dtype=array.dtype, compressors=_CODECS,
            dimension_names=array.dims,
        )  # fmt: skip
    root.create_array(_DONE, shape=(n_items,), chunks=(max(1, min(n_items, 4096)),), dtype="uint8")
    root.attrs.put({_RECORD: {"identity": record.identity, "seed": record.seed}, COMPLETE: False})


def finish(target: Target, work: Workspace, place: Place) -> xr.DataTree:
    """Mark a group as whole, move it to its path and open it lazily."""
    root = zarr.open_group(place.where, mode="r+", use_consolidated=False)
    del root[_DONE]
    root.attrs.update({COMPLETE: True})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(root.store, path=root.path or None)
    publish(target, work)
    shutil.rmtree(work.replaced, ignore_errors=True)
    tree: xr.DataTree = xr.open_datatree(target.path or target.store, engine="zarr", chunks=None)
    return tree


class MemoryOutput:
    """Arrays in the memory of this process.

    Parameters
    ----------
    kept : tuple of Kept
    groups : mapping of str to Dataset
    """

    def __init__(self, kept: tuple[Kept, ...], groups: Mapping[str, xr.Dataset]) -> None:
        self._groups = groups
        self._arrays = {array: np.empty(array.shape, array.dtype) for array in kept}

    def put(self, kept: Kept, start: int, values: AnyArray) -> None:
        """Take over values from a row on."""
        self._arrays[kept][kept.where(start, start + values.shape[kept.axis])] = values

    def tree(self) -> xr.DataTree:
        """All groups."""
        found = {
            name: dataset.assign({k.name: (k.dims, array) for k, array in self._arrays.items() if k.group == name})
            for name, dataset in self._groups.items()
        }
        made: xr.DataTree = xr.DataTree.from_dict(found)
        return made
