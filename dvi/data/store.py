"""Writing a Zarr group so that it is whole or absent.

A local group is made in a hidden folder beside its final path and renamed. Object stores have no rename: there, the
attribute ``dvi_complete`` is False until all is written, and `open_ingested` refuses a group in which it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
import zarr.errors
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore, ObjectStore

from dvi.data.chunks import without_secrets
from dvi.data.ingest_plan import IngestPlan
from dvi.data.locations import Options, open_store, url_of
from dvi.data.workspace import Workspace
from dvi.errors import ArgumentError, ArgumentTypeError, StoreError, StoreExistsError, StoreNotFoundError
from dvi.types import AnyArray

COMPLETE = "dvi_complete"

# The rule for codecs: what decodes fastest on two cores, with a checksum outermost.
_CODECS = (BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec())

_OPEN_ERRORS = (FileNotFoundError, zarr.errors.GroupNotFoundError)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a store will be: a local path, or a URL or Zarr store that cannot rename."""

    label: str
    path: Path | None
    store: Any = field(repr=False)

    @property
    def workspace(self) -> Path:
        """The folder to work in: beside a local store, among the temporary files for a remote one."""
        if self.path is not None:
            return self.path.with_name(self.path.name + ".partial")
        name = hashlib.sha256(self.label.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"dvi-ingest-{name}.partial"

    def group(self, work: Workspace) -> Any:
        """Where the group is while it is being written."""
        return work.group if self.path is not None else self.store

    def check_free(self, overwrite: bool) -> None:
        """Refuse to replace a store unasked, and ever to replace something that is not a store."""
        exists, attrs = self._found()
        if not exists or (self.path is None and attrs is not None and attrs.get(COMPLETE) is False):
            return
        if not overwrite:
            raise StoreExistsError(
                f"{self.label} exists already. Open it with xarray.open_zarr({self.label!r}), pass overwrite=True to "
                "replace it, or choose another name."
            )
        if attrs is None:
            raise StoreError(f"{self.label} is not a Zarr group and will not be overwritten: choose another name.")

    def holds(self, work: Workspace) -> bool:
        """Whether an unfinished group is where it should be."""
        try:
            zarr.open_group(self.group(work), mode="r")
        except _OPEN_ERRORS:
            return False
        return True

    def _found(self) -> tuple[bool, dict[str, Any] | None]:
        """Whether there is something, and its attributes if that is a Zarr group."""
        exists = self.path is not None and (self.path.exists() or self.path.is_symlink())
        if self.path is not None and not exists:
            return False, None
        try:
            return True, zarr.open_group(self.store, mode="r").attrs.asdict()
        except (*_OPEN_ERRORS, NotADirectoryError, zarr.errors.ContainsArrayError):
            return exists, None


def target_of(store: object, storage_options: Options | None = None) -> Target:
    """Where to write: a path, a URL, or a Zarr store.

    Parameters
    ----------
    store : str, path or zarr.abc.store.Store
    storage_options : mapping, optional
        See `open_store`.

    Raises
    ------
    ArgumentTypeError
        If it is something else.
    """
    given = store
    store = open_store(store, storage_options)
    if isinstance(store, LocalStore):
        store = store.root
    if isinstance(store, str | os.PathLike):
        if not os.fspath(store):
            raise ArgumentError("store='' is not allowed: pass the path of the store to write.")
        path = Path(os.fspath(store))
        return Target(str(path), path.absolute(), path)
    if isinstance(store, Store):
        return Target(url_of(store) if isinstance(store, ObjectStore) else without_secrets(str(given)), None, store)
    raise ArgumentTypeError(f"store={store!r} is not allowed: pass a path, a URL or a Zarr store.")


def create_group(where: Any, plan: IngestPlan, n_rows: int) -> None:
    """Write the metadata of a group of ``n_rows`` rows, and its coordinates; a group that was there is deleted.

    Where there is none nothing is deleted: a prefix of an object store may hold other things.
    """
    if exists := _is_group(where):
        zarr.open_group(where, mode="r+", use_consolidated=False).attrs[COMPLETE] = False
    unfinished: dict[str, Any] = {COMPLETE: False}  # said from the first write on, as xarray does not
    zarr.create_group(where, overwrite=exists, zarr_format=3, attributes=unfinished)
    encoding = {name: {"compressors": _CODECS} for name in plan.coords.variables}
    plan.coords.assign_attrs({**plan.coords.attrs, COMPLETE: False}).to_zarr(
        where,
        mode="a",
        zarr_format=3,
        consolidated=False,
        encoding=encoding,
        write_empty_chunks=True,
    )
    group = zarr.open_group(where, mode="r+")
    for array in plan.arrays:
        group.create_array(
            array.name,
            shape=(n_rows, *array.shape),
            chunks=(plan.chunk_rows, *array.shape),
            dtype=array.dtype,
            compressors=_CODECS,
            dimension_names=array.dims,
            attributes=cast(Any, dict(array.attrs)),
        )


def _is_group(where: Any) -> bool:
    try:
        zarr.open_group(where, mode="r")
    except FileNotFoundError:
        return False
    return True


def check_complete(attrs: Mapping[str, Any], label: str) -> None:
    """Refuse a group that dvi began to write and did not finish; groups of others have no such mark."""
    if attrs.get(COMPLETE) is False:
        raise StoreError(f"{label} was not written to its end: call dvi.ingest again to finish it.")


def open_arrays(where: Any, plan: IngestPlan) -> list[Any]:
    """The arrays of an unfinished group, in the order of the plan, opened so that every chunk is written."""
    group = zarr.open_group(where, mode="r+", use_consolidated=False)
    opened: list[Any] = [group[array.name] for array in plan.arrays]
    return [array.with_config({"write_empty_chunks": True}) for array in opened]


def write_rows(arrays: Sequence[Any], start: int, records: AnyArray) -> None:
    """Write records ``(n,)`` as the rows from ``start`` on, which is the first row of a chunk."""
    for position, array in enumerate(arrays):
        array[start : start + len(records)] = np.ascontiguousarray(records[str(position)])


def finish_group(where: Any, plan: IngestPlan, n_rows: int, attrs: dict[str, object]) -> None:
    """Cut the arrays to the rows that were kept, and mark the group as whole, last of all."""
    group = zarr.open_group(where, mode="r+", use_consolidated=False)
    for array in plan.arrays:
        stored: Any = group[array.name]
        if stored.shape[0] != n_rows:
            stored.resize((n_rows, *array.shape))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", category=UserWarning)
        whole = zarr.consolidate_metadata(group.store, path=group.path or None)
    whole.attrs.update(cast(Any, {**attrs, COMPLETE: True}))


def publish(target: Target, work: Workspace) -> None:
    """Move a finished local group to its path; what was there stays until that moment."""
    if target.path is None:
        return
    if target.path.exists():
        shutil.rmtree(work.replaced, ignore_errors=True)
        target.path.replace(work.replaced)
    work.group.replace(target.path)


def open_ingested(target: Target) -> xr.Dataset:
    """Open a whole store lazily, without Dask.

    Raises
    ------
    StoreNotFoundError
        If there is none.
    StoreError
        If it was not written to its end.
    """
    try:
        attrs = zarr.open_group(target.store, mode="r").attrs
    except _OPEN_ERRORS as error:
        raise StoreNotFoundError(f"There is no Zarr group at {target.label}.") from error
    check_complete(attrs, target.label)
    dataset: xr.Dataset = xr.open_zarr(target.store, chunks=None)
    return dataset
