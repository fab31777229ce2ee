from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import expit

from dvi.approximations.meanfield import MeanFieldFamily, softplus, softplus_inverse
from dvi.errors import ArgumentError
from dvi.inference.elbo import Elbo

ESTIMATORS = ["stl", "entropy"]


@dataclass(frozen=True)
class Gaussian:
    """A target whose posterior is a diagonal normal: log density, evidence and exact ELBO are known."""

    mean: np.ndarray
    std: np.ndarray
    log_evidence: float

    def logp(self, Z):
        u = (Z - self.mean) / self.std
        return self.log_evidence - 0.5 * np.sum(u**2 + np.log(2 * np.pi * self.std**2), axis=1)

    def score(self, Z):
        return -(Z - self.mean) / self.std**2

    def elbo(self, mu, sigma):
        """Log evidence less the divergence of q from the posterior."""
        ratio = sigma / self.std
        return self.log_evidence - 0.5 * np.sum(ratio**2 + ((mu - self.mean) / self.std) ** 2 - 1 - 2 * np.log(ratio))

    def elbo_gradient(self, mu, rho):
        sigma = softplus(rho)
        return np.concatenate([(self.mean - mu) / self.std**2, (1 / sigma - sigma / self.std**2) * expit(rho)])


def target(d, seed=0):
    rng = np.random.default_rng(seed)
    return Gaussian(rng.normal(size=d), rng.uniform(0.1, 3.0, size=d), float(rng.normal(scale=100)))


def estimate(estimator, family, theta, eps, p):
    Z = family.draw(theta, eps)
    return Elbo(estimator).gradient(family, theta, eps, p.logp(Z), p.score(Z))


@given(d=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_stl_is_exact_for_each_draw_when_q_is_the_posterior(d, seed):
    p = target(d, seed)
    family = MeanFieldFamily(d)
    theta = family.initial(p.mean, p.std)
    for eps in np.random.default_rng(seed).normal(size=(10, 1, d)):
        elbo, gradient = estimate("stl", family, theta, eps, p)
        assert_allclose(gradient, 0.0, atol=1e-12)
        assert_allclose(elbo, p.log_evidence, rtol=1e-13, atol=1e-12)


def test_the_entropy_estimator_is_noisy_where_stl_is_not():
    p = target(4)
    family = MeanFieldFamily(4)
    theta = family.initial(p.mean, p.std)
    _, gradient = estimate("entropy", family, theta, np.random.default_rng(0).normal(size=(1, 4)), p)
    assert np.abs(gradient).max() > 0.1


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_are_unbiased(estimator):
    """Means over many batches of draws lie within five of their own standard errors of the exact values."""
    d, batches = 3, 4_000
    p = target(d, seed=5)
    family = MeanFieldFamily(d)
    rng = np.random.default_rng(6)
    mu, sigma = p.mean + rng.normal(size=d), p.std * rng.uniform(0.4, 2.0, size=d)
    theta = family.initial(mu, sigma)
    pairs = [estimate(estimator, family, theta, eps, p) for eps in rng.normal(size=(batches, 5, d))]
    samples = np.array([[elbo, *gradient] for elbo, gradient in pairs])
    expected = np.array([p.elbo(mu, sigma), *p.elbo_gradient(mu, softplus_inverse(sigma))])
    error = samples.std(axis=0, ddof=1) / np.sqrt(batches)
    # The gradient for mu of a draw with entropy in closed form, and of stl, has noise; none may be constant here.
    assert np.all(error > 0)
    assert np.abs((samples.mean(axis=0) - expected) / error).max() < 5


def test_exact_elbo_of_the_test_target_has_the_gradient_stated():
    p = target(3)
    theta = np.random.default_rng(1).normal(size=6)

    def elbo(t):
        return p.elbo(t[:3], softplus(t[3:]))

    steps = 1e-6 * np.eye(6)
    differences = [(elbo(theta + h) - elbo(theta - h)) / 2e-6 for h in steps]
    assert_allclose(p.elbo_gradient(theta[:3], theta[3:]), differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_draws_are_averaged(estimator):
    p = target(3)
    family = MeanFieldFamily(3)
    rng = np.random.default_rng(2)
    theta, eps = rng.normal(size=6), rng.normal(size=(4, 3))
    elbo, gradient = estimate(estimator, family, theta, eps, p)
    each = [estimate(estimator, family, theta, eps[s : s + 1], p) for s in range(4)]
    assert_allclose(elbo, np.mean([value for value, _ in each]), rtol=1e-12)
    assert_allclose(gradient, np.mean([g for _, g in each], axis=0), rtol=1e-12)
    assert type(elbo) is float


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_argument_is_written_to(estimator):
    p = target(3)
    family = MeanFieldFamily(3)
    rng = np.random.default_rng(2)
    theta, eps = rng.normal(size=6), rng.normal(size=(4, 3))
    logp, score = p.logp(family.draw(theta, eps)), p.score(family.draw(theta, eps))
    for array in (theta, eps, logp, score):
        array.flags.writeable = False
    first = Elbo(estimator).gradient(family, theta, eps, logp, score)
    second = Elbo(estimator).gradient(family, theta, eps, logp, score)
    assert first[0] == second[0]
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize("estimator", ["STL", "path", "", None])
def test_unknown_estimators_are_refused(estimator):
    with pytest.raises(ArgumentError, match=r"estimator = .*Pass 'stl' or 'entropy'"):
        Elbo(estimator)


@given(d=st.integers(1, 9), draws=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_one_pass_gives_what_its_parts_do(d, draws, seed):
    family, p, rng = MeanFieldFamily(d), target(d, seed), np.random.default_rng(seed)
    theta, eps = rng.normal(size=2 * d), rng.normal(size=(draws, d))
    Z = family.draw(theta, eps)
    value, gradient = family.path_gradient(theta, eps, p.logp(Z), p.score(Z))
    assert_allclose(value, (p.logp(Z) - family.log_q(theta, eps)).mean(), rtol=1e-12, atol=1e-12)
    expected = family.pullback(theta, eps, p.score(Z) - family.score(theta, eps))
    assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
