"""What the columns of a source are: their types, and the sorted table of categories of each text column.

Batches of rows come as NumPy arrays ``(n, ...)`` or pandas Series ``(n,)`` by column name. `examine` says what one
batch tells about a column, `scan` adds that up over the source, and `encode` turns values into what is stored.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dvi.errors import DataError
from dvi.types import AnyArray

type Batch = Mapping[str, Any]  # column name -> NumPy array (n, ...) or pandas Series (n,)
type Category = str | bool | int | float

MAX_CATEGORIES = 100_000


@runtime_checkable
class RowSource(Protocol):
    """Something with named columns whose rows can be read in order, from any row on."""

    @property
    def label(self) -> str:
        """Where the rows are, for people."""
        ...

    @property
    def fingerprint(self) -> object:
        """JSON that differs when the rows do."""
        ...

    @property
    def row_dim(self) -> str: ...

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None if only reading them all can tell."""
        ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def known(self) -> Mapping[str, Column]:
        """Columns whose type is known without looking at the rows."""
        ...

    @property
    def layout(self) -> Layout: ...

    def read(self, start: int, names: Sequence[str], nbytes: int, text: Collection[str] = ()) -> Iterator[Batch]:
        """Batches of about ``nbytes`` from row ``start`` on; columns in ``text`` are text, if the source can choose."""
        ...


@dataclass(frozen=True, slots=True)
class Layout:
    """What a source says about its columns beside their values."""

    dims: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # of a column, after the rows
    attrs: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)
    coords: xr.Dataset = dataclasses.field(default_factory=xr.Dataset)  # without rows; its attrs are the source's


@dataclass(frozen=True, slots=True)
class Column:
    """One column as it is stored; ``categories`` are the values that integer codes stand for."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()  # of one row
    categories: tuple[Category, ...] | None = None


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns and number of rows of a source."""

    columns: tuple[Column, ...]
    n_rows: int

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """Inverse of ``dataclasses.asdict``, after JSON has made lists of the tuples."""
        columns: list[dict[str, Any]] = [
            {key: tuple(value) if isinstance(value, list) else value for key, value in column.items()}
            for column in state["columns"]
        ]
        return cls(tuple(Column(**column) for column in columns), state["n_rows"])


@dataclass(frozen=True, slots=True)
class Found:
    """What rows tell about a column. Findings add."""

    name: str
    shape: tuple[int, ...] = ()
    number: np.dtype[Any] | None = None
    texts: frozenset[Category] = frozenset()
    order: tuple[Category, ...] | None = None  # of an ordered categorical
    missing: int = 0
    first_missing: int | None = None  # row

    def __post_init__(self) -> None:
        if len(self.texts) > MAX_CATEGORIES:
            raise DataError(
                f"Column {self.name!r} has more than {MAX_CATEGORIES} different texts, which is too many for a table "
                "of categories. Leave it out with columns=[...], or replace it by integers."
            )

    def __add__(self, other: Found) -> Found:
        numbers = [number for number in (self.number, other.number) if number is not None]
        orders = {found.order for found in (self, other) if found.texts}
        return Found(
            name=self.name,
            shape=other.shape,
            number=np.result_type(*numbers) if numbers else None,
            texts=self.texts | other.texts,
            order=orders.pop() if len(orders) == 1 else None,
            missing=self.missing + other.missing,
            first_missing=other.first_missing if self.first_missing is None else self.first_missing,
        )

    @property
    def is_mixed(self) -> bool:
        return self.number is not None and bool(self.texts)


