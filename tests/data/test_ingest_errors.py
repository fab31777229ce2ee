"""Bad input is refused with one clear message, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import filelock
import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from dvi.data.ingest import ingest
from dvi.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    DviError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)

FRAME = pd.DataFrame({"a": [1.0, 2.0], "b": [3, 4], "c": ["x", "y"]})


def refuse(error: type[DviError], match: str, source: object, store: Any, **options: Any) -> None:
    with pytest.raises(error, match=match):
        ingest(source, store, progressbar=False, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chunk_bytes": 0}, ArgumentError, "chunk_bytes=0 is not allowed: it must be at least 1"),
        ({"chunk_bytes": 1.5}, ArgumentTypeError, "chunk_bytes=1.5 is not allowed: pass an integer"),
        ({"memory_bytes": -1}, ArgumentError, "memory_bytes=-1 is not allowed"),
        ({"random_seed": -1}, ArgumentError, "random_seed=-1 is not allowed: it must be at least 0"),
        ({"random_seed": None}, ArgumentTypeError, "random_seed=None is not allowed: pass an integer"),
        ({"columns": ["a", "B"]}, ArgumentError, "columns names 'B'; known are 'a', 'b', 'c'"),
        ({"columns": "a"}, ArgumentTypeError, "columns='a' is not allowed: pass a list"),
        ({"columns": []}, ArgumentError, r"columns=\[\] leaves nothing to store"),
        ({"pack": {"x": ["a", "bb"]}}, ArgumentError, r"pack\['x'\] names 'bb'.*did you mean 'b'\?"),
        ({"pack": {"x": []}}, ArgumentError, r"pack\['x'\] is empty"),
        ({"pack": {"x": ["a", "c"]}}, DataError, "pack='x' names 'c', which is text"),
        ({"pack": {"b": ["a"]}}, ArgumentError, "has the name of a column that is stored on its own"),
        ({"pack": {"__x": ["a"]}}, DataError, "cannot be the name of a Zarr array"),
        ({"dropna": ["z"]}, ArgumentError, "dropna names 'z'"),
        ({"dropna": "a"}, ArgumentTypeError, "dropna='a' is not allowed"),
    ],
)
def test_arguments(options, error, message, tmp_path) -> None:
    refuse(error, message, FRAME, tmp_path / "store.zarr", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (FRAME[:0], DataError, "has no rows"),
        (FRAME[[]], DataError, "has no columns"),
        (pd.DataFrame(np.eye(2), columns=["a", "a"]), DataError, "several columns named 'a'"),
        (FRAME.assign(d=pd.Timestamp("2020-01-01")), DataError, "'d' has dtype datetime64.*Leave it out with columns"),
        (FRAME.assign(d=[object(), object()]), DataError, "'d' has dtype object"),
        (FRAME.assign(c=["x", None]), DataError, r"'c' is text and lacks 1 values.*dropna=\['c'\]"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, DataError, "'x' has 3 rows and 'y' has 4"),
        ({"x": np.zeros(())}, DataError, "'x' is a scalar"),
        ({"x": np.zeros((3, 0))}, DataError, r"rows of shape \(0,\), which hold no values"),
        ({"x": np.ma.zeros(3)}, DataError, "'x' is a masked array"),
        ({"x": np.zeros(3, [("a", "f8")])}, DataError, "'x' is a structured array"),
        ({"a/b": np.zeros(3)}, DataError, "'a/b' cannot be the name of a Zarr array"),
        ({"a": np.zeros(3), "\\": np.zeros(3)}, DataError, "cannot be the name of a Zarr array: .* without slashes"),
        ({}, DataError, "holds no arrays"),
        (da.from_array(np.arange(4))[da.from_array(np.arange(4)) > 1], DataError, "compute_chunk_sizes"),
        (xr.Dataset(), DataError, "has no data variables"),
        (xr.Dataset({"x": ("row", [1]), "k": ("z", [1])}), DataError, "'k' has dimensions .*set_coords"),
        ([], ArgumentTypeError, "list cannot be ingested. Allowed are"),
        (7, ArgumentTypeError, "int cannot be ingested"),
        ("nowhere.csv", StoreNotFoundError, "There is nothing at 'nowhere.csv'"),
        ("nowhere-*.csv", StoreNotFoundError, "There is nothing at"),
    ],
)
def test_sources(source, error, message, tmp_path) -> None:
    refuse(error, message, source, tmp_path / "store.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.txt", "a", ArgumentError, "has no known format. Allowed are .parquet"),
        ("a.csv", "", DataError, "cannot be read as CSV with a header"),
        ("a.csv", "a,b\n", DataError, "has no rows"),
        ("a.csv", "a\n1\n2,3\n", DataError, "cannot be read as CSV"),
        ("a.csv", "a,b\n1,\n2,\n", DataError, "'b' has no values at all"),
        ("a.csv.gz", "a\n1\n", DataError, "cannot be read as CSV"),
        ("a.parquet", "no", DataError, "cannot be read as Parquet"),
        ("a.npy", "no", DataError, "cannot be mapped into memory"),
        ("a.npz", "no", DataError, "cannot be read as .npz"),
    ],
)
def test_files(name, content, error, message, tmp_path) -> None:
    (tmp_path / name).write_text(content)
    refuse(error, message, tmp_path / name, tmp_path / "store.zarr")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_pickled_arrays_are_never_loaded(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    refuse(DataError, "cannot be mapped into memory", tmp_path / "x.npy", tmp_path / "store.zarr")


@pytest.mark.parametrize("suffix", ["npz", "zarr"])
def test_several_files_where_one_is_read(suffix, tmp_path) -> None:
    paths = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for path in paths:
        np.savez(path, x=np.zeros(3)) if suffix == "npz" else zarr.create_group(path)
    refuse(DataError, "only one .* can be read at a time", paths, tmp_path / "store.zarr")


def test_two_files_of_one_name(tmp_path) -> None:
    paths = [tmp_path / "1" / "x.npy", tmp_path / "2" / "x.npy"]
    for path in paths:
        path.parent.mkdir()
        np.save(path, np.zeros(3))
    refuse(DataError, "several files of one name", paths, tmp_path / "store.zarr")


def test_a_remote_file_cannot_be_mapped(tmp_path) -> None:
    with fsspec.open("memory://dvi-test/x.npy", "wb") as file:
        np.save(file, np.zeros(3))
    refuse(ArgumentError, "copy it to this machine first", "memory://dvi-test/x.npy", tmp_path / "store.zarr")


def test_names_of_dimensions(tmp_path) -> None:
    y = xr.DataArray(np.eye(2), dims=("a", "k"))
    refuse(DataError, "'k' is the name of an array and of a dim", {"k": np.zeros(2), "y": y}, tmp_path / "store.zarr")
    source = xr.Dataset({"a": ("row", [1.0, 2.0])}, {"x_column": [1, 2, 3]})
    message = "'x_column' of 'x' is 1 long and 3 elsewhere"
    refuse(DataError, message, source, tmp_path / "store.zarr", pack={"x": ["a"]})
    message = "'x_column' has the name of a dimension as well"
    source = pd.DataFrame({"a": [1.0], "x_column": [1.0]})
    refuse(DataError, message, source, tmp_path / "store.zarr", pack={"x": ["a"]})


def test_an_empty_folder(tmp_path) -> None:
    refuse(StoreNotFoundError, "is not a Zarr store and holds no Parquet or CSV", tmp_path, tmp_path / "store.zarr")


def test_files_with_different_columns(tmp_path) -> None:
    FRAME.to_parquet(tmp_path / "1.parquet")
    FRAME[["a", "b"]].to_parquet(tmp_path / "2.parquet")
    refuse(DataError, "differ in the columns 'c'", str(tmp_path / "*.parquet"), tmp_path / "store.zarr")


def test_files_of_several_formats(tmp_path) -> None:
    FRAME.to_parquet(tmp_path / "1.parquet")
    FRAME.to_csv(tmp_path / "2.csv")
    refuse(ArgumentError, "several formats, parquet, csv", [tmp_path / "1.parquet", tmp_path / "2.csv"], tmp_path / "s")


def test_all_rows_dropped(tmp_path) -> None:
    for shuffle in (True, False):
        source = pd.DataFrame({"a": [np.nan, np.nan]})
        refuse(
            DataError, "All rows of .* lack a value in one of a", source, tmp_path / "s", dropna=True, shuffle=shuffle
        )
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_for_so_many_rows(tmp_path) -> None:
    refuse(ArgumentError, "memory_bytes=1 is too little .* at least", np.zeros(10_000), tmp_path / "s", memory_bytes=1)


def test_too_little_disk_space(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1}))
    refuse(StoreError, "The shuffle needs .* make room", FRAME, tmp_path / "store.zarr")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_is_kept(tmp_path) -> None:
    store = tmp_path / "store.zarr"
    ingest(FRAME[:1], store, progressbar=False)
    refuse(StoreExistsError, "exists already. Open it with .* overwrite=True", FRAME, store)
    assert ingest(FRAME, store, overwrite=True, progressbar=False).sizes["row"] == 2


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_not_a_store_is_never_overwritten(kind, tmp_path) -> None:
    path = tmp_path / "precious"
    path.mkdir() if kind == "folder" else path.write_text("")
    refuse(StoreExistsError, "exists already", FRAME, path)
    refuse(StoreError, "is not a Zarr group and will not be overwritten", FRAME, path, overwrite=True)
    assert path.exists()


def test_a_zarr_array_is_not_overwritten(tmp_path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros(3))
    refuse(StoreError, "is not a Zarr group", FRAME, tmp_path / "a.zarr", overwrite=True)


def test_a_foreign_group_in_a_store_that_cannot_rename_is_kept() -> None:
    store = zarr.storage.MemoryStore()
    zarr.create_group(store)
    refuse(StoreExistsError, "exists already", FRAME, store)


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    refuse(StoreError, "cannot be written: .* Choose a folder", FRAME, tmp_path / "file" / "store.zarr")


@pytest.mark.parametrize(("store", "error"), [(7, ArgumentTypeError), ("", ArgumentError)])
def test_stores(store, error) -> None:
    refuse(error, "is not allowed: pass", FRAME, store)


def test_two_at_once(tmp_path: Path) -> None:
    (tmp_path / "store.zarr.partial").mkdir()
    with filelock.FileLock(tmp_path / "store.zarr.partial" / "lock"):
        refuse(StoreError, "Another dvi.ingest is writing", FRAME, tmp_path / "store.zarr")
    assert ingest(FRAME, tmp_path / "store.zarr", progressbar=False).sizes["row"] == 2
