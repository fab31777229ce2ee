from __future__ import annotations

import itertools

import numpy as np
import pytest

from dvi.data.shuffle import Buckets, bucket_of, permutation, shuffle_keys
from dvi.errors import StoreError

RECORD = np.dtype([("key", "u8"), ("0", "i8")])


def records_of(seed: int, start: int, stop: int) -> np.ndarray:
    records = np.empty(stop - start, RECORD)
    records["key"] = shuffle_keys(seed, start, stop)
    records["0"] = np.arange(start, stop)
    return records


def test_keys_of_a_row_do_not_depend_on_the_batch() -> None:
    whole = shuffle_keys(3, 0, 100)
    for start, stop in [(0, 1), (1, 2), (17, 93), (99, 100), (50, 50)]:
        assert np.array_equal(shuffle_keys(3, start, stop), whole[start:stop])


def test_permutation_depends_on_the_seed_alone() -> None:
    assert np.array_equal(np.sort(permutation(5, 1000)), np.arange(1000))
    assert np.array_equal(permutation(5, 1000), permutation(5, 1000))
    assert not np.array_equal(permutation(5, 1000), permutation(6, 1000))


def test_every_order_is_equally_likely() -> None:
    """Chi-square over the 24 orders of four rows; 49.7 is the 99.9 % quantile for 23 degrees of freedom."""
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    seeds = 4800
    for seed in range(seeds):
        counts[tuple(permutation(seed, 4).tolist())] += 1
    expected = seeds / len(counts)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 49.7


def test_buckets_are_ordered_as_keys_are() -> None:
    keys = np.sort(shuffle_keys(0, 0, 10_000))
    for n_buckets in (1, 2, 7, 4096):
        bucket = bucket_of(keys, n_buckets)
        assert (np.diff(bucket.astype(int)) >= 0).all()
        assert bucket.max() < n_buckets
    extremes = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert bucket_of(extremes, 4096).tolist() == [0, 4095]


@pytest.mark.parametrize("n_buckets", [1, 5, 64])
def test_reading_the_buckets_in_order_gives_the_permutation(tmp_path, n_buckets) -> None:
    buckets = Buckets(tmp_path / "spill", RECORD, [0] * n_buckets)
    for start, stop in itertools.pairwise([0, 1, 130, 500]):
        buckets.append(records_of(2, start, stop))
    rows = np.concatenate([buckets.read(bucket)["0"] for bucket in range(n_buckets)])
    assert np.array_equal(rows, permutation(2, 500))


def test_rows_beyond_the_checkpoint_are_cut_off(tmp_path) -> None:
    first = Buckets(tmp_path, RECORD, [0] * 3)
    first.append(records_of(0, 0, 50))
    saved = list(first.rows)
    first.append(records_of(0, 50, 80))  # and then the process dies
    again = Buckets(tmp_path, RECORD, saved)
    again.append(records_of(0, 50, 100))
    rows = np.concatenate([again.read(bucket)["0"] for bucket in range(3)])
    assert np.array_equal(rows, permutation(0, 100))


def test_lost_rows_are_an_error(tmp_path) -> None:
    buckets = Buckets(tmp_path / "spill", RECORD, [0])
    buckets.append(records_of(0, 0, 10))
    with pytest.raises(StoreError, match="has lost rows: delete the folder"):
        Buckets(tmp_path / "spill", RECORD, [11])


def test_only_buckets_that_were_written_whole_are_discarded(tmp_path) -> None:
    buckets = Buckets(tmp_path, RECORD, [0] * 4)
    buckets.append(records_of(0, 0, 400))
    buckets.discard(buckets.rows[0] + buckets.rows[1] + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.records", "3.records"]
