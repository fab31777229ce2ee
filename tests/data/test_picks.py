"""Which elements of an axis a step takes: each once an epoch, the same wherever and in whatever order it is asked."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from math import lcm

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvi.data.picks import Picks, aligned_empty
from dvi.errors import ArgumentError

TWO = Picks((1, 3), (12, 9), (5, 4), (None, 42))


@given(st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))), st.integers(0, 2**40))
def test_every_index_is_taken_equally_often_over_whole_epochs(sizes: tuple[int, int], seed: int) -> None:
    length, size = sizes
    picks = Picks((1,), (length,), (size,), (None,))
    steps = lcm(length, size) // size
    taken = np.concatenate([picks.indices(step, seed)[0] for step in range(2 * steps)])
    assert (np.bincount(taken, minlength=length) == 2 * steps * size // length).all()


def test_indices_depend_on_seed_axis_and_step_alone() -> None:
    first = [picked.tolist() for picked in TWO.indices(7, 1)]
    for step in (3, 0, 900):
        TWO.indices(step, 5)
    again = pickle.loads(pickle.dumps(TWO))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: again.indices(7, 1), range(20)):
            assert [picked.tolist() for picked in found] == first
    other = TWO.indices(7, 2)
    assert other[0].tolist() != first[0]
    assert other[1].tolist() == first[1]  # has a seed of its own
    alike = Picks((1, 2), (30, 30), (10, 10), (4, 4)).indices(0, 0)
    assert alike[0].tolist() != alike[1].tolist()


def test_epochs_of_two_axes_of_equal_length_do_not_run_in_step() -> None:
    picks = Picks((1, 2), (4, 4), (2, 2), (None, None))
    pairs = np.zeros((4, 4))
    n_steps = 4000
    for step in range(n_steps):
        rows, columns = picks.indices(step, 3)
        pairs[np.ix_(rows, columns)] += 1
    np.testing.assert_allclose(pairs / n_steps, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / n_steps))


def test_arrays_are_picked_alike_along_the_axes_they_have() -> None:
    wide = np.arange(3 * 12 * 2 * 9, dtype=np.float32).reshape(3, 12, 2, 9)
    middle, rows = wide[:, :, 0, 0].astype(np.int16), np.arange(3)
    a, b = TWO.indices(2, 8)
    picked = TWO.apply((wide, middle, rows), 2, 8)
    np.testing.assert_array_equal(picked[0], wide[:, a][:, :, :, b])
    np.testing.assert_array_equal(picked[1], middle[:, a])
    np.testing.assert_array_equal(picked[2], rows)
    for array, source in zip(picked, (wide, middle, rows), strict=True):
        assert array.shape == TWO.shape(source.shape)
        assert array.dtype == source.dtype
        assert array.flags.c_contiguous
    assert picked[0].ctypes.data % 64 == 0
    assert TWO.first(wide).shape == picked[0].shape
    np.testing.assert_array_equal(TWO.first(middle), middle[:, :5])


def test_no_picks_hand_out_the_block_itself() -> None:
    block = (np.ones((3, 2)),)
    assert Picks().apply(block, 0, 0) is block
    assert Picks().indices(0, 0) == ()


def test_aligned_arrays_start_on_a_cache_line() -> None:
    for n in range(1, 9):
        assert aligned_empty((n, 3), np.dtype(np.float32)).ctypes.data % 64 == 0


@pytest.mark.parametrize(
    ("axes", "lengths", "sizes", "message"),
    [
        ((0,), (4,), (2,), "axis 0 is the rows"),
        ((2, 1), (4, 4), (2, 2), "do not increase"),
        ((1,), (4,), (4,), "4 of 4 elements along axis 1"),
        ((1,), (4,), (0,), "0 of 4 elements along axis 1"),
        ((1,), (4, 5), (2,), "not one length, size and seed for each axis"),
    ],
)
def test_what_is_no_part_of_an_axis_is_refused(
    axes: tuple[int, ...], lengths: tuple[int, ...], sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        Picks(axes, lengths, sizes, (None,) * len(axes))
