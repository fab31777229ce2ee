"""Readers of what is not stored: another reader's rows in another dtype, and the numbers of the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from dvi.data.chunks import check_rows, runs_of
from dvi.data.memory import DetachedReader, is_in_memory
from dvi.errors import ArgumentTypeError, DataError
from dvi.types import AnyArray, Reader


@dataclass(frozen=True, slots=True, eq=False)
class CastReader:
    """Rows of another reader, cast when they are read.

    Floats may lose precision. A value that has no counterpart, such as 1.5 or NaN among integers, is refused. The
    pickle of a cast array in memory is a `DetachedReader` of the new dtype, whose rows are delivered cast.
    """

    inner: Reader
    dtype: np.dtype[Any]
    in_memory: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_memory", is_in_memory(self.inner))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def chunk_rows(self) -> tuple[int, ...]:
        return self.inner.chunk_rows

    @property
    def label(self) -> str:
        return self.inner.label

    def read(self, start: int, stop: int) -> AnyArray:
        slab = self.inner.read(start, stop)
        with np.errstate(invalid="ignore", over="ignore"):
            cast = slab.astype(self.dtype)
        if self.dtype.kind != "f" and not np.array_equal(cast, slab):
            self._refuse(slab, cast, start)
        return cast

    def _refuse(self, slab: AnyArray, cast: AnyArray, start: int) -> None:
        index = np.unravel_index(int(np.argmax(cast != slab)), slab.shape)
        raise DataError(
            f"{self.label} has {slab[index]} at row {start + int(index[0])}, which is no value of dtype {self.dtype}: "
            "choose a wider dtype, or convert the array first."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if self.in_memory:
            return DetachedReader, (self.shape, self.dtype, runs_of(self.chunk_rows), self.label)
        return CastReader, (self.inner, self.dtype)

    def __copy__(self) -> CastReader:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> CastReader:
        return self


@dataclass(frozen=True, slots=True)
class RowNumberReader:
    """The numbers of the rows, ``(n_rows,)``, as an array that is stored nowhere."""

    n_rows: int
    label: ClassVar[str] = "row numbers"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n_rows,)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int64)

    @property
    def chunk_rows(self) -> tuple[int, ...]:
        return (self.n_rows,)

    def read(self, start: int, stop: int) -> AnyArray:
        check_rows(start, stop, self)
        return np.arange(start, stop, dtype=np.int64)


def cast_reader(inner: Reader, dtype: object) -> Reader:
    """The reader itself, or one that casts its rows to another dtype.

    Raises
    ------
    ArgumentTypeError
        If ``dtype`` is not one of numbers.

    Examples
    --------
    >>> from dvi.data.readers import reader
    >>> cast_reader(reader([1, 2, 3]), "float32").read(0, 2)
    array([1., 2.], dtype=float32)
    """
    if dtype is None:
        return inner
    try:
        wanted = np.dtype(dtype).newbyteorder("=")  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError):  # NumPy evaluates strings with a comma
        wanted = np.dtype(object)
    if wanted.kind not in "biuf" or wanted.itemsize > 8:
        raise ArgumentTypeError(
            f"dtype={dtype!r} is not one that can be read: give bool, an integer or a float of at most 64 bits, for "
            "instance 'float32', or leave it out."
        )
    return inner if wanted == inner.dtype else CastReader(inner, wanted)
