"""Rows put where they are due, which is most of what it takes to permute data that are read once.

NumPy looks at every row of an assignment by index anew, and a processor reads what is in memory before it overwrites a
part of it. Loops over words are two to five times as quick, and long rows are written past the cache, where nobody
needs them before they are pushed out of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from dvi.compiled import compiled
from dvi.model.intrinsics import intrinsic
from dvi.types import AnyArray

type _Numbers = NDArray[np.int64]

LONG_BYTES = 256  # of a row, from which on it is quicker to write past the cache: measured on 8 to 1600 bytes
_WORDS = (np.int64, np.int32, np.int16, np.int8)


def scatter(array: AnyArray, where: _Numbers, rows: AnyArray) -> None:
    """``array[where] = rows``, for rows of the same type.

    Parameters
    ----------
    array : array, shape (N, ...)
        C-contiguous.
    where : array of int, shape (n,)
        Each at least 0 and below N, which is not looked at again.
    rows : array, shape (n, ...)

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((3, 2))
    >>> scatter(x, np.array([2, 0]), np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> x.tolist()
    [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]
    """
    if len(rows) == 0:
        return
    n_bytes = rows.nbytes // len(rows)
    word = next(w for w in _WORDS if n_bytes % np.dtype(w).itemsize == 0)
    into, of = (x.reshape(len(x), -1).view(word) for x in (array, np.ascontiguousarray(rows)))
    if not (into.flags.aligned and of.flags.aligned):
        array[where] = rows
    elif word is np.int64 and n_bytes >= LONG_BYTES:
        _past_the_cache(into, where, of)
    else:
        _by_words(into, where, of)


@compiled
def _by_words(array: Any, where: Any, rows: Any) -> None:
    for i in range(len(where)):
        row = where[i]
        for j in range(array.shape[1]):
            array[row, j] = rows[i, j]


@compiled
def _past_the_cache(array: Any, where: Any, rows: Any) -> None:
    width, first = array.shape[1], array.ctypes.data
    for i in range(len(where)):
        place = first + 8 * width * where[i]
        for j in range(width):
            _stream(place + 8 * j, rows[i, j])
    _fence()


@intrinsic
def _stream(typing_context: Any, address: Any, word: Any) -> Any:
    """Write a word past the cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        store = builder.store(arguments[1], pointer, align=8)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _fence(typing_context: Any) -> Any:
    """Have everything written before whatever is written next: what goes past the cache keeps to no order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
