"""The data as they are now: how many rows, and what tells whether they are still the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xarray as xr
import zarr

from dvi.data.locations import open_store, reachable
from dvi.data.readers import reader
from dvi.data.store import check_complete, target_of
from dvi.errors import DataError, StoreNotFoundError

if TYPE_CHECKING:
    from dvi.retraining.config import DataConfig


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A store at one moment.

    Parameters
    ----------
    dataset : Dataset
        Lazy.
    row_dim : str
        Its leading dimension.
    arrays : dict
        Type and shape of a row of each array.
    first, last : str
        Digests of the first and the last row.
    """

    dataset: xr.Dataset
    row_dim: str
    arrays: dict[str, Any]
    first: str
    last: str

    @property
    def n_rows(self) -> int:
        """Rows of every array."""
        return int(self.dataset.sizes[self.row_dim])

    def rows(self, start: int, stop: int) -> xr.Dataset:
        """Some of the rows, lazily."""
        return self.dataset.isel({self.row_dim: slice(start, stop)})

    def fingerprint(self) -> dict[str, Any]:
        """What a record keeps of the data."""
        return {"rows": self.n_rows, "arrays": self.arrays, "first": self.first, "last": self.last}


def look(config: DataConfig) -> Snapshot:
    """Open the store and read its first and last row; a listing shows whether chunks are missing.

    Raises
    ------
    StoreNotFoundError
        If there is none.
    DataError
        If its arrays do not share their leading dimension, or chunks are missing.
    StoreDamagedError
        If one of these rows cannot be decoded.
    """
    label = target_of(config.store, config.storage_options).label
    where = open_store(config.store, config.storage_options)
    with reachable(label):
        try:
            check_complete(zarr.open_group(where, mode="r", use_consolidated=False).attrs, label)
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"There is no Zarr group at {label}: check data.store.") from error
        try:  # what was appended since the metadata were consolidated is not in them
            dataset = xr.open_zarr(where, chunks=None, consolidated=False)
        except ValueError as error:  # arrays of different lengths along one dimension
            raise DataError(
                f"The arrays of {label} do not fit together ({error}): is a delivery unfinished?"
            ) from error
    row_dim = _row_dim(dataset, label)
    readers = {str(name): reader(array) for name, array in dataset.data_vars.items()}
    arrays = {name: {"dtype": str(r.dtype), "shape": list(r.shape[1:])} for name, r in readers.items()}
    n_rows = int(dataset.sizes[row_dim])
    first, last = (_digest({name: r.read(i, i + 1) for name, r in readers.items()}) for i in (0, n_rows - 1))
    return Snapshot(dataset, row_dim, arrays, first, last)


def _row_dim(dataset: xr.Dataset, label: str) -> str:
    leading = {str(array.dims[0]) if array.dims else "" for array in dataset.data_vars.values()}
    if len(leading) != 1 or "" in leading:
        raise DataError(
            f"The arrays of {label} have the leading dimensions {sorted(leading)}: they must share one, the rows."
        )
    return leading.pop()


def _digest(row: dict[str, Any]) -> str:
    told = json.dumps({name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in sorted(row.items())})
    return hashlib.sha256(told.encode()).hexdigest()[:16]
