from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dvi.errors import ArgumentError
from dvi.inference.optimizers import adam
from dvi.inference.schedules import Cosine
from dvi.inference.stein import Stein
from dvi.inference.weights import importance_log_weights


class Particles:
    def draw(self, theta, eps):
        return theta.reshape(len(eps), -1)

    def pullback(self, theta, eps, v):
        return v.ravel() / len(v)


def mixture(Z, weight, mean, std):
    """Log density ``(n,)`` and score ``(n, d)`` of normal modes with means ``(k, d)`` and one sd each."""
    d = Z.shape[1]
    u = (Z[:, None] - mean) / std[:, None]
    parts = np.log(weight) - 0.5 * (u**2).sum(axis=2) - d * np.log(std)
    logp = np.logaddexp.reduce(parts, axis=1)
    share = np.exp(parts - logp[:, None])
    return logp, -np.einsum("nk,nkd->nd", share / std, u)


def svgd(density, Z, steps=400):
    optimizer = adam(Cosine(0.05, steps))
    stein = Stein(block=len(Z))
    theta, eps = Z.ravel(), np.empty((len(Z), 0))
    state = optimizer.init(theta)
    for step in range(steps):
        logp, score = density(theta.reshape(Z.shape))
        _, gradient = stein.gradient(Particles(), theta, eps, logp, score, [])
        theta, state = optimizer.update(step, theta, -gradient, state)
    return theta.reshape(Z.shape)


def effective_share(log_weights):
    return np.exp(-np.logaddexp.reduce(2 * log_weights)) / len(log_weights)


@pytest.mark.parametrize("seed", range(10))
def test_weights_repair_the_masses_of_two_modes(seed):
    """Numbers of particles are off by more than 0.1 here."""

    def density(Z):
        return mixture(Z, np.array([0.2, 0.8]), np.array([[-0.3], [0.5]]), np.array([0.1, 0.1]))

    Z = svgd(density, np.random.default_rng(seed).normal(size=(200, 1)))
    left = Z[:, 0] < 0.1
    assert left.mean() > 0.3
    weights = np.exp(importance_log_weights(Z, density(Z)[0]))
    assert_allclose(weights.sum(), 1.0, rtol=1e-12)
    assert_allclose(weights[left].sum(), 0.2, atol=0.02)
    mean = weights @ Z[:, 0]
    assert_allclose(mean, 0.34, atol=0.02)
    assert_allclose(np.sqrt(weights @ (Z[:, 0] - mean) ** 2), np.sqrt(0.01 + 0.16 * 0.64), rtol=0.05)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_modes_of_different_width_and_number_of_particles(d):
    rng = np.random.default_rng(d)
    mean, std, weight = np.zeros((3, d)), np.array([0.2, 1.0, 3.0]), np.array([0.5, 0.3, 0.2])
    mean[:, 0] = [-20.0, 0.0, 40.0]
    sizes = [100, 300, 600]
    Z = np.concatenate([rng.normal(mean[m], std[m], size=(sizes[m], d)) for m in range(3)])
    weights = np.exp(importance_log_weights(Z, mixture(Z, weight, mean, std)[0]))
    masses = [part.sum() for part in np.split(weights, np.cumsum(sizes)[:-1])]
    # Entropies of a sample covariance are low by d (d + 3) / 4 n.
    assert_allclose(masses, weight, atol=0.03 + 0.01 * (d - 1))


def banana(rng, n, d):
    Z = rng.normal(size=(n, d))
    logp = -0.5 * (Z**2).sum(axis=1)
    Z[:, 1] += 2 * (Z[:, 0] ** 2 - 1)
    return Z, logp


def normal(rng, n, d):
    Z = rng.normal(size=(n, d))
    return Z, -0.5 * (Z**2).sum(axis=1)


def heavy_tails(rng, n, d):
    Z = rng.standard_t(3, size=(n, d))
    return Z, -2.0 * np.log1p(Z**2 / 3).sum(axis=1)


@pytest.mark.parametrize("n", [2, 100, 1000])
@pytest.mark.parametrize("d", [2, 5, 20, 100])
@pytest.mark.parametrize("draw", [normal, banana, heavy_tails])
def test_particles_of_one_mode_have_equal_weights(draw, n, d):
    Z, logp = draw(np.random.default_rng(d), n, d)
    assert_array_equal(importance_log_weights(Z, logp), np.full(n, -np.log(n)))


@pytest.mark.parametrize("n", [1, 2, 50])
def test_particles_that_coincide_have_equal_weights(n):
    assert_array_equal(importance_log_weights(np.full((n, 3), 0.1), np.zeros(n)), np.full(n, -np.log(n)))


def test_modes_with_too_few_particles_for_a_covariance_keep_equal_weights():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, 10))
    Z[30:] += 100.0
    logp = -0.5 * np.minimum((Z**2).sum(axis=1), ((Z - 100.0) ** 2).sum(axis=1))
    logp[30:] -= 5.0
    assert_array_equal(importance_log_weights(Z, logp), np.full(60, -np.log(60)))


def test_modes_without_a_volume_keep_equal_weights():
    Z = np.repeat([[0.0], [1.0]], 30, axis=0)
    assert_array_equal(importance_log_weights(Z, np.repeat([0.0, 5.0], 30)), np.full(60, -np.log(60)))


def test_a_mode_without_mass_gets_no_weight():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(200, 1))
    Z[100:] += 1_000.0
    logp = -0.5 * np.where(Z > 500.0, (Z - 1_000.0) ** 2 + 2_000.0, Z**2).ravel()
    log_weights = importance_log_weights(Z, logp)
    assert_allclose(np.exp(log_weights[100:]), 0.0)
    assert_allclose(effective_share(log_weights), 0.5)


def test_order_offset_and_constant_of_the_density_change_nothing():
    rng = np.random.default_rng(0)
    Z = np.concatenate([rng.normal(0, 1, (80, 2)), rng.normal(20, 2, (160, 2))])
    logp, _ = mixture(Z, np.array([0.7, 0.3]), np.array([[0.0, 0.0], [20.0, 20.0]]), np.array([1.0, 2.0]))
    expected = importance_log_weights(Z, logp)
    order = rng.permutation(240)
    assert_allclose(importance_log_weights(Z[order], logp[order]), expected[order], rtol=1e-10)
    assert_allclose(importance_log_weights(Z + 1e8, logp - 1e4), expected, rtol=1e-5)
    assert np.ptp(expected) > 0.5


def test_densities_of_another_number_of_particles_are_refused():
    with pytest.raises(ArgumentError, match=r"logp has the shape \(3,\)\. Pass one log density for each of 4"):
        importance_log_weights(np.zeros((4, 1)), np.zeros(3))
