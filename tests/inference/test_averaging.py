from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dvi.errors import ArgumentError
from dvi.inference.averaging import TailAverage


def run(average, iterates, state=None, first=0):
    state = average.init(iterates[0]) if state is None else state
    for step, theta in enumerate(iterates, start=first):
        state = average.update(step, theta, state)
    return state


@given(first=st.integers(0, 30), n=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
def test_value_is_the_mean_of_the_tail(first, n, seed):
    iterates = np.random.default_rng(seed).normal(size=(n, 3))
    average = TailAverage(first)
    value = average.value(iterates[-1], run(average, iterates))
    expected = iterates[first:].mean(axis=0) if first < n else iterates[-1]
    assert_allclose(value, expected, rtol=1e-13, atol=1e-14)


def test_before_the_tail_nothing_changes_and_the_iterate_is_the_value():
    average = TailAverage(first=2)
    theta = np.array([1.0, 2.0])
    state = average.init(theta)
    assert average.update(1, theta, state) is state
    assert average.value(theta, state) is theta


def test_one_iterate_is_its_own_average_bit_for_bit():
    theta = np.array([0.1, 1e300, -1e-300])
    average = TailAverage(0)
    assert_array_equal(average.value(np.zeros(3), run(average, theta[None])), theta)


def test_a_large_offset_costs_no_digits():
    """A running sum would lose the fifth decimal here."""
    n = 100_000
    average = TailAverage(0)
    state = average.init(np.zeros(1))
    for step in range(n):
        state = average.update(step, np.array([1e9 + step % 2]), state)
    assert_allclose(average.value(np.zeros(1), state), 1e9 + 0.5, rtol=0, atol=1e-5)


def test_update_is_pure_and_resumes_with_the_same_bits():
    iterates = np.random.default_rng(3).normal(size=(20, 4))
    iterates.flags.writeable = False
    average = TailAverage(5)
    half = run(average, iterates[:11])
    for array in half:
        array.flags.writeable = False
    whole = run(average, iterates)
    for one, two in zip(whole, run(average, iterates[11:], half, first=11), strict=True):
        assert isinstance(one, np.ndarray)
        assert_array_equal(one, two)


@pytest.mark.parametrize("first", [-1, 1.5, True, None])
def test_first_is_a_number_of_an_iterate(first):
    with pytest.raises(ArgumentError, match=r"first = .*Pass an integer, at least 0"):
        TailAverage(first)
