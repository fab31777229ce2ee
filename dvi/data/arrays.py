"""Arrays as sources of rows: NumPy arrays and files, Dask arrays, xarray objects and Zarr groups.

All of them are brought into one lazy xarray Dataset, which is read slab by slab along its leading dimension.
"""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr
import zarr

from dvi.data import unwrap, zarr_arrays
from dvi.data.files import Files
from dvi.data.schema import Batch, Column, Layout, free_row_dim
from dvi.data.store import check_complete
from dvi.errors import DataError, DviWarning

_ENCODING_ATTRS = ("_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates")


@dataclass(frozen=True, slots=True)
class ArrayRows:
    """A `RowSource` of arrays that share their leading dimension."""

    label: str
    fingerprint: object
    dataset: xr.Dataset = field(repr=False)
    row_dim: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(str, self.dataset.data_vars))

    @property
    def n_rows(self) -> int:
        return int(self.dataset.sizes[self.row_dim])

    @property
    def known(self) -> dict[str, Column]:
        return {
            str(name): Column(str(name), array.dtype.newbyteorder("=").str, array.shape[1:])
            for name, array in self.dataset.data_vars.items()
            if array.dtype.kind in "biuf" and array.dtype.itemsize <= 8
        }

    @property
    def layout(self) -> Layout:
        without_rows = {name: c for name, c in self.dataset.coords.items() if self.row_dim not in c.dims}
        coords = xr.Dataset(coords=without_rows, attrs=_json_attrs(self.dataset.attrs))
        return Layout(
            dims={str(name): tuple(map(str, v.dims[1:])) for name, v in self.dataset.data_vars.items()},
            attrs={str(name): _json_attrs(v.attrs) for name, v in self.dataset.data_vars.items()},
            coords=coords,
        )

    def read(self, start: int, names: Sequence[str], nbytes: int, text: Collection[str] = ()) -> Iterator[Batch]:
        chosen = self.dataset[list(names)]
        chosen = chosen.drop_vars(list(chosen.coords))
        for begin, end in steps(chosen, self.row_dim, nbytes):
            if end > start:
                part = chosen.isel({self.row_dim: slice(max(begin, start), end)}).compute()
                yield {name: part[name].values for name in names}


