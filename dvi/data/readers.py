"""Adapters that turn what a user gives into a `Reader`: one array, read by slabs of rows.

No pickle of a reader holds data. Arrays in memory become a `DetachedReader` on the other side, and their rows are
delivered by whoever sent the pickle; arrays in a store travel as a reference to it.
"""

from __future__ import annotations

import logging
import math
import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import zarr

from dvi.data import unwrap, zarr_arrays
from dvi.data.chunks import check_array, without_secrets
from dvi.data.derived import CastReader, RowNumberReader, cast_reader
from dvi.data.locations import Options, open_store, reachable
from dvi.data.memory import DeliveredReader, DetachedReader, MemoryReader
from dvi.data.stored import XarrayReader, ZarrReader, label_of
from dvi.errors import ArgumentError, ArgumentTypeError, DataError, DviError, StoreError, StoreNotFoundError
from dvi.types import AnyArray, Reader

if TYPE_CHECKING:
    import dask.array
    import xarray

__all__ = [
    "CastReader", "DeliveredReader", "DetachedReader", "MemoryReader", "RowNumberReader", "XarrayReader", "ZarrReader",
    "cast_reader", "reader",
]  # fmt: skip

type Missing = Literal["raise", "fill"]

MEMORY_BYTES = 2**30

logger = logging.getLogger(__name__)


def reader(value: object, *, missing: Missing = "raise", storage_options: Options | None = None) -> Reader:
    """Turn an array, wherever it is, into a `Reader` of its rows.

    Parameters
    ----------
    value
        A NumPy array, list, pandas Series or DataFrame of numbers; a Zarr array, or the path or URL of one; an xarray
        DataArray; a Dask array. A `Reader` is returned as it is.
    missing
        What a chunk that is absent from a Zarr store means: ``"raise"`` refuses the array, ``"fill"`` reads it as the
        array's fill value, which is what Zarr does in silence.
    storage_options : mapping, optional
        For a URL; see `open_store`.

    Raises
    ------
    ArgumentTypeError
        If ``value`` is something else.
    DataError
        If the array is a scalar, empty, not of numbers, lacks chunks, or is a lazy computation above 1 GB.
    StoreNotFoundError
        If a path leads to no array.

    Examples
    --------
    >>> import numpy as np
    >>> x = reader(np.arange(6.0).reshape(3, 2))
    >>> x.read(1, 3)
    array([[2., 3.],
           [4., 5.]])
    """
    if missing not in ("raise", "fill"):
        raise ArgumentError(f"missing={missing!r} is not allowed: choose 'raise' or 'fill'.")
    if all(hasattr(value, name) for name in ("read", "chunk_rows", "label")):
        return cast(Reader, value)
    if isinstance(value, str | PathLike):
        value = open_array(value, storage_options)
    if isinstance(value, zarr.Array):
        return _zarr_reader(value, missing)
    if _is_instance(value, "xarray", "DataArray", "Variable"):
        return _xarray_reader(cast("xarray.DataArray", value), missing)
    if _is_instance(value, "dask.array", "Array"):
        return _dask_reader(cast("dask.array.Array", value), missing)
    return MemoryReader(_numpy(value))


def open_array(path: str | PathLike[str], storage_options: Options | None = None) -> zarr.Array[Any]:
    """Open the Zarr array at a local path or URL for reading."""
    where = without_secrets(str(path))
    try:
        with reachable(where):
            node = zarr.open(open_store(path if isinstance(path, str) else Path(path), storage_options), mode="r")
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"There is no Zarr array at {where!r}: check the path.") from error
    except DviError:
        raise
    except Exception as error:  # damaged metadata have Zarr's codecs raise anything
        raise StoreError(
            f"{where!r} cannot be opened as a Zarr array: {without_secrets(str(error))}. "
            "Turn other formats into Zarr with dvi.ingest."
        ) from error
    if isinstance(node, zarr.Group):
        names = sorted(name for name, _ in node.arrays())
        example = f"{where.rstrip('/')}/{names[0] if names else 'name'}"
        raise DataError(
            f"{where!r} is a Zarr group, not an array. Its arrays are {', '.join(names) or '(none)'}: pick one, as in "
            f"{example!r}."
        )
    return node


def _zarr_reader(array: zarr.Array[Any], missing: Missing) -> Reader:
    check_array(array.shape, np.dtype(array.dtype), label_of(array))
    opened = ZarrReader(zarr_arrays.strict(array), fill=missing == "fill")
    _check_chunks(opened.array, missing)
    if not zarr_arrays.lives_in_memory(array):
        return opened
    _check_fits(array.nbytes, f"Zarr array {opened.label}", "Its store is this process's memory")
    rows = np.require(opened.read(0, array.shape[0]), requirements="W")  # as kernels take them where they are
    return MemoryReader(rows, opened.chunk_rows, opened.label)


def _check_chunks(array: zarr.Array[Any], missing: Missing) -> None:
    """Refuse an array whose store lacks some of its chunks, unless they may be missing."""
    if missing == "raise" and (absent := zarr_arrays.missing_chunks(array)):
        raise DataError(
            f"{label_of(array)} lacks {len(absent)} of its chunks, the first of them {absent[0]!r}. Zarr would read "
            f"them as {array.fill_value!r} in silence. If that is what they mean, pass "
            "dvi.data.readers.reader(array, missing='fill') in place of the array; if not, write it again."
        )


