"""A global shuffle of more rows than fit in memory: sort them by a random key.

Every row of the source has a 64-bit key that depends on the seed and on the row's number alone, and the shuffled order
is the order of the keys. So the permutation is the same whatever the file format, the batches, the chunks and the
memory. It is found in two passes, as in an external sort: rows are scattered to bucket files by the leading bits of
their keys, then each bucket, which fits in memory, is sorted.

Keys that are equal keep the order of the source. With 64 bits the expected number of equal pairs among n rows is
``n**2 / 2**65``, which is 0.03 for a billion rows.

References
----------
C. R. Rao, Generation of random permutation of given number of elements using random sampling numbers, Sankhya 23
(1961); P. Sanders, Random permutations on distributed, external and hierarchical memory, Information Processing
Letters 67 (1998), doi:10.1016/S0020-0190(98)00127-6.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvi.errors import StoreError
from dvi.randomness import keyed_generator
from dvi.types import AnyArray


def shuffle_keys(seed: int, start: int, stop: int) -> NDArray[np.uint64]:
    """Keys ``(stop - start,)`` of the rows ``start`` to ``stop`` of the source: the rule for the order of a shuffle.

    Examples
    --------
    >>> bool((shuffle_keys(1, 0, 10)[4:] == shuffle_keys(1, 4, 10)).all())
    True
    """
    bits: Any = keyed_generator(seed, "ingest").bit_generator
    keys: NDArray[np.uint64] = bits.advance(start).random_raw(stop - start)
    return keys


def permutation(seed: int, n_rows: int) -> NDArray[np.intp]:
    """Source rows ``(n_rows,)`` in shuffled order: what the two passes do, for rows that fit in memory.

    Examples
    --------
    >>> sorted(permutation(0, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(shuffle_keys(seed, 0, n_rows), kind="stable")


def bucket_of(keys: NDArray[np.uint64], n_buckets: int) -> NDArray[np.uint16]:
    """Bucket ``(n,)`` of each key ``(n,)``: ``floor(key * n_buckets / 2**64)``, so buckets are ordered as keys are."""
    return ((keys >> np.uint64(32)) * np.uint64(n_buckets) >> np.uint64(32)).astype(np.uint16)


@dataclass(slots=True)
class Buckets:
    """One file of fixed-size records for each range of keys.

    Parameters
    ----------
    folder : Path
        Where the files are.
    record : numpy.dtype
        A structured type with a field ``key``.
    rows : list of int
        Rows that each bucket holds. Whatever files hold beyond that was left by a process that died and is cut off.
    """

    folder: Path
    record: np.dtype[Any]
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for bucket, rows in enumerate(self.rows):
            path, size = self._path(bucket), rows * self.record.itemsize
            if not path.exists():
                continue
            if path.stat().st_size < size:
                raise StoreError(f"{path} has lost rows: delete the folder {self.folder.parent} and start again.")
            os.truncate(path, size)

    def append(self, records: AnyArray) -> None:
        """Scatter records ``(n,)`` to their buckets, each in the order given."""
        bucket = bucket_of(records["key"], len(self.rows))
        counts = np.bincount(bucket, minlength=len(self.rows))
        scattered = records if len(self.rows) == 1 else records[np.argsort(bucket, kind="stable")]
        stops = np.cumsum(counts)
        for chosen in np.flatnonzero(counts).tolist():
            with self._path(chosen).open("ab") as file:
                scattered[stops[chosen] - counts[chosen] : stops[chosen]].tofile(file)
            self.rows[chosen] += int(counts[chosen])

    def read(self, bucket: int) -> AnyArray:
        """Records of one bucket ``(rows[bucket],)``, sorted by key."""
        if self.rows[bucket] == 0:
            return np.empty(0, self.record)
        records = np.fromfile(self._path(bucket), self.record, count=self.rows[bucket])
        return records[np.argsort(records["key"], kind="stable")]

    def discard(self, rows: int) -> None:
        """Delete the files of the leading buckets whose rows are all among the first ``rows`` in shuffled order."""
        for bucket, stop in enumerate(np.cumsum(self.rows)):
            if stop > rows:
                break
            self._path(bucket).unlink(missing_ok=True)

    def _path(self, bucket: int) -> Path:
        return self.folder / f"{bucket}.records"
