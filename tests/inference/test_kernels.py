from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import pdist

from dvi.inference.kernels import centred, median_bandwidth, order_statistics


def by_definition(X):
    pairs = pdist(X, "sqeuclidean")
    ordered = np.concatenate([np.zeros(len(X)), pairs, pairs])
    return 0.5 * np.median(ordered) / np.log(len(X) + 1)


@given(n=st.integers(2, 200), d=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_up_to_2048_particles_the_median_is_exact(n, d, seed):
    X = np.random.default_rng(seed).normal(size=(n, d))
    assert_allclose(median_bandwidth(X), by_definition(X), rtol=1e-10)


@pytest.mark.parametrize("n", [1_000, 2_047, 2_048])
def test_the_median_is_exact_for_many_particles(n):
    X = np.random.default_rng(n).normal(size=(n, 2))
    assert_allclose(median_bandwidth(X), by_definition(X), rtol=1e-12)


def one_normal(rng, n):
    return rng.normal(size=(n, 1))


def two_modes(rng, n):
    return np.where(rng.random((n, 1)) < 0.2, -0.3, 0.5) + 0.1 * rng.normal(size=(n, 1))


def sorted_grid(rng, n):
    return np.linspace(0.0, 1.0, n)[:, None]


def heavy_tails(rng, n):
    return rng.standard_t(3, size=(n, 5))


@pytest.mark.parametrize("n", [2_049, 3_000])
@pytest.mark.parametrize("draw", [one_normal, two_modes, sorted_grid, heavy_tails])
def test_above_2048_particles_the_median_is_within_one_percent(draw, n):
    X = draw(np.random.default_rng(1), n)
    assert_allclose(median_bandwidth(X), by_definition(X), rtol=0.01)


@pytest.mark.parametrize(
    ("X", "scale"),
    [
        ([[0.0]], 1.0),
        ([[0.0]] * 4, 1.0),
        ([[0.0]] * 9 + [[3.0]], 9.0 * 9 / 45),
        ([[0.0]] * 3_000, 1.0),
    ],
    ids=["one", "same", "most the same", "many the same"],
)
def test_without_a_median_the_bandwidth_is_still_a_number_above_zero(X, scale):
    assert_allclose(median_bandwidth(np.array(X)), 0.5 * scale / np.log(len(X) + 1))


@pytest.mark.parametrize("length", [1e-160, 1e-90, 1e90])
def test_tiny_and_huge_distances_give_a_number_above_zero(length):
    X = length * np.random.default_rng(0).normal(size=(10, 2))
    assert 0 < median_bandwidth(X) < np.inf


def test_two_particles():
    """Of four distances, two are zero."""
    assert_allclose(median_bandwidth(np.array([[0.0], [2.0]])), 0.5 * 2.0 / np.log(3))


def test_centred_particles_have_median_zero_and_coinciding_ones_are_zero():
    Z = np.random.default_rng(0).normal(size=(11, 3)) + 1e8
    assert_array_equal(np.median(centred(Z), axis=0), np.zeros(3))
    assert_array_equal(centred(np.full((6, 2), 0.1)), np.zeros((6, 2)))


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=50_000),
        np.random.default_rng(1).integers(0, 3, size=50_000).astype(float),  # the sample's neighbours are equal
        np.arange(50_000.0)[::-1].copy(),
        np.where(np.arange(50_000) % (50_000 // 4096) == 0, 1.0, np.linspace(2.0, 3.0, 50_000)),  # the sample misleads
        np.append(np.full(49_999, np.inf), -np.inf),
        np.array([2.0, 1.0]),
    ],
)
def test_order_statistics_are_those_of_a_sorted_array(values: np.ndarray) -> None:
    before, expected = values.copy(), np.sort(values)
    for rank in {0, 1, len(values) // 3, len(values) // 2 - 1, len(values) - 2, len(values) - 1}:
        ranks = sorted({max(0, rank - 1), rank})
        np.testing.assert_array_equal(order_statistics(values, ranks), expected[ranks])
    np.testing.assert_array_equal(values, before)
