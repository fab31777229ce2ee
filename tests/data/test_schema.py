from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from dvi.data.schema import Column, Found, encode, examine, missing_rows, scan, settle
from dvi.data.tabular import pandas_table
from dvi.errors import DataError


def column_of(values: object, *, dropped: bool = False) -> Column:
    return settle(examine("a", values), dropped)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.zeros((4, 3), "f4"), "<f4"),
        (np.zeros(4, ">i2"), "<i2"),
        (pd.Series([1, 2]), "<i8"),
        (pd.Series([1, 2], dtype="UInt8"), "|u1"),
        (pd.Series([1, None], dtype="Int16"), "float64"),
        (pd.Series([True, None], dtype="boolean"), "float64"),
        (pd.Series([True, False]), "|b1"),
        (pd.Series([1.5, np.nan]), "<f8"),
        (pd.Series(["b", "a"]), "int32"),
        (pd.Series(["b", "a"], dtype=object), "int32"),
        (pd.Series(["b", "a"], dtype="category"), "int32"),
        (np.array(["b", "a"]), "int32"),
    ],
)
def test_how_values_are_stored(values, dtype) -> None:
    assert np.dtype(column_of(values).dtype) == np.dtype(dtype)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.Series(pd.to_datetime(["2020-01-01"])), r"'a' has dtype datetime64\[.*of days since a date"),
        (pd.Series([dt.date(2020, 1, 1)]), "'a' has dtype object"),
        (pd.Series([{"b": 1}]), "'a' has dtype object.*Leave it out"),
        (pd.Series([1, "b"], dtype=object), "'a' has dtype object"),
        (np.array([1j]), "'a' has dtype complex128|'a' has dtype object"),
        (np.array([b"x"]), "'a' has dtype"),
        (pd.Series(pd.cut([1, 2], 2)), "categories of type Interval"),
        (pd.Series([None, None], dtype=object), "no values at all"),
        (pd.Series(["x", None]), "lacks 1 values, the first in row 1"),
    ],
)
def test_what_cannot_be_stored_is_refused(values, message) -> None:
    with pytest.raises(DataError, match=message):
        column_of(values)


def test_findings_add() -> None:
    ints, floats = examine("a", pd.Series([1, 2])), examine("a", pd.Series([1.5]))
    assert settle(ints + floats, False).dtype == "<f8"
    late = examine("a", pd.Series(["z"])) + examine("a", pd.Series([None, "c"]), first_row=1)
    assert late.first_missing == 1
    assert settle(late, dropped=True).categories == ("c", "z")
    with pytest.raises(DataError, match="both numbers and text"):
        settle(ints + late, True)


def test_too_many_categories_are_refused() -> None:
    with pytest.raises(DataError, match="more than 100000 different texts"):
        Found("a", texts=frozenset(map(str, range(100_001))))


def test_categories_are_sorted_unless_they_have_an_order() -> None:
    values = pd.Series(["mid", "low", "high"])
    ordered = values.astype(pd.CategoricalDtype(["low", "mid", "high", "top"], ordered=True))
    assert column_of(values).categories == ("high", "low", "mid")
    assert column_of(values.astype("category")).categories == ("high", "low", "mid")
    assert column_of(ordered).categories == ("low", "mid", "high", "top")
    other = values.astype(pd.CategoricalDtype(["high", "mid", "low"], ordered=True))
    assert settle(examine("a", ordered) + examine("a", other), False).categories == ("high", "low", "mid")


@pytest.mark.parametrize("dtype", ["object", "str", "string", "category"])
def test_text_is_encoded_as_positions_in_the_categories(dtype) -> None:
    column = Column("a", "int32", (), ("a", "b", "c"))
    codes = encode(pd.Series(["c", "a", "c"], dtype=dtype), column)
    assert codes.dtype == np.int32
    assert codes.tolist() == [2, 0, 2]
    assert encode(np.array([["c", "a"]]), column).tolist() == [[2, 0]]
    with pytest.raises(DataError, match="the source has changed"):
        encode(pd.Series(["d"], dtype=dtype), column)


def test_values_that_no_longer_fit_their_column_are_refused() -> None:
    with pytest.raises(DataError, match="was int64 and is now float64"):
        encode(np.array([1.5]), Column("a", "int64"))
    with pytest.raises(DataError, match="was float64 and is now object"):
        encode(pd.Series(["x"], dtype=object), Column("a", "float64"))
    assert np.isnan(encode(pd.Series([None], dtype=object), Column("a", "float64"))).all()


def test_integers_that_a_float_cannot_hold_are_refused() -> None:
    values = pd.Series([2**53 + 1, None], dtype="Int64")
    with pytest.raises(DataError, match=r"above 2\*\*53"):
        encode(values, column_of(values))
    assert column_of(values, dropped=True).dtype == "<i8"


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1.0, 2.0], [np.nan, 1.0], [3.0, 3.0]]),
        np.array(["a", None, "b"], dtype=object),
        pd.Series([1, None, 2], dtype="Int64"),
        pd.Series(["a", None, "b"]),
    ],
)
def test_rows_that_lack_a_value(values) -> None:
    assert missing_rows(values).tolist() == [False, True, False]


def test_integers_are_never_missing() -> None:
    assert not missing_rows(np.zeros((3, 2), int)).any()


def test_scan_reads_only_what_is_not_known() -> None:
    table = pandas_table(pd.DataFrame({"a": [1.0, 2.0], "b": ["y", "x"], "c": [object(), object()]}))
    schema = scan(table, ["b", "a"], 1000)
    assert schema.n_rows == 2
    assert schema.columns == (Column("b", "int32", (), ("x", "y")), Column("a", "<f8"))
