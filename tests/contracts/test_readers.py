"""What every `Reader` promises: one suite, one row per kind of value that `reader` takes."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dvi.data.readers import DeliveredReader, DetachedReader, MemoryReader, XarrayReader, ZarrReader, reader
from dvi.errors import ArgumentError, DataError
from dvi.types import AnyArray, Reader

N = 20_000
X = np.random.default_rng(1).normal(size=(N, 3)).round(2)
Y = np.arange(N, dtype=np.int32)


@dataclass(frozen=True)
class Case:
    value: Any
    expected: AnyArray
    kind: type
    chunk_rows: tuple[int, ...] | None = None  # None: any


def regular(rows: int) -> tuple[int, ...]:
    return (rows,) * (N // rows) + ((N % rows,) if N % rows else ())


def stored(path: Path, values: AnyArray = X, **settings: Any) -> zarr.Array[Any]:
    options = {"chunks": (3000, *values.shape[1:]), "shape": values.shape, "dtype": values.dtype, **settings}
    array = zarr.create_array(path, **options)
    array[...] = values
    return array


def dataset(path: Path, zarr_format: Literal[2, 3] = 3) -> Path:
    encoding = {"z": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -9999}}
    data = xr.Dataset({"x": (("row", "column"), X), "z": (("row", "column"), X)})
    data.chunk(row=3000).to_zarr(path, encoding=encoding, zarr_format=zarr_format)
    return path


def netcdf(path: Path) -> xr.DataArray:
    xr.Dataset({"x": (("row", "column"), X)}).to_netcdf(path, engine="scipy")
    return xr.open_dataset(path, engine="scipy")["x"]


def delivered() -> Reader:
    meta = pickle.loads(pickle.dumps(reader(X)))
    return DeliveredReader(meta, {start: X[start : start + 700] for start in reversed(range(0, N, 700))})


def decoded() -> AnyArray:
    return (X / 0.01).round().astype("int16") * 0.01


CASES: dict[str, Callable[[Path], Case]] = {
    "numpy": lambda p: Case(X, X, MemoryReader, (N,)),
    "numpy vector": lambda p: Case(Y, Y, MemoryReader, (N,)),
    "numpy fortran": lambda p: Case(np.asfortranarray(X), X, MemoryReader),
    "numpy big-endian": lambda p: Case(X.astype(">f4"), X.astype("f4"), MemoryReader),
    "numpy bool": lambda p: Case(X > 0, X > 0, MemoryReader),
    "numpy float16": lambda p: Case(X.astype("f2"), X.astype("f2"), MemoryReader),
    "numpy 4d": lambda p: Case(X.reshape(N, 3, 1, 1), X.reshape(N, 3, 1, 1), MemoryReader),
    "list": lambda p: Case(Y.tolist(), Y.astype(int), MemoryReader),
    "pandas series": lambda p: Case(pd.Series(Y), Y, MemoryReader),
    "pandas nullable": lambda p: Case(pd.Series(Y, dtype="Int64"), Y.astype(int), MemoryReader),
    "pandas frame": lambda p: Case(pd.DataFrame({"a": X[:, 0], "b": Y > 9}), np.c_[X[:, 0], Y > 9], MemoryReader),
    "delivered": lambda p: Case(delivered(), X, DeliveredReader),
    "zarr": lambda p: Case(stored(p), X, ZarrReader, regular(3000)),
    "zarr path": lambda p: Case(stored(p) and p, X, ZarrReader, regular(3000)),
    "zarr column chunks": lambda p: Case(stored(p, chunks=(3000, 2)), X, ZarrReader, regular(3000)),
    "zarr sharded": lambda p: Case(stored(p, chunks=(500, 3), shards=(5000, 3)), X, ZarrReader, regular(500)),
    "zarr v2": lambda p: Case(stored(p, zarr_format=2, order="F"), X, ZarrReader, regular(3000)),
    "zarr big-endian": lambda p: Case(stored(p, X.astype(">f8")), X, ZarrReader, regular(3000)),
    "zarr in memory": lambda p: Case(stored({}), X, MemoryReader, regular(3000)),  # type: ignore[arg-type]
    "xarray in memory": lambda p: Case(xr.DataArray(X), X, MemoryReader, (N,)),
    "xarray index": lambda p: Case(xr.Dataset(coords={"i": Y})["i"], Y, MemoryReader, (N,)),
    "xarray zarr": lambda p: Case(xr.open_zarr(dataset(p), chunks=None)["x"], X, ZarrReader, regular(3000)),
    "xarray zarr v2": lambda p: Case(
        xr.open_zarr(dataset(p, 2), chunks=None, mask_and_scale=False)["x"], X, ZarrReader, regular(3000)
    ),
    "xarray rows": lambda p: Case(
        xr.open_zarr(dataset(p), chunks=None)["x"][1000:8000, 1:], X[1000:8000, 1:], XarrayReader, (2000, 3000, 2000)
    ),
    "xarray stride": lambda p: Case(xr.open_zarr(dataset(p), chunks=None)["x"][::2], X[::2], MemoryReader),
    "xarray transposed": lambda p: Case(xr.open_zarr(dataset(p), chunks=None)["x"].T, X.T, MemoryReader),
    "xarray decoded": lambda p: Case(
        xr.open_zarr(dataset(p), chunks=None)["z"], decoded(), XarrayReader, regular(3000)
    ),
    "xarray netcdf": lambda p: Case(netcdf(p), X, XarrayReader),
    "xarray dask": lambda p: Case(xr.open_zarr(dataset(p))["x"], X, ZarrReader, regular(3000)),
    "xarray dask decoded": lambda p: Case(xr.open_zarr(dataset(p))["z"], decoded(), XarrayReader, regular(3000)),
    "xarray dask rows": lambda p: Case(xr.open_zarr(dataset(p))["x"][1000:], X[1000:], MemoryReader),
    "dask from_zarr": lambda p: Case(stored(p) and da.from_zarr(str(p)), X, ZarrReader, regular(3000)),
    "dask from_array": lambda p: Case(da.from_array(stored(p), chunks=(700, 3)), X, ZarrReader, regular(3000)),
    "dask inline": lambda p: Case(da.from_array(stored(p), inline_array=True), X, ZarrReader, regular(3000)),
    "dask computed": lambda p: Case(da.from_zarr(stored(p)) + 1, X + 1, MemoryReader, regular(3000)),
    "dask ragged": lambda p: Case(da.from_array(X, chunks=((1, 0, 19_998, 1), 3)), X, MemoryReader, (1, 19_998, 1)),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("readers")
    return {name: make(folder / f"{i}.data") for i, (name, make) in enumerate(CASES.items())}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    return cases[request.param]


def read_everywhere(opened: Reader, expected: AnyArray, start: int, stop: int) -> None:
    slab = opened.read(start, stop)
    assert slab.dtype == opened.dtype and slab.dtype.isnative
    assert slab.flags.c_contiguous and type(slab) is np.ndarray
    np.testing.assert_allclose(slab, expected[start:stop], rtol=1e-12)


def test_describes_the_array(case: Case) -> None:
    opened = reader(case.value)
    assert type(opened) is case.kind
    assert opened.shape == case.expected.shape
    assert opened.dtype == case.expected.dtype and opened.dtype.isnative
    assert sum(opened.chunk_rows) == opened.shape[0] and min(opened.chunk_rows) > 0
    assert case.chunk_rows is None or opened.chunk_rows == case.chunk_rows
    assert opened.label
    assert len(repr(opened)) < 500


@given(data=st.data())
@pytest.mark.parametrize("name", CASES)
def test_reads_any_slab(cases: dict[str, Case], name: str, data: st.DataObject) -> None:
    case = cases[name]
    opened = reader(case.value)
    n_rows = opened.shape[0]
    start = data.draw(st.integers(0, n_rows))
    read_everywhere(opened, case.expected, start, data.draw(st.integers(start, n_rows)))


def test_reads_everything_from_many_threads(case: Case) -> None:
    opened = reader(case.value)
    edges = np.linspace(0, opened.shape[0], 25).astype(int).tolist()
    with ThreadPoolExecutor(8) as threads:
        slabs = list(threads.map(opened.read, edges[:-1], edges[1:]))
    np.testing.assert_allclose(np.concatenate(slabs), case.expected, rtol=1e-12)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, N + 1)])
def test_refuses_rows_that_do_not_exist(case: Case, start: int, stop: int) -> None:
    with pytest.raises(ArgumentError, match=f"Rows {start} to {stop}"):
        reader(case.value).read(start, stop)


def test_pickle_holds_no_data(case: Case) -> None:
    opened = reader(case.value)
    opened.read(0, opened.shape[0])
    pickled = pickle.dumps(opened)
    assert len(pickled) < 10_000
    again = pickle.loads(pickled)
    assert (again.shape, again.dtype, again.chunk_rows, again.label) == (
        opened.shape,
        opened.dtype,
        opened.chunk_rows,
        opened.label,
    )
    if case.kind in (MemoryReader, DeliveredReader):
        assert type(again) is DetachedReader
        with pytest.raises(DataError, match="were not delivered to this worker"):
            again.read(0, 1)
    else:
        read_everywhere(again, case.expected, 10, 5000)


def test_a_reader_is_returned_as_it_is(case: Case) -> None:
    opened = reader(case.value)
    assert reader(opened) is opened
