"""Readers made of other readers: casts, and row numbers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from dvi.data.readers import CastReader, DetachedReader, RowNumberReader, cast_reader, reader
from dvi.data.source import Source
from dvi.errors import ArgumentError, ArgumentTypeError, DataError, NonFiniteError

X = np.random.default_rng(0).normal(size=(1000, 3))


def test_rows_are_cast_when_they_are_read(tmp_path: Path) -> None:
    stored = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, dtype=X.dtype, chunks=(300, 3))
    stored[:] = X
    cast = cast_reader(reader(stored), "float32")
    assert (cast.shape, cast.dtype, cast.chunk_rows) == ((1000, 3), np.dtype("f4"), (300, 300, 300, 100))
    sent = pickle.dumps(cast)
    assert len(sent) < 5000
    for opened in (cast, pickle.loads(sent)):
        slab = opened.read(5, 700)
        assert slab.dtype == np.float32 and slab.flags.c_contiguous
        np.testing.assert_array_equal(slab, X[5:700].astype("f4"))


def test_a_cast_array_in_memory_is_delivered_cast() -> None:
    source = Source.align([cast_reader(reader(X), np.float32)], ["x"])
    assert source.in_memory == ("x",)
    sent = pickle.dumps(source)
    assert len(sent) < 5000
    there = pickle.loads(sent)
    assert isinstance(there.readers[0], DetachedReader)
    with pytest.raises(DataError, match="were not delivered"):
        there.read(0)
    there = there.with_pieces({c: source.pieces(c) for c in range(source.n_chunks)})
    for chunk in range(source.n_chunks):
        np.testing.assert_array_equal(there.read(chunk)[0], source.read(chunk)[0])
        assert there.read(chunk)[0].dtype == np.float32


def test_nothing_is_cast_without_need() -> None:
    opened = reader(X)
    assert cast_reader(opened, None) is opened
    assert cast_reader(opened, "float64") is opened
    assert isinstance(cast_reader(opened, "float32"), CastReader)


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([1.0, 2.0, 1.5], "int64", r"1\.5 at row 2"),
        ([1.0, np.nan], "int32", "nan at row 1"),
        ([1, 300], "uint8", "300 at row 1"),
        ([0, 2], "bool", "2 at row 1"),
    ],
)
def test_values_that_a_dtype_does_not_have_are_refused(values: list[Any], dtype: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cast_reader(reader(np.array(values)), dtype).read(0, len(values))


def test_values_that_overflow_are_refused_as_infinite() -> None:
    source = Source.align([cast_reader(reader(np.array([1.0, 1e300])), "float32")], ["x"])
    with pytest.raises(NonFiniteError, match="inf at row 1"):
        source.read(0)


def test_whole_numbers_are_cast_between_kinds() -> None:
    assert cast_reader(reader(np.array([0.0, 1.0])), "bool").read(0, 2).tolist() == [False, True]
    assert cast_reader(reader(np.array([3.0, -1.0])), "int8").read(0, 2).tolist() == [3, -1]


@pytest.mark.parametrize("dtype", ["complex128", "str", "not a dtype", object, "longdouble"])
def test_dtypes_that_cannot_be_read_are_refused(dtype: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="dtype="):
        cast_reader(reader(X), dtype)


def test_row_numbers_are_stored_nowhere() -> None:
    numbers = RowNumberReader(10**12)
    assert (numbers.shape, numbers.dtype, numbers.chunk_rows) == ((10**12,), np.dtype("i8"), (10**12,))
    assert numbers.read(10**11, 10**11 + 3).tolist() == [10**11, 10**11 + 1, 10**11 + 2]
    assert pickle.loads(pickle.dumps(numbers)) == numbers
    with pytest.raises(ArgumentError, match="row numbers"):
        numbers.read(0, 10**12 + 1)
