"""What is in the rows of a source, as a short text: whether data are still what they were."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import zarr

from dvi.data import zarr_arrays
from dvi.data.chunks import row_nbytes
from dvi.data.derived import CastReader
from dvi.data.source import Source
from dvi.types import Reader

DIGEST_BYTES = 64 * 2**20  # of rows that are read
MOST_TAILS = 4096  # chunks of whose encoded bytes the last ones are read
_SIZE = 16  # bytes of a digest


def digests(source: Source) -> list[str]:
    """What is in every array of a source.

    This is the rule for how much is read, whatever the size of the data: all rows up to 64 MB, or as many chunks as
    that holds, the first and the last and some between; and the last 16 bytes of every stored chunk of full length, or
    of 4096 of them. The last bytes are a checksum of the chunk where it has a codec of that kind, as those that
    :func:`dvi.ingest` writes: there a change of any row is seen. Elsewhere a change of few rows of large data may not
    be.

    Parameters
    ----------
    source : Source

    Returns
    -------
    list of str
        In hexadecimal digits.

    Examples
    --------
    >>> from dvi.data.readers import reader
    >>> before, after = (Source.align([reader([1.0, last])]) for last in (2.0, 3.0))
    >>> digests(before) == digests(after)
    False
    """
    return [_digest(reader, source) for reader in source.readers]


def _digest(reader: Reader, source: Source) -> str:
    found = hashlib.blake2b(digest_size=_SIZE)
    starts = source.starts
    longest = int(np.diff(starts).max()) * row_nbytes(reader)
    for chunk in spread(source.n_chunks, max(1, DIGEST_BYTES // longest)):
        found.update(np.ascontiguousarray(reader.read(int(starts[chunk]), int(starts[chunk + 1]))))
    stored, first = _stored(reader)
    if stored is not None:
        for tail in zarr_arrays.chunk_tails(stored, first, first + source.n_rows, MOST_TAILS):
            found.update(tail)
    return found.hexdigest()


def spread(n: int, most: int) -> list[int]:
    """At most so many of the numbers below ``n``: the first, the last, and some between at equal distances.

    Examples
    --------
    >>> spread(3, 10), spread(101, 3), spread(5, 1)
    ([0, 1, 2], [0, 50, 100], [0])
    """
    return np.linspace(0, n - 1, min(n, most)).astype(int).tolist()


def _stored(reader: Reader) -> tuple[zarr.Array[Any] | None, int]:
    """The Zarr array behind a reader, if it is known, and which of its rows is the reader's first."""
    inner = reader.inner if isinstance(reader, CastReader) else reader
    stored = getattr(inner, "array", getattr(inner, "stored", None))
    return (stored if isinstance(stored, zarr.Array) else None), getattr(inner, "first_row", 0)