def _xarray_reader(value: xarray.DataArray | xarray.Variable, missing: Missing) -> Reader:
    variable = cast("xarray.Variable", getattr(value, "variable", value))
    name = f"xarray variable {getattr(value, 'name', None)!r}"
    check_array(variable.shape, np.dtype(variable.dtype), name)
    if variable.chunks is not None:
        return _dask_reader(variable.data, missing)
    lazy = unwrap.lazy_array(variable)
    return MemoryReader(_numpy(variable.values)) if lazy is None else _lazy_reader(lazy, name, missing)


def _lazy_reader(lazy: unwrap.LazyArray, name: str, missing: Missing) -> Reader:
    """Reader of what is behind xarray's lazy wrappers: the stored array itself, if its values need no more work."""
    if lazy.is_identity and lazy.stored is not None:
        return _zarr_reader(lazy.stored, missing)
    if lazy.stored is not None:
        _check_chunks(lazy.stored, missing)
    in_memory = lazy.stored is not None and zarr_arrays.lives_in_memory(lazy.stored)
    filling = lazy.filling if missing == "fill" else None
    opened = XarrayReader(lazy.variable, filling, lazy.stored, lazy.chunk_rows, lazy.first_row)
    if lazy.is_slice and not in_memory:
        return opened
    why = "Its store is this process's memory" if in_memory else "Its rows are scattered over the stored array"
    _check_fits(lazy.variable.nbytes, name, why)
    return MemoryReader(opened.read(0, opened.shape[0]), label=f"memory (read from {opened.label})")


def _dask_reader(array: dask.array.Array, missing: Missing) -> Reader:
    if any(map(math.isnan, array.shape)):
        raise DataError(
            f"The Dask array {array.name!r} has chunks of unknown length, shape {array.shape}: "
            "call array.compute_chunk_sizes() first."
        )
    check_array(array.shape, np.dtype(array.dtype), f"Dask array {array.name!r}")
    behind = unwrap.behind_dask(array)
    if isinstance(behind, zarr.Array):
        return _zarr_reader(behind, missing)
    if behind is not None:
        return _lazy_reader(behind, f"Dask array {array.name!r}", missing)
    _check_fits(array.nbytes, f"Dask array {array.name!r}", "It is not one stored array, so it would be computed first")
    logger.info("computing the Dask array %s, %.3g MB, into memory", array.name, array.nbytes / 1e6)
    chunk_rows = tuple(rows for rows in array.chunks[0] if rows > 0)
    return MemoryReader(np.asarray(array.compute()), chunk_rows, f"memory (computed from Dask {array.name})")


def _check_fits(nbytes: float, label: str, why: str) -> None:
    """The rule for what is taken into the client's memory unasked: at most 1 GB."""
    if nbytes > MEMORY_BYTES:
        raise DataError(
            f"{label} takes {nbytes / 2**30:.3g} GB. {why}, and at most 1 GB is taken into memory unasked: write it to "
            "Zarr with dvi.ingest(array, store), or pass it as a NumPy array if it fits in memory."
        )


def _numpy(value: object) -> AnyArray:
    """The NumPy array in a NumPy array, list, pandas Series or DataFrame."""
    if isinstance(value, np.ma.MaskedArray):
        raise DataError("Masked arrays are not allowed, as their masked values would be read: call .filled() first.")
    if _is_instance(value, "pandas", "Series", "DataFrame"):
        return _from_pandas(value)
    if isinstance(value, np.ndarray | np.generic | list | tuple | int | float):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise DataError(f"This list is not an array: {error}. Its rows must be equally long.") from error
    raise ArgumentTypeError(
        f"{type(value).__module__}.{type(value).__qualname__} is not an array that dvi can read. Allowed are NumPy "
        "arrays, lists, pandas Series and DataFrames of numbers, Zarr arrays and their paths, xarray DataArrays and "
        "Dask arrays. Convert it, or pick one variable of it."
    )


def _from_pandas(value: Any) -> AnyArray:
    """Values of a Series or DataFrame, refusing columns that hold no numbers or lack some."""
    columns = {name: value[name] for name in value.columns} if value.ndim == 2 else {value.name: value}
    arrays = {name: column.to_numpy() for name, column in columns.items()}
    bad = [f"{name!r} ({columns[name].dtype})" for name, array in arrays.items() if array.dtype.kind not in "biuf"]
    if bad:
        raise DataError(
            f"pandas columns {', '.join(bad)} are not numbers, or have missing values: leave them out or convert them, "
            "categories to integer codes, dates to numbers of days, missing values with fillna or dropna."
        )
    return cast(AnyArray, value.to_numpy(dtype=np.result_type(*arrays.values()) if arrays else None))


def _is_instance(value: object, module: str, *names: str) -> bool:
    """Whether ``value`` is of one of the named classes, without importing a module that made no value yet."""
    library = sys.modules.get(module)
    return library is not None and isinstance(value, tuple(getattr(library, name) for name in names))
