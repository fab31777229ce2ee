"""From what a user gives to a source of rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import dask
import dask.array
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from dask.base import is_dask_collection
from dask.utils import is_dataframe_like

from dvi.data.arrays import array_rows, npy_rows, npz_rows, xarray_rows, zarr_node_rows, zarr_rows
from dvi.data.files import Files, list_files
from dvi.data.locations import Options
from dvi.data.schema import RowSource
from dvi.data.tabular import csv_table, dask_table, pandas_table, parquet_table
from dvi.errors import ArgumentTypeError


def row_source(source: object, scratch: Path, storage_options: Options | None = None) -> RowSource:
    """The `RowSource` of a path, URL, pattern or list of these, of arrays or of a table; itself if it is one.

    Parameters
    ----------
    source
        See `dvi.ingest`.
    scratch : Path
        A folder in which compressed arrays may be unpacked.
    storage_options : mapping, optional
        For a URL.

    Raises
    ------
    ArgumentTypeError
        If dvi cannot read such a thing.
    StoreNotFoundError
        If a path leads nowhere.
    DataError
        If the data have no rows or columns that can be told apart.
    """
    paths = [source] if isinstance(source, str | os.PathLike) else source
    if isinstance(paths, list | tuple) and paths and all(isinstance(path, str | os.PathLike) for path in paths):
        return _file_rows(list_files(paths, storage_options), scratch)
    found = _array_rows(source) or _table(source) or source
    if isinstance(found, RowSource):
        return found
    raise ArgumentTypeError(
        f"{type(source).__module__}.{type(source).__qualname__} cannot be ingested. Allowed are paths, URLs, patterns "
        "and lists of Parquet, CSV, .npy and .npz files, Zarr stores, NumPy arrays and dicts of arrays, pandas and "
        "Dask DataFrames, Dask arrays, and xarray Datasets and DataArrays."
    )


def _array_rows(source: object) -> RowSource | None:
    match source:
        case xr.Dataset() | xr.DataArray():
            return xarray_rows(source)
        case zarr.Group() | zarr.Array():
            return zarr_node_rows(source, str(source.store_path))
        case np.ndarray() | dask.array.Array():
            return array_rows({"x": source}, "The array")
        case Mapping():
            return array_rows(source, "The dict of arrays")
    return None


def _table(source: object) -> RowSource | None:
    if isinstance(source, pd.DataFrame):
        return pandas_table(source)
    return dask_table(source) if is_dask_collection(source) and is_dataframe_like(source) else None


def _file_rows(files: Files, scratch: Path) -> RowSource:
    match files.format:
        case "parquet":
            return parquet_table(files)
        case "csv":
            return csv_table(files)
        case "npy":
            return npy_rows(files)
        case "npz":
            return npz_rows(files, scratch)
        case "zarr":
            return zarr_rows(files)