def steps(dataset: xr.Dataset, row_dim: str, nbytes: int) -> Iterator[tuple[int, int]]:
    """Rows to read at a time: whole Dask chunks, or about ``nbytes`` and whole stored chunks."""
    n_rows = dataset.sizes[row_dim]
    if lengths := dataset.chunksizes.get(row_dim):
        edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        yield from itertools.pairwise(edges)
        return
    stored = max(
        (v.encoding.get("preferred_chunks", {}).get(row_dim, 1) for v in dataset.variables.values()), default=1
    )
    rows = max(1, nbytes * n_rows // max(1, dataset.nbytes))
    rows = max(stored, rows // stored * stored)
    for begin in range(0, n_rows, rows):
        yield begin, min(begin + rows, n_rows)


def array_rows(arrays: Mapping[str, Any], label: str, fingerprint: object = None) -> ArrayRows:
    """Arrays by name, from NumPy, Dask, Zarr or xarray, or lists of numbers.

    Raises
    ------
    DataError
        If they differ in length, or one is a scalar, masked, structured or of unknown length.
    """
    if not arrays:
        raise DataError(f"{label} holds no arrays: at least one is needed; give another store or group.")
    row_dim = free_row_dim([str(name) for name in arrays])
    variables = {str(name): _variable(str(name), value, row_dim) for name, value in arrays.items()}
    if clash := sorted(set(variables) & {str(dim) for variable in variables.values() for dim in variable.dims}):
        raise DataError(f"{clash[0]!r} is the name of an array and of a dimension of another: rename one of them.")
    (first, shortest), *others = variables.items()
    for name, variable in others:
        if variable.shape[0] != shortest.shape[0]:
            raise DataError(
                f"{label} has arrays of different lengths: {first!r} has {shortest.shape[0]} rows and {name!r} has "
                f"{variable.shape[0]}. Rows belong together, so all need the same number."
            )
    token = fingerprint_of(variables) if fingerprint is None else fingerprint
    return ArrayRows(label, token, xr.Dataset(variables).unify_chunks(), row_dim)


def _variable(name: str, value: Any, row_dim: str) -> xr.Variable:
    """A lazy variable whose leading dimension is the rows."""
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(f"{name!r} is a masked array, whose masked values would be stored: call .filled(np.nan) first.")
    if isinstance(value, xr.DataArray | xr.Variable):
        _check_rows(name, value)
        array = value if isinstance(value, xr.DataArray) else xr.DataArray(value)
        return array.rename({array.dims[0]: row_dim}).variable
    if isinstance(value, zarr.Array):
        value = dask.array.from_zarr(value)
    elif not isinstance(value, np.ndarray | dask.array.Array):
        value = np.asarray(value)
    _check_rows(name, value)
    return xr.Variable((row_dim, *(f"{name}_dim_{i}" for i in range(1, value.ndim))), value)


def _check_rows(name: str, value: Any) -> None:
    if value.ndim == 0:
        raise DataError(
            f"{name!r} is a scalar: arrays of at least one dimension are allowed; leave it out with columns=."
        )
    if value.dtype.kind == "V":
        raise DataError(f"{name!r} is a structured array: pass {{field: array[field] for field in array.dtype.names}}.")
    if any(np.isnan(size) for size in value.shape):
        raise DataError(f"{name!r} is a Dask array with chunks of unknown length: call .compute_chunk_sizes() first.")


def xarray_rows(
    data: xr.Dataset | xr.DataArray, label: str = "xarray Dataset", fingerprint: object = None
) -> ArrayRows:
    """An xarray object, with its dimension names, attributes and the coordinates that do not run along the rows.

    Raises
    ------
    DataError
        If its variables do not share their leading dimension.
    """
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name="x" if data.name is None else str(data.name))
    if not data.data_vars:
        raise DataError(
            f"{label} has no data variables: at least one is needed; coordinates become some with reset_coords."
        )
    data = data.rename_vars({name: str(name) for name in data.variables})
    first, array = next(iter(data.data_vars.items()))
    _check_rows(str(first), array)
    row_dim = str(array.dims[0])
    for name, variable in data.data_vars.items():
        if variable.dims[:1] != (row_dim,):
            raise DataError(
                f"{name!r} has dimensions {variable.dims} and {first!r} has {array.dims}: all variables must have the "
                f"rows, here {row_dim!r}, as leading dimension. Transpose it, make it a coordinate with set_coords, or "
                "drop it with drop_vars."
            )
    along = [str(name) for name, coord in data.coords.items() if row_dim in coord.dims]
    if along:
        message = f"The coordinates {', '.join(along)} run along the rows and are left out. "
        warnings.warn(message + "To keep one, make it a variable with reset_coords.", DviWarning, stacklevel=5)
    token = fingerprint_of(data.variables) if fingerprint is None else fingerprint
    return ArrayRows(label, token, data.drop_vars(along).unify_chunks(), row_dim)


def npy_rows(files: Files) -> ArrayRows:
    """One ``.npy`` file for each column, named by the file, mapped into memory."""
    arrays = {PurePosixPath(path).stem: _memory_map(files.local(path), path) for path in files.paths}
    if len(arrays) < len(files.paths):
        raise DataError(
            f"{files.label} have several files of one name: each file is a column of its name; rename them."
        )
    return array_rows(arrays, files.label, files.fingerprint())


def npz_rows(files: Files, scratch: Path) -> ArrayRows:
    """The arrays of an ``.npz`` file, unpacked into the folder ``scratch`` and mapped into memory from there."""
    if len(files.paths) > 1:
        raise DataError(f"{files.label}: only one .npz file can be read at a time.")
    path = files.local(files.paths[0])
    scratch.mkdir(parents=True, exist_ok=True)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for position, member in enumerate(archive.namelist()):
                unpacked = scratch / f"{position}.npy"
                with archive.open(member) as source, unpacked.open("wb") as target:
                    shutil.copyfileobj(source, target, 2**20)
                arrays[member.removesuffix(".npy")] = _memory_map(unpacked, f"{path}:{member}")
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} cannot be read as .npz ({error}); write it again with numpy.savez") from error
    return array_rows(arrays, files.label, files.fingerprint())


