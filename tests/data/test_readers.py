"""What `reader` refuses, and what it says."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from dvi.data import readers
from dvi.data.chunks import without_secrets
from dvi.data.readers import MemoryReader, XarrayReader, ZarrReader, reader
from dvi.errors import ArgumentError, ArgumentTypeError, DataError, StoreError, StoreNotFoundError

X = np.arange(300.0).reshape(100, 3)


@pytest.fixture
def stored(tmp_path: Path) -> zarr.Array[Any]:
    array = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, dtype=X.dtype, chunks=(30, 3), fill_value=-1)
    array[:] = X
    return array


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, "A scalar Minibatch is not possible: The array in memory"),
        (np.float32(3), "A scalar Minibatch is not possible"),
        (np.array(3), "A scalar Minibatch is not possible"),
        (xr.DataArray(3), "A scalar Minibatch is not possible: xarray variable None"),
        (da.from_array(np.array(3)), "A scalar Minibatch is not possible: Dask array"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        ([], r"shape \(0,\)"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.array(["a"]), "dtype <U1: booleans, integers and floats"),
        (np.array([1, None]), "dtype object"),
        (np.array(["2020-01-01"], "M8[D]"), r"dtype datetime64\[D\].*dates to numbers of days"),
        (np.array([1j]), "dtype complex128"),
        (np.ones(3, np.longdouble), r"dtype .*128"),
        (xr.DataArray(np.array(["a"]), name="city"), "xarray variable 'city' has dtype <U1"),
        (da.from_array(np.array([1j])), "Dask array .* has dtype complex128"),
        ([[1, 2], [3]], "Its rows must be equally long"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), r"call .filled\(\) first"),
        (pd.Series(["a", "b"]), "categories to integer codes"),
        (pd.DataFrame({"a": [1.0], "when": [pd.Timestamp(2020, 1, 1)], "s": ["x"]}), "columns 'when' .*, 's' "),
        (pd.DataFrame(index=[1, 2]), "holds no values"),
        (da.from_array(X)[da.from_array(X)[:, 0] > 3], r"array.compute_chunk_sizes\(\)"),
    ],
)
def test_refuses_what_cannot_be_streamed(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        reader(value)


@pytest.mark.parametrize("value", [{"x": [1]}, None, {1}, iter([1]), xr.Dataset({"x": ("row", X[:, 0])}), zarr])
def test_refuses_other_types(value: object) -> None:
    with pytest.raises(ArgumentTypeError, match=r"Allowed are NumPy arrays, .* pick one variable of it"):
        reader(value)


def test_refuses_other_meanings_of_missing() -> None:
    with pytest.raises(ArgumentError, match="missing='ignore'"):
        reader(X, missing="ignore")  # type: ignore[arg-type]


class TestPaths:
    def test_nothing_there(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.zarr", str(tmp_path / "none.zarr")):
            with pytest.raises(StoreNotFoundError, match=r"none.zarr': check the path"):
                reader(path)

    def test_a_group(self, tmp_path: Path) -> None:
        xr.Dataset({"x": ("row", X[:, 0]), "y": ("row", X[:, 1])}).to_zarr(tmp_path / "data.zarr")
        with pytest.raises(DataError, match=r"is a Zarr group.* arrays are x, y: pick one, as in '.*data.zarr/x'"):
            reader(tmp_path / "data.zarr")
        assert reader(tmp_path / "data.zarr/y").read(1, 2) == [4]

    def test_another_format(self, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_text("1,2")
        with pytest.raises(StoreError, match=r"x.csv"):
            reader(tmp_path / "x.csv")

    def test_a_relative_path_is_read_from_anywhere(
        self, stored: zarr.Array[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        opened = reader("x.zarr")
        monkeypatch.chdir("/")
        assert opened.label == f"file://{tmp_path}/x.zarr"
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened)).read(0, 100), X)


class TestMissingChunks:
    @pytest.fixture
    def holey(self, stored: zarr.Array[Any], tmp_path: Path) -> zarr.Array[Any]:
        (tmp_path / "x.zarr/c/1/0").unlink()
        (tmp_path / "x.zarr/c/3/0").unlink()
        return stored

    @pytest.fixture(params=["zarr", "dask", "xarray", "xarray part"])
    def value(self, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
        data = xr.Dataset({"x": (("row", "column"), X)}).chunk(row=30)
        data.to_zarr(tmp_path / "d.zarr", encoding={"x": {"_FillValue": -1.0}}, zarr_format=3)
        (tmp_path / "d.zarr/x/c/1/0").unlink()
        (tmp_path / "d.zarr/x/c/3/0").unlink()
        opened = xr.open_zarr(tmp_path / "d.zarr", chunks=None, mask_and_scale=False)["x"]
        return {
            "zarr": zarr.open_array(tmp_path / "d.zarr/x", mode="r"),
            "dask": da.from_zarr(str(tmp_path / "d.zarr/x")),
            "xarray": opened,
            "xarray part": opened[10:],
        }[request.param]

    def test_are_refused_with_a_choice(self, value: Any) -> None:
        with pytest.raises(DataError, match=r"lacks 2 of its chunks, the first of them 'c/1/0'.* missing='fill'"):
            reader(value)

    def test_can_be_filled(self, value: Any) -> None:
        opened = reader(value, missing="fill")
        assert type(opened) is (XarrayReader if value.shape[0] == 90 else ZarrReader)
        opened = pickle.loads(pickle.dumps(opened))
        expected = X.copy()
        expected[30:60] = expected[90:] = value[-1, 0]
        np.testing.assert_array_equal(opened.read(0, opened.shape[0]), expected[100 - opened.shape[0] :])

    def test_that_go_missing_later_are_refused(self, stored: zarr.Array[Any], tmp_path: Path) -> None:
        opened = reader(stored)
        (tmp_path / "x.zarr/c/1/0").unlink()
        np.testing.assert_array_equal(opened.read(0, 30), X[:30])
        with pytest.raises(DataError, match=r"lacks chunks among its rows 20 to 40.*c/1/0"):
            opened.read(20, 40)

    @pytest.mark.parametrize("missing", ["raise", "fill"])
    def test_are_told_from_a_store_that_is_not_there(
        self, stored: zarr.Array[Any], tmp_path: Path, missing: readers.Missing
    ) -> None:
        opened = reader(stored, missing=missing)
        shutil.rmtree(tmp_path / "x.zarr")
        with pytest.raises(StoreNotFoundError, match=r"chunk 'c/0/0'\. Put it where every worker can read it"):
            opened.read(20, 40)


@pytest.mark.parametrize("part", [slice(None), slice(1, None)])
def test_a_damaged_chunk_is_a_store_error(tmp_path: Path, part: slice) -> None:
    xr.Dataset({"x": (("row", "column"), X)}).chunk(row=30).to_zarr(tmp_path / "d.zarr")
    (tmp_path / "d.zarr/x/c/1/0").write_bytes(b"damaged")
    opened = reader(xr.open_zarr(tmp_path / "d.zarr", chunks=None)["x"][part])
    with pytest.raises(StoreError, match=r"Rows 25 to 35 of file:.*d.zarr/x.* cannot be read"):
        opened.read(25, 35)


class TestTakenIntoMemory:
    @pytest.fixture(autouse=True)
    def _small_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readers, "MEMORY_BYTES", 2000)

    def test_a_lazy_dask_array(self, stored: zarr.Array[Any], caplog: pytest.LogCaptureFixture) -> None:
        array = da.from_zarr(stored) + 1
        with pytest.raises(DataError, match=r"not one stored array.*dvi.ingest\(array, store\)"):
            reader(array)
        with caplog.at_level("INFO", "dvi"):
            assert type(reader(array[:50])) is MemoryReader
        assert "computing the Dask array" in caplog.text

    def test_scattered_rows_of_a_stored_array(self, tmp_path: Path) -> None:
        xr.Dataset({"x": (("row", "column"), X)}).to_zarr(tmp_path / "d.zarr")
        data = xr.open_zarr(tmp_path / "d.zarr", chunks=None)["x"]
        with pytest.raises(DataError, match="scattered over the stored array"):
            reader(data[np.random.default_rng(0).permutation(100)])
        np.testing.assert_array_equal(reader(data[[5, 3, 90]]).read(0, 3), X[[5, 3, 90]])

    def test_a_store_in_memory(self) -> None:
        array = zarr.create_array({}, data=X, chunks=(30, 3))
        with pytest.raises(DataError, match="Its store is this process's memory"):
            reader(array)
        store = zarr.storage.MemoryStore()
        xr.Dataset({"x": (("row", "column"), X)}).to_zarr(store)
        with pytest.raises(DataError, match="Its store is this process's memory"):
            reader(xr.open_zarr(store, chunks=None)["x"][1:])

    def test_arrays_above_the_limit_that_are_in_memory_already(self) -> None:
        assert np.shares_memory(reader(X).read(10, 20), X)
        assert np.shares_memory(reader(xr.DataArray(X)).read(10, 20), X)
        frame = pd.DataFrame(X)
        opened = reader(frame)
        assert isinstance(opened, MemoryReader) and np.shares_memory(opened.array, frame.to_numpy())


def test_no_secrets_in_labels() -> None:
    assert without_secrets("s3://key:secret@bucket/x.zarr") == "s3://bucket/x.zarr"
    assert without_secrets("https://h.org/x.zarr?sig=abc&se=2") == "https://h.org/x.zarr"
    assert without_secrets("file:///home/me@work/x.zarr") == "file:///home/me@work/x.zarr"