def examine(name: str, values: Any, first_row: int = 0) -> Found:
    """What the values of one batch tell about their column; refuses what cannot be stored."""
    shape = tuple(values.shape[1:])
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf" and values.dtype.itemsize <= 8:
        return Found(name, shape, number=values.dtype.newbyteorder("="))
    series = _series(values)
    absent = series.isna().to_numpy()
    missing = int(absent.sum())
    first = first_row + int(absent.argmax()) // max(1, math.prod(shape)) if missing else None
    found = Found(name, shape, missing=missing, first_missing=first)
    if isinstance(series.dtype, pd.CategoricalDtype):
        used = series.cat.remove_unused_categories().cat.categories.tolist()
        order = tuple(series.cat.categories.tolist()) if series.dtype.ordered else None
        _check_categories(name, used if order is None else order)
        return dataclasses.replace(found, texts=frozenset(used), order=order)
    if (number := number_dtype(series.dtype)) is not None:
        return found if missing == len(series) else dataclasses.replace(found, number=number)
    if pd.api.types.infer_dtype(series, skipna=True) in ("string", "empty"):
        return dataclasses.replace(found, texts=frozenset(map(str, series.dropna().unique())))
    raise _refusal(name, series.dtype)


def number_dtype(dtype: Any) -> np.dtype[Any] | None:
    """The NumPy type of a NumPy or pandas type of numbers or booleans; None for all other types."""
    numpy_dtype = getattr(dtype, "numpy_dtype", dtype)
    is_number = isinstance(numpy_dtype, np.dtype) and numpy_dtype.kind in "biuf" and numpy_dtype.itemsize <= 8
    return numpy_dtype.newbyteorder("=") if is_number else None


def scan(
    source: RowSource,
    names: Sequence[str],
    nbytes: int,
    dropped: Collection[str] = (),
    report: Callable[[int], None] = lambda rows: None,
) -> Schema:
    """Types, categories and number of rows of the named columns, reading only what is not known already.

    Parameters
    ----------
    source : RowSource
    names : sequence of str
    nbytes : int
        Size of the batches to read, in bytes.
    dropped : collection of str
        Columns whose missing values are dropped with their rows.
    report : callable
        Called with the number of rows read so far, after each batch.

    Raises
    ------
    DataError
        If a column cannot be stored, lacks values that only a float could leave out, or if there are no rows.
    """
    columns = {name: source.known[name] for name in names if name in source.known}
    unknown = [name for name in names if name not in columns]
    n_rows = source.n_rows
    if unknown or n_rows is None:
        found, n_rows = _scan_once(source, unknown or list(names[:1]), nbytes, (), report)
        if mixed := [column.name for column in found.values() if column.is_mixed]:
            found, n_rows = _scan_once(source, unknown, nbytes, mixed, report)
        columns |= {name: settle(found[name], name in dropped) for name in unknown if name in found}
    if n_rows == 0:
        raise DataError(f"{source.label} has no rows: at least one is needed.")
    return Schema(tuple(columns[name] for name in names), n_rows)


def _scan_once(
    source: RowSource, names: Sequence[str], nbytes: int, text: Collection[str], report: Callable[[int], None]
) -> tuple[dict[str, Found], int]:
    found: dict[str, Found] = {}
    row = 0
    for batch in source.read(0, names, nbytes, text):
        for name in names:
            seen = examine(name, batch[name], row)
            found[name] = found[name] + seen if name in found else seen
        row += length(batch)
        report(row)
    return found, row


def settle(found: Found, dropped: bool) -> Column:
    """The rule for how a column is stored, given all its rows; ``dropped`` says that rows without a value go."""
    name = found.name
    if found.is_mixed:
        raise DataError(f"Column {name!r} has both numbers and text: convert it to one of them, e.g. astype(str).")
    if found.number is not None:
        whole = found.number.kind in "biu" and found.missing > 0 and not dropped
        return Column(name, "float64" if whole else found.number.str, found.shape)
    if not found.texts:
        raise DataError(f"Column {name!r} has no values at all: leave it out with columns=[...].")
    if found.missing and not dropped:
        raise DataError(
            f"Column {name!r} is text and lacks {found.missing} values, the first in row {found.first_missing}, and "
            f"no code stands for that. Fill them with a category of their own, or pass dropna=[{name!r}]."
        )
    _check_categories(name, found.texts)
    categories = found.order or tuple(sorted(found.texts))
    return Column(name, "int32", found.shape, categories)


