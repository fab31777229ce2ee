"""Correlated posteriors of mixed scales come out right with the default optimizer, one draw a step and no tuning."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.rows import stretch, stretch_inverse, stretch_pullback
from dvi.inference.averaging import TailAverage
from dvi.inference.elbo import Elbo
from dvi.inference.optimizers import adam
from dvi.inference.schedules import Cosine
from dvi.types import Family, FloatArray


def scaled(correlated: FloatArray, smallest: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance with the correlations of a matrix, and standard deviations from the smallest to 10."""
    root = np.sqrt(np.diag(correlated))
    sd = rng.permutation(np.geomspace(smallest, 10.0, len(root)))
    return rng.normal(size=len(root)) * sd, correlated * np.outer(sd / root, sd / root)


def rotated(d: int, condition: float, smallest: float) -> tuple[FloatArray, FloatArray]:
    """Correlations in every direction: eigenvalues that are equally spaced on a logarithmic scale."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return scaled((axes * np.geomspace(1.0, condition, d)) @ axes.T, smallest, rng)


def factors(d: int, rank: int, share: float, smallest: float) -> tuple[FloatArray, FloatArray]:
    """A few shared factors, of `share` times the variance of the rest."""
    rng = np.random.default_rng(1)
    loadings = rng.normal(size=(d, rank)) * np.sqrt(share / d)
    return scaled(np.eye(d) + loadings @ loadings.T, smallest, rng)


def fit(family: Family, mean: FloatArray, cov: FloatArray, n: int = 10_000) -> FloatArray:
    """Parameters after `n` steps with what `dvi.fit` does unless told otherwise."""
    precision = np.linalg.inv(cov)
    optimizer, average, elbo = adam(Cosine(0.05, steps=n, final=0.01), beta2=0.99), TailAverage(n - n // 5), Elbo("stl")
    theta = family.initial(np.zeros(family.ndim), np.full(family.ndim, 0.1))
    slots, tail = optimizer.init(theta), average.init(theta)
    noise = np.random.default_rng(0).normal(size=(n, 1, family.noise_dim))
    for step in range(n):
        gap = family.draw(theta, noise[step]) - mean
        score = -gap @ precision
        _, gradient = elbo.gradient(family, theta, noise[step], 0.5 * np.einsum("sd,sd->s", gap, score), score)
        theta, slots = optimizer.update(step, theta, -gradient, slots)
        tail = average.update(step, theta, tail)
    return average.value(theta, tail)


def check(family: Family, mean: FloatArray, cov: FloatArray) -> None:
    theta = fit(family, mean, cov)
    sd, fitted = np.sqrt(np.diag(cov)), family.cov(theta)
    assert_allclose(family.std(theta), sd, rtol=0.05)
    assert_allclose(family.mean(theta) / sd, mean / sd, atol=0.05)
    assert_allclose(fitted / np.outer(sd, sd), cov / np.outer(sd, sd), atol=0.1)


@pytest.mark.parametrize(
    ("d", "condition", "smallest"),
    [(2, 1e2, 0.01), (2, 1e3, 1.0), (20, 1e2, 0.001), (20, 1e3, 1.0), (50, 1e2, 0.001), (50, 1e3, 1.0)],
)
def test_full_rank_recovers_correlated_posteriors(d, condition, smallest):
    check(FullRankFamily(d), *rotated(d, condition, smallest))


@pytest.mark.parametrize(
    ("d", "rank", "share", "smallest"), [(20, 2, 1e2, 0.01), (50, 3, 1e2, 0.001), (50, 3, 1e3, 1.0)]
)
def test_low_rank_recovers_shared_factors(d, rank, share, smallest):
    check(LowRankFamily(d, rank), *factors(d, rank, share, smallest))


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-4, 1e-3, 0.05, 0.1, 0.11, 1.0, 20.0])
def test_stretched_rows_have_the_hyperbolic_sine_of_their_length(length):
    direction = np.array([[0.6, -0.8]])
    assert_allclose(stretch(length * direction), np.sinh(length) * direction, rtol=1e-14)
    assert_allclose(stretch_inverse(np.sinh(length) * direction), length * direction, rtol=1e-14)


@pytest.mark.parametrize("length", [0.0, 1e-4, 0.05, 0.0999, 0.1001, 1.0, 5.0])
def test_the_pullback_of_stretched_rows_is_their_gradient(length):
    t, v = length * np.array([[0.6, -0.8, 0.0]]), np.array([[1.0, 2.0, 3.0]])
    steps = 1e-6 * np.eye(3)
    expected = [np.sum(v * (stretch(t + h) - stretch(t - h))) / 2e-6 for h in steps]
    assert_allclose(stretch_pullback(t, v)[0], expected, rtol=1e-7, atol=1e-7)