def _memory_map(path: str | Path, label: str) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises whatever the parser and the operating system do
        raise DataError(
            f"{label} cannot be mapped into memory as a NumPy array of numbers ({error}); save it again with numpy.save"
        ) from error


def zarr_rows(files: Files) -> ArrayRows:
    """A Zarr group or array, with the dimension names that it has."""
    if len(files.paths) > 1:
        raise DataError(f"{files.label}: only one Zarr store can be read at a time.")
    return zarr_node_rows(zarr.open(files.store(files.paths[0]), mode="r"), files.label, files.fingerprint())


def zarr_node_rows(node: zarr.Group | zarr.Array[Any], label: str, fingerprint: object = None) -> ArrayRows:
    """An open Zarr group or array; warns of missing chunks, which Zarr reads as its fill value."""
    check_complete(node.attrs, label)
    arrays = {node.basename or "x": node} if isinstance(node, zarr.Array) else dict(node.arrays())
    for name, array in arrays.items():
        if absent := zarr_arrays.missing_chunks(array):
            message = f"{label} lacks {len(absent)} chunks of {name!r}, the first of them {absent[0]!r}: "
            message += f"their rows are read as {array.fill_value!r}. Write the array again if that is not meant."
            warnings.warn(message, DviWarning, stacklevel=5)
    if isinstance(node, zarr.Group) and all(_has_dims(array) for array in arrays.values()):
        data = xr.open_zarr(node.store, group=node.path or None, chunks=None, consolidated=False)
        return xarray_rows(data, label, fingerprint)
    return array_rows(arrays, label, fingerprint)


def _has_dims(array: zarr.Array[Any]) -> bool:
    if array.metadata.zarr_format == 3:
        return array.metadata.dimension_names is not None
    return "_ARRAY_DIMENSIONS" in array.attrs


def fingerprint_of(variables: Mapping[Any, xr.Variable]) -> dict[str, object]:
    """Shapes, types and a digest of the values; lazy ones are not loaded for it, but known by where they are.

    Of lazy values that Dask does not manage, the store and a few rows from the start, the middle and the end count.
    """
    return {
        str(name): {"shape": list(v.shape), "dtype": str(v.dtype), "token": _token(v)} for name, v in variables.items()
    }


def _token(variable: xr.Variable) -> str:
    lazy = None if variable.chunks is not None else unwrap.lazy_array(variable)
    if lazy is None:
        return str(dask.base.tokenize(variable.data))
    where = str(variable.encoding.get("source") if lazy.stored is None else lazy.stored.store_path)
    n_rows = variable.shape[0] if variable.ndim else 0
    firsts = (0, n_rows // 2, max(0, n_rows - 16)) if n_rows else ()
    return str(dask.base.tokenize(where, *(variable[row : row + 16].values for row in firsts)))


def _json_attrs(attrs: Mapping[Any, Any]) -> dict[str, object]:
    """The attributes that JSON can hold and that do not describe how values are stored."""
    kept = {}
    for name, value in attrs.items():
        plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        try:
            json.dumps(plain, allow_nan=False)
        except (TypeError, ValueError):
            continue
        if name not in _ENCODING_ATTRS:
            kept[str(name)] = plain
    return kept