def free_row_dim(names: Collection[str]) -> str:
    """The rule for naming the rows of a source without dimension names: ``row``, or else what is no column's name."""
    return next(
        name
        for name in ("row", "rows", "row_number", *(f"row_{i}" for i in range(len(names) + 1)))
        if name not in names
    )


def length(batch: Batch) -> int:
    """Rows of a batch."""
    return len(next(iter(batch.values())))


def missing_rows(values: Any) -> NDArray[np.bool_]:
    """Which rows ``(n,)`` lack a value."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biu":
        return np.zeros(len(values), dtype=bool)
    is_float = isinstance(values, np.ndarray) and values.dtype.kind == "f"
    absent = np.isnan(values) if is_float else _series(values).isna().to_numpy()
    rows: NDArray[np.bool_] = absent.reshape(len(values), math.prod(values.shape[1:])).any(axis=1)
    return rows


def encode(values: Any, column: Column) -> AnyArray:
    """Values ``(n, ...)`` of a column as they are stored: numbers, or codes of its categories."""
    dtype = np.dtype(column.dtype)
    if column.categories is not None:
        positions, present = pd.factorize(_series(values))
        codes = pd.Index(column.categories, dtype=object).get_indexer(pd.Index(present, dtype=object))
        if (positions < 0).any() or (codes < 0).any():
            raise DataError(f"Column {column.name!r} has values that were not there before: the source has changed.")
        return codes.astype(dtype)[positions].reshape(values.shape)
    if isinstance(values, np.ndarray):
        return _cast(values, column)
    number = number_dtype(values.dtype)
    if number is None and values.isna().all():
        return _cast(np.full(len(values), np.nan), column)
    if number is None:
        raise DataError(f"Column {column.name!r} was {column.dtype} and is now {values.dtype}: the source has changed.")
    if number.kind in "iu" and dtype.kind == "f" and values.abs().max() > 2**53:
        raise DataError(
            f"Column {column.name!r} lacks values, so its integers are stored as float64, and some are above 2**53, "
            f"where that is not exact. Fill the missing values, or pass dropna=[{column.name!r}]."
        )
    return _cast(values.to_numpy(dtype, na_value=np.nan) if dtype.kind == "f" else values.to_numpy(), column)


def _cast(values: AnyArray, column: Column) -> AnyArray:
    if not np.can_cast(values.dtype, column.dtype, "same_kind"):
        raise DataError(
            f"Column {column.name!r} was {column.dtype} and is now {values.dtype}: the source has changed, or its "
            "declared type is wrong."
        )
    return values.astype(column.dtype, copy=False)


def _series(values: Any) -> Any:
    """Values as a pandas Series ``(n,)``, rows of arrays unrolled."""
    if not isinstance(values, np.ndarray):
        return values
    return pd.Series(values.ravel() if values.dtype.kind == "O" else values.ravel().astype(object))


def _check_categories(name: str, categories: Collection[Any]) -> None:
    if not (all(isinstance(c, str) for c in categories) or all(isinstance(c, bool | int | float) for c in categories)):
        kinds = ", ".join(sorted({type(category).__name__ for category in categories}))
        raise DataError(
            f"Column {name!r} has categories of type {kinds}: only text, or only numbers, are allowed. "
            f"Convert them first, e.g. with .cat.rename_categories(str)."
        )


def _refusal(name: str, dtype: Any) -> DataError:
    remedy = "convert it to one of these"
    if getattr(dtype, "kind", "O") in "mM":
        remedy = "convert it to a number, e.g. of days since a date"
    return DataError(
        f"Column {name!r} has dtype {dtype}: numbers of at most 64 bits, booleans and text are allowed. "
        f"Leave it out with columns=[...], or {remedy}."
    )
