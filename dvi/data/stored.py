"""Readers of arrays in a store. They travel as a reference to it, and every worker reads for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import zarr
from zarr.errors import ChunkNotFoundError

from dvi.data import zarr_arrays
from dvi.data.chunks import check_rows, virtual_chunks, without_secrets
from dvi.data.locations import brief, reachable
from dvi.errors import DataError, StoreDamagedError, StoreError, StoreNotFoundError
from dvi.types import AnyArray, Reader

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, slots=True, eq=False)
class ZarrReader:
    """Rows of a Zarr array, read straight from its store through Zarr's fused codec pipeline.

    Parameters
    ----------
    array
        Opened by `zarr_arrays.strict`: a chunk that is not there is an error.
    fill
        Whether missing chunks read as the array's fill value after all.
    """

    array: zarr.Array[Any]
    fill: bool = False
    in_memory: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype).newbyteorder("=")

    @property
    def chunk_rows(self) -> tuple[int, ...]:
        return self.array.read_chunk_sizes[0]

    @property
    def label(self) -> str:
        return label_of(self.array)

    def read(self, start: int, stop: int) -> AnyArray:
        check_rows(start, stop, self)
        with _explained(self, start, stop, self.array):
            try:
                slab = zarr_arrays.read_rows(self.array, start, stop)
            except ChunkNotFoundError as error:
                filling = _allowed(zarr_arrays.filling(self.array) if self.fill else None, self.array, error)
                slab = zarr_arrays.read_rows(filling, start, stop)
            return np.ascontiguousarray(slab, dtype=self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class XarrayReader:
    """Rows of a lazy xarray variable that is not simply one stored array: some rows of it, or values to be decoded.

    Parameters
    ----------
    variable
        Without data; a Zarr chunk that is not there is an error.
    filling
        The same variable, to be read where chunks are missing if they may be.
    stored
        The Zarr array behind it, if that is where it is.
    stored_rows
        Lengths of the stored chunks, if they are known.
    first_row
        The stored row that is the variable's first.
    """

    variable: xarray.Variable = field(repr=False)
    filling: xarray.Variable | None = field(default=None, repr=False)
    stored: zarr.Array[Any] | None = field(default=None, repr=False)
    stored_rows: tuple[int, ...] | None = field(default=None, repr=False)
    first_row: int = 0
    in_memory: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.variable.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.variable.dtype)
        return dtype.newbyteorder("=")

    @property
    def chunk_rows(self) -> tuple[int, ...]:
        return self.stored_rows or virtual_chunks(self.shape, self.dtype)

    @property
    def label(self) -> str:
        return "xarray" if self.stored is None else f"{label_of(self.stored)} through xarray"

    def read(self, start: int, stop: int) -> AnyArray:
        check_rows(start, stop, self)
        with _explained(self, start, stop, self.stored, self.first_row):
            try:
                slab = self.variable[start:stop].values
            except ChunkNotFoundError as error:
                filling = _allowed(self.filling, self.stored, error)
                slab = filling[start:stop].values
            return np.ascontiguousarray(slab, dtype=self.dtype)


def label_of(array: zarr.Array[Any]) -> str:
    """Where a Zarr array is, for people and without secrets."""
    return without_secrets(zarr_arrays.location(array))


def _allowed[T](filling: T | None, array: zarr.Array[Any] | None, error: ChunkNotFoundError) -> T:
    """What fills missing chunks, if that was allowed and the array itself can be seen from this process."""
    if array is not None and not zarr_arrays.is_visible(array):
        chunk = zarr_arrays.missing_chunk(error)
        raise StoreNotFoundError(
            f"{label_of(array)} was not found by this process, which needs its chunk {chunk!r}. Put it where every "
            "worker can read it, on a shared file system or in an object store; if it was there before, restore it."
        ) from error
    if filling is None:
        raise error
    return filling


@contextmanager
def _explained(
    array: Reader, start: int, stop: int, stored: zarr.Array[Any] | None, first_row: int = 0
) -> Iterator[None]:
    """Say which rows of which array could not be read, and what to do."""
    rows = f"Rows {start} to {stop} of {array.label}"
    try:
        with reachable(array.label):
            yield
    except StoreError:
        raise
    except ChunkNotFoundError as error:
        raise DataError(
            f"{array.label} lacks chunks among its rows {start} to {stop}: {error}. Write the array again, or allow "
            "missing chunks with dvi.data.readers.reader(array, missing='fill')."
        ) from error
    except OSError as error:
        raise StoreError(f"{rows} cannot be read ({brief(error)}). The store is out of reach: try again.") from error
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:  # what codecs raise
        key = None if stored is None else zarr_arrays.damaged_chunk(stored, first_row + start, first_row + stop)
        where = "The store" if key is None else f"Its chunk {key!r}"
        raise StoreDamagedError(
            f"{rows} cannot be read ({brief(error)}). {where} is damaged: write the array again, or restore a copy."
        ) from error
