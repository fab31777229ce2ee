"""Tables as sources of rows: Parquet and CSV files, pandas and Dask DataFrames.

A table is a sequence of parts (a row group, a file, a partition), each read as a sequence of pandas DataFrames.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import dask
import numpy as np
import pandas as pd

from dvi.data.files import Files, compression_of
from dvi.data.schema import Batch, Column, Layout, free_row_dim, number_dtype
from dvi.errors import ArgumentError, DataError, DviError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_SAMPLE_ROWS = 1000
_ARROW_ROWS = 16_384

# Floats are read to the last bit by default from pandas 3.1 on, and on request before.
_EXACT_FLOATS = {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}


class Part(Protocol):
    """Consecutive rows of a table."""

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None if only reading them can tell."""
        ...

    def frames(self, names: Sequence[str], nbytes: int, text: Collection[str]) -> Iterator[pd.DataFrame]:
        """All rows in order, in DataFrames of about ``nbytes``."""
        ...


@dataclass(frozen=True, slots=True)
class Table:
    """A `RowSource` made of parts."""

    label: str
    fingerprint: object
    names: tuple[str, ...]
    known: Mapping[str, Column]
    parts: Sequence[Part] = field(repr=False)
    layout: Layout = field(default_factory=Layout)

    @property
    def row_dim(self) -> str:
        return free_row_dim(self.names)

    @property
    def n_rows(self) -> int | None:
        lengths = [part.n_rows for part in self.parts]
        return None if None in lengths else sum(rows for rows in lengths if rows is not None)

    def read(self, start: int, names: Sequence[str], nbytes: int, text: Collection[str] = ()) -> Iterator[Batch]:
        skip = start
        for part in self.parts:
            if part.n_rows is not None and part.n_rows <= skip:
                skip -= part.n_rows
                continue
            for frame in part.frames(names, nbytes, text):
                if len(frame) > skip:
                    yield {name: frame[name].iloc[skip:].reset_index(drop=True) for name in names}
                skip = max(0, skip - len(frame))


def _checked_names(names: Sequence[object], label: str) -> tuple[str, ...]:
    """Names of columns as text, each of them once."""
    texts = [str(name) for name in names]
    if repeated := [name for name in texts if texts.count(name) > 1]:
        raise DataError(f"{label} has several columns named {repeated[0]!r}: give each its own name.")
    if not texts:
        raise DataError(f"{label} has no columns: at least one is needed; check that it is the right file.")
    return tuple(texts)


def _known(dtypes: Mapping[str, Any]) -> dict[str, Column]:
    """Columns whose NumPy type leaves no room for doubt; pandas types of their own may lack values."""
    return {name: Column(name, number_dtype(d).str) for name, d in dtypes.items() if _is_plain(d)}  # type: ignore[union-attr]


