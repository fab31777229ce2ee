"""FullRankFamily: PyMC's parameters, its cost, and what only a full covariance can do."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from threadpoolctl import threadpool_limits

from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import softplus_inverse
from dvi.inference.elbo import Elbo
from dvi.types import FloatArray

seeds = st.integers(0, 2**32 - 1)


def encode(mean: FloatArray, cov: FloatArray) -> FloatArray:
    """Parameters of a given normal distribution."""
    factor = np.linalg.cholesky(cov)
    np.fill_diagonal(factor, softplus_inverse(np.diag(factor)))
    return FullRankFamily(mean.size).pack({"mu": mean, "L_tril": factor[np.tril_indices(mean.size)]})


def target(d: int, seed: int) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, 2 * d))
    return rng.normal(size=d), root @ root.T / d


@pytest.mark.parametrize("d", [1, 2, 5])
def test_parameters_mean_what_they_mean_in_pymc(d):
    rng = np.random.default_rng(d)
    with pm.Model():
        pm.Normal("x", shape=d)
        approximation = pm.FullRank()
    family = FullRankFamily(d)
    theta = rng.normal(size=family.size)
    for name, value in family.unpack(theta).items():
        shared = approximation.params_dict[name]
        assert shared.get_value().shape == value.shape
        shared.set_value(value)
    assert_allclose(family.mean(theta), approximation.mean.eval(), rtol=1e-12)
    assert_allclose(family.std(theta), approximation.std.eval(), rtol=1e-12)
    assert_allclose(family.cov(theta), approximation.cov.eval(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("d", [1, 4, 7])
def test_initial_has_a_diagonal_factor(d):
    family = FullRankFamily(d)
    sigma = np.linspace(0.1, 2.0, d)
    assert_allclose(family.cov(family.initial(np.zeros(d), sigma)), np.diag(sigma**2), rtol=1e-12)


@given(d=st.integers(1, 8), seed=seeds)
def test_the_elbo_is_the_evidence_and_its_gradient_zero_at_a_correlated_posterior(d, seed):
    mean, cov = target(d, seed)
    family, theta = FullRankFamily(d), encode(mean, cov)
    assert_allclose(family.cov(theta), cov, rtol=1e-9, atol=1e-11)
    eps = np.random.default_rng(seed + 1).normal(size=(3, d))
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
    d, S = 3, 40_000
    mean, cov = target(d, 11)
    family, theta = FullRankFamily(d), encode(mean, cov)
    eps = np.random.default_rng(12).normal(size=(S // 2, d))
    eps = np.concatenate([eps, -eps])
    Z = family.draw(theta, eps)
    logp, score = multivariate_normal(mean, cov).logpdf(Z), -np.linalg.solve(cov, (Z - mean).T).T
    each = np.array([family.pullback(theta, eps[s : s + 1], score[s : s + 1]) for s in range(2_000)])
    elbo, gradient = Elbo("entropy").gradient(family, theta, eps, logp, score)
    error = each.std(axis=0) / np.sqrt(S / 2)  # pairs of opposite noise have the same value
    assert abs(elbo) < 5 * logp.std() / np.sqrt(S / 2)
    assert np.all(np.abs(gradient) <= 5 * error + 1e-12)


def test_results_do_not_depend_on_the_threads_of_blas():
    d = 300
    family = FullRankFamily(d)
    rng = np.random.default_rng(0)
    theta = family.initial(rng.normal(size=d), rng.uniform(0.5, 2.0, size=d)) + 0.02 * rng.normal(size=family.size)
    eps, v = rng.normal(size=(4, d)), rng.normal(size=(4, d))
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            results.append([family.draw(theta, eps), family.pullback(theta, eps, v), family.log_q(theta, eps)])
            results[-1].append(family.cov(theta))
    for one, two in zip(*results, strict=True):
        assert_array_equal(one, two)


def test_score_in_many_dimensions_solves_with_the_factor():
    d = 200
    family = FullRankFamily(d)
    rng = np.random.default_rng(1)
    theta = family.initial(np.zeros(d), rng.uniform(0.5, 2.0, size=d)) + 0.02 * rng.normal(size=family.size)
    eps = rng.normal(size=(3, d))
    expected = -np.linalg.solve(family.cov(theta), (family.draw(theta, eps) - family.mean(theta)).T).T
    assert_allclose(family.score(theta, eps), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rho", [-600.0, 900.0])
def test_both_tails_of_the_diagonal_are_finite(rho):
    family = FullRankFamily(2)
    theta = np.array([0.0, 0.0, rho, 0.0, 0.0])
    assert np.isfinite(family.entropy(theta))
    assert np.isfinite(family.entropy_gradient(theta)).all()
