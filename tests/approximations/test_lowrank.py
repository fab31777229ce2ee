"""LowRankFamily: the identities against dense algebra, extreme scales, and large models."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from threadpoolctl import threadpool_limits

from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.meanfield import softplus_inverse
from dvi.errors import ArgumentError
from dvi.inference.elbo import Elbo
from dvi.types import FloatArray

seeds = st.integers(0, 2**32 - 1)


def encode(mean: FloatArray, sigma: FloatArray, B: FloatArray) -> FloatArray:
    return LowRankFamily(*B.shape).pack({"mu": mean, "rho": softplus_inverse(sigma), "B": B})


def some(d: int, rank: int, seed: int) -> tuple[LowRankFamily, FloatArray]:
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=d), rng.uniform(0.2, 2.0, size=d), rng.normal(size=(d, rank))
    return LowRankFamily(d, rank), encode(*parts)


@pytest.mark.parametrize("rank", [0, -1, 4])
def test_a_rank_without_meaning_is_refused(rank):
    with pytest.raises(ArgumentError, match=rf"rank = {rank} is not allowed. Pass from 1 to 3"):
        LowRankFamily(3, rank)


def test_widths_and_shapes():
    family = LowRankFamily(5, 2)
    theta = family.initial(np.zeros(5), np.ones(5))
    assert (family.noise_dim, family.size) == (7, 20)
    assert {name: part.shape for name, part in family.unpack(theta).items()} == {"mu": (5,), "rho": (5,), "B": (5, 2)}
    assert family != LowRankFamily(5, 3)


def test_initial_is_always_the_same_and_nearly_independent():
    family = LowRankFamily(20, 3)
    sigma = np.linspace(0.01, 5.0, 20)
    theta = family.initial(np.zeros(20), sigma)
    assert_array_equal(theta, family.initial(np.zeros(20), sigma))
    assert np.all(family.unpack(theta)["B"] != 0.0)
    correlation = family.cov(theta) / np.outer(sigma, sigma)
    assert_allclose(np.diag(correlation), 1.0, rtol=1e-12)
    assert np.abs(correlation - np.eye(20)).max() < 0.011
    assert np.linalg.matrix_rank(family.unpack(theta)["B"]) == 3


@given(d=st.integers(1, 8), data=st.data(), seed=seeds)
def test_the_elbo_is_the_evidence_and_its_gradient_zero_at_a_correlated_posterior(d, data, seed):
    rank = data.draw(st.integers(1, d))
    family, theta = some(d, rank, seed)
    parts = family.unpack(theta)
    mean, cov = parts["mu"], np.diag(np.logaddexp(0.0, parts["rho"]) ** 2) + parts["B"] @ parts["B"].T
    eps = np.random.default_rng(seed + 1).normal(size=(3, d + rank))
    Z = family.draw(theta, eps)
    logp = 3.25 + np.atleast_1d(multivariate_normal(mean, cov).logpdf(Z))
    score = -np.linalg.solve(cov, (Z - mean).T).T
    size = max(1.0, np.abs(score).max()) * np.linalg.cond(cov)
    for s in range(3):
        one = slice(s, s + 1)
        elbo, gradient = Elbo("stl").gradient(family, theta, eps[one], logp[one], score[one])
        assert_allclose(elbo, 3.25, atol=1e-9)
        assert_allclose(gradient, 0.0, atol=1e-13 * size)


def test_the_entropy_estimator_has_mean_zero_gradient_at_a_correlated_posterior():
    S = 40_000
    family, theta = some(4, 2, 11)
    mean, cov = family.mean(theta), family.cov(theta)
    eps = np.random.default_rng(12).normal(size=(S // 2, 6))
    eps = np.concatenate([eps, -eps])
    Z = family.draw(theta, eps)
    logp, score = multivariate_normal(mean, cov).logpdf(Z), -np.linalg.solve(cov, (Z - mean).T).T
    each = np.array([family.pullback(theta, eps[s : s + 1], score[s : s + 1]) for s in range(2_000)])
    elbo, gradient = Elbo("entropy").gradient(family, theta, eps, logp, score)
    error = each.std(axis=0) / np.sqrt(S / 2)  # pairs of opposite noise have the same value
    assert abs(elbo) < 5 * logp.std() / np.sqrt(S / 2)
    assert np.all(np.abs(gradient) <= 5 * error + 1e-12)


@pytest.mark.parametrize("ratio", [1e-6, 1e-3, 1e3, 1e6])
def test_density_and_score_keep_their_digits_when_one_part_dwarfs_the_other(ratio):
    # Rank 1 with sigma = 1 and B = ratio * b: the covariance has the eigenvalue 1 + ratio^2 |b|^2, and else 1.
    d = 6
    rng = np.random.default_rng(3)
    b = rng.normal(size=d)
    family, theta = LowRankFamily(d, 1), encode(np.zeros(d), np.ones(d), ratio * b[:, None])
    eps = rng.normal(size=(4, d + 1))
    unit, long = b / np.linalg.norm(b), ratio * np.linalg.norm(b)
    along = eps[:, :d] @ unit + long * eps[:, d]
    across = eps[:, :d] - (eps[:, :d] @ unit)[:, None] * unit
    quadratic = np.sum(across**2, axis=1) + along**2 / (1 + long**2)
    log_det = np.log1p(long**2)
    assert_allclose(family.log_q(theta, eps), -0.5 * (quadratic + log_det + d * np.log(2 * np.pi)), rtol=1e-9)
    expected = -across - (along / (1 + long**2))[:, None] * unit
    assert_allclose(family.score(theta, eps), expected, rtol=1e-8, atol=1e-9)
    assert_allclose(family.entropy(theta), 0.5 * (log_det + d * (1 + np.log(2 * np.pi))), rtol=1e-12)


def test_large_models_need_no_square_matrix():
    d, rank, S = 50_000, 5, 2  # a square matrix would take 20 GB
    family, theta = some(d, rank, 4)
    rng = np.random.default_rng(5)
    eps, v = rng.normal(size=(S, d + rank)), rng.normal(size=(S, d))
    tracemalloc.start()
    family.draw(theta, eps)
    family.pullback(theta, eps, v)
    family.log_q(theta, eps)
    family.score(theta, eps)
    family.entropy(theta)
    family.entropy_gradient(theta)
    family.std(theta)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * theta.nbytes


def test_results_do_not_depend_on_the_threads_of_blas():
    family, theta = some(1_000, 20, 6)
    rng = np.random.default_rng(7)
    eps, v = rng.normal(size=(4, 1_020)), rng.normal(size=(4, 1_000))
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            verbs = family.draw, family.log_q, family.score
            results.append([verb(theta, eps) for verb in verbs] + [family.pullback(theta, eps, v)])
            results[-1] += [family.entropy_gradient(theta), family.cov(theta)]
    for one, two in zip(*results, strict=True):
        assert_array_equal(one, two)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parameters_that_are_not_finite_give_nan_rather_than_an_error(bad):
    family, theta = some(3, 2, 8)
    theta[-1] = bad
    with np.errstate(invalid="ignore"):
        assert np.isnan(family.entropy(theta))
        assert np.isnan(family.log_q(theta, np.ones((2, 5)))).all()
        assert np.isnan(family.score(theta, np.ones((2, 5)))).any()