def _is_plain(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and number_dtype(dtype) is not None


@dataclass(frozen=True, slots=True)
class FramePart:
    """A DataFrame in memory."""

    frame: pd.DataFrame = field(repr=False)

    @property
    def n_rows(self) -> int:
        return len(self.frame)

    def frames(self, names: Sequence[str], nbytes: int, text: Collection[str]) -> Iterator[pd.DataFrame]:
        rows = _rows_within(self.frame.iloc[:_SAMPLE_ROWS], nbytes)
        for start in range(0, len(self.frame), rows):
            yield self.frame[list(names)].iloc[start : start + rows]


def pandas_table(frame: pd.DataFrame) -> Table:
    """A pandas DataFrame; its index is not a column."""
    names = _checked_names(list(frame.columns), "The DataFrame")
    named = frame.set_axis(list(names), axis=1)
    known = _known(dict(zip(names, named.dtypes, strict=True)))
    return Table("pandas DataFrame", dask.base.tokenize(frame), names, known, (FramePart(named),))


@dataclass(frozen=True, slots=True)
class DaskPart:
    """One partition of a Dask DataFrame."""

    partition: Any = field(repr=False)
    names: tuple[str, ...]
    n_rows: int

    def frames(self, names: Sequence[str], nbytes: int, text: Collection[str]) -> Iterator[pd.DataFrame]:
        wanted = [self.names.index(name) for name in names]
        yield self.partition[[self.partition.columns[i] for i in wanted]].compute().set_axis(list(names), axis=1)


def dask_table(frame: Any) -> Table:
    """A Dask DataFrame, computed partition by partition; their lengths are computed at once."""
    names = _checked_names(list(frame.columns), "The Dask DataFrame")
    known = _known(dict(zip(names, frame.dtypes, strict=True)))
    lengths = frame[[frame.columns[0]]].map_partitions(len).compute()
    parts = [DaskPart(frame.partitions[i], names, int(rows)) for i, rows in enumerate(lengths)]
    return Table("Dask DataFrame", dask.base.tokenize(frame), names, known, parts)


@dataclass(frozen=True, slots=True)
class CsvPart:
    """One CSV file, compressed or not. Rows before those asked for are parsed and left."""

    files: Files
    path: str
    n_rows: None = None

    def frames(self, names: Sequence[str], nbytes: int, text: Collection[str]) -> Iterator[pd.DataFrame]:
        chosen = [name for name in text if name in names]
        rows = _SAMPLE_ROWS
        try:
            with self.open(usecols=list(names), dtype=dict.fromkeys(chosen, "string")) as reader:
                while True:
                    frame = reader.get_chunk(rows)
                    rows = _rows_within(frame, nbytes)
                    yield frame
        except StopIteration:
            return
        except (ValueError, OSError, EOFError) as error:
            raise DataError(
                f"{self.path} cannot be read as CSV ({error}): repair that line, or write the file again"
            ) from error

    @contextmanager
    def open(self, **options: Any) -> Iterator[Any]:
        read_csv: Any = pd.read_csv
        separator = "\t" if ".tsv" in self.path.lower().rsplit("/", 1)[-1] else ","
        with (
            self.files.fs.open(self.path, "rb") as file,
            read_csv(
                file,
                compression=compression_of(self.path),
                sep=separator,
                iterator=True,
                low_memory=False,
                **_EXACT_FLOATS,
                dtype_backend="numpy_nullable",
                **options,
            ) as reader,
        ):
            yield reader

    def header(self) -> tuple[str, ...]:
        try:
            with self.open(nrows=0) as reader:
                return tuple(map(str, reader.read().columns))
        except (ValueError, OSError, EOFError) as error:
            raise DataError(
                f"{self.path} cannot be read as CSV with a header ({str(error).strip()}): its first line names "
                "the columns, and every line has as many values"
            ) from error


def csv_table(files: Files) -> Table:
    """CSV files with a header, the same columns in each. Types are found by reading them once."""
    parts = [CsvPart(files, path) for path in files.paths]
    headers = [part.header() for part in parts]
    _check_same_columns(headers, files.paths)
    return Table(files.label, files.fingerprint(), _checked_names(headers[0], files.label), {}, parts)


@dataclass(frozen=True, slots=True)
class ParquetPart:
    """One row group of a Parquet file."""

    files: Files
    path: str
    group: int
    n_rows: int

    def frames(self, names: Sequence[str], nbytes: int, text: Collection[str]) -> Iterator[pd.DataFrame]:
        import pyarrow as pa

        waiting: list[pa.RecordBatch] = []
        with _parquet(self.files, self.path) as file:
            for batch in file.iter_batches(_ARROW_ROWS, row_groups=[self.group], columns=list(names)):
                waiting.append(batch)
                if sum(each.nbytes for each in waiting) >= nbytes:
                    yield _to_pandas(pa.Table.from_batches(waiting))
                    waiting = []
            if waiting:
                yield _to_pandas(pa.Table.from_batches(waiting))


def parquet_table(files: Files) -> Table:
    """Parquet files with the same columns in each, read by row groups."""
    parts: list[ParquetPart] = []
    headers: list[tuple[str, ...]] = []
    known: list[dict[str, Column]] = []
    for path in files.paths:
        with _parquet(files, path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            headers.append(tuple(name for name in schema.names if not name.startswith("__index_level_")))
            known.append(_known_parquet(file))
        parts += [ParquetPart(files, path, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
    _check_same_columns(headers, files.paths)
    names = _checked_names(headers[0], files.label)
    agreed = {name: each for name, each in known[0].items() if all(other.get(name) == each for other in known)}
    return Table(files.label, files.fingerprint(), names, agreed, parts)


@contextmanager
def _parquet(files: Files, path: str) -> Iterator[pq.ParquetFile]:
    """An open Parquet file; damaged ones raise whatever the decoders of their pages do."""
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ArgumentError(f"{path} needs pyarrow to be read: pip install pyarrow.") from error
    try:
        with pq.ParquetFile(path, filesystem=files.fs) as file:
            yield file
    except DviError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({error}); open it with pandas to see why, and write it again"
        ) from error


def _known_parquet(file: pq.ParquetFile) -> dict[str, Column]:
    """Columns of floats, and of integers and booleans that the file's statistics show to be complete."""
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    complete: dict[str, bool] = {}
    for group in groups:
        for i in range(group.num_columns):
            chunk = group.column(i)
            statistics = chunk.statistics
            full = statistics is not None and statistics.has_null_count and statistics.null_count == 0
            complete[chunk.path_in_schema] = complete.get(chunk.path_in_schema, True) and full
    known = {}
    for arrow in file.schema_arrow:
        try:
            dtype = np.dtype(arrow.type.to_pandas_dtype())
        except (NotImplementedError, TypeError):
            dtype = np.dtype(object)
        if _is_plain(dtype) and (dtype.kind == "f" or complete.get(arrow.name)):
            known[arrow.name] = Column(arrow.name, dtype.str)
    return known


def _to_pandas(table: Any) -> pd.DataFrame:
    """A DataFrame whose integers and booleans keep their type where values are missing."""
    import pyarrow as pa

    nullable = {
        getattr(pa, name)(): getattr(pd, name.title().replace("Ui", "UI") + "Dtype")()
        for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    }
    frame: pd.DataFrame = table.to_pandas(
        types_mapper={**nullable, pa.bool_(): pd.BooleanDtype()}.get, ignore_metadata=True
    )
    return frame


def _check_same_columns(headers: Sequence[tuple[str, ...]], paths: Sequence[str]) -> None:
    for (a, b), path in zip(pairwise(headers), paths[1:], strict=True):
        if set(a) != set(b):
            differ = ", ".join(map(repr, sorted(set(a) ^ set(b))))
            raise DataError(
                f"{path} and the file before it differ in the columns {differ}: all files must have the same; ingest "
                "them apart."
            )


def _rows_within(frame: pd.DataFrame, nbytes: int) -> int:
    """Rows like those of a DataFrame that take about ``nbytes``."""
    taken = int(frame.memory_usage(index=False, deep=True).sum())
    return max(1, nbytes * max(1, len(frame)) // max(1, taken))
