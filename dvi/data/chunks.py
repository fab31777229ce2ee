"""Rules about arrays and their row chunks. Pure: no array is read here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np

from dvi.errors import ArgumentError, DataError
from dvi.types import Reader

type Runs = tuple[tuple[int, int], ...]

CHUNK_BYTES = 4 * 2**20


def rows_per_chunk(row_nbytes: int, chunk_nbytes: int = CHUNK_BYTES) -> int:
    """The rule for data without chunks of their own: as many whole rows as fit in 4 MB, and at least one."""
    return max(1, chunk_nbytes // max(1, row_nbytes))


def row_nbytes(array: Reader) -> int:
    """Decoded bytes of one row of an array."""
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def virtual_chunks(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Lengths of the row chunks of an array that has none of its own."""
    return regular_chunks(shape[0], rows_per_chunk(math.prod(shape[1:]) * dtype.itemsize))


def regular_chunks(n_rows: int, rows: int) -> tuple[int, ...]:
    """Lengths of the chunks when ``n_rows`` rows are cut every ``rows`` rows."""
    full, rest = divmod(n_rows, rows)
    return (rows,) * full + ((rest,) if rest else ())


def runs_of(lengths: Iterable[int]) -> Runs:
    """Run-length form of chunk lengths: ``(length, count)`` pairs, so that a million equal chunks pickle as one."""
    return tuple((int(length), sum(1 for _ in run)) for length, run in groupby(lengths))


def lengths_of(runs: Runs) -> tuple[int, ...]:
    """Inverse of `runs_of`."""
    return tuple(length for length, count in runs for _ in range(count))


def check_array(shape: tuple[int, ...], dtype: np.dtype[Any], label: str) -> None:
    """Refuse arrays that cannot be streamed: scalars, empty arrays, and anything but real numbers."""
    if len(shape) == 0:
        raise DataError(
            f"A scalar Minibatch is not possible: {label} has no dimension along which to take rows. "
            "Pass an array of at least one dimension, and use the number itself in the model."
        )
    if math.prod(shape) == 0:
        raise DataError(f"{label} has shape {shape}, which holds no values: at least one row and column are needed.")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(
            f"{label} has dtype {dtype}: booleans, integers and floats of at most 64 bits are allowed. "
            "Convert it first: categories to integer codes, dates to numbers of days, objects with astype."
        )


def check_rows(start: int, stop: int, array: Reader) -> None:
    """Refuse row ranges outside the array."""
    if not 0 <= start <= stop <= array.shape[0]:
        raise ArgumentError(f"Rows {start} to {stop} are not within 0 to {array.shape[0]} of {array.label}.")


def without_secrets(label: str) -> str:
    """A path or URL without the user name, password or signed query that it may carry."""
    return re.sub(r"\?\S*", "", re.sub(r"//[^/\s]*@", "//", label))
