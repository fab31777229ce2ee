"""What every Family must do. A new family is one row of FAMILIES."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError
from dvi.inference.elbo import Elbo
from dvi.types import Family, FloatArray

# One row an implementation: how to make it for d dimensions.
FAMILIES: dict[str, Callable[[int], Family]] = {
    "meanfield": MeanFieldFamily,
    "fullrank": FullRankFamily,
    "lowrank, rank 1": lambda d: LowRankFamily(d, 1),
    "lowrank, rank 3": lambda d: LowRankFamily(d, min(3, d)),
    "lowrank, rank d": lambda d: LowRankFamily(d, d),
}

every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
dims = st.integers(1, 6)
draws = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)
STEP = 1e-6  # of central differences


def parameters(family: Family, rng: np.random.Generator) -> FloatArray:
    """Parameters anywhere, not only where `initial` leads."""
    theta = family.initial(rng.normal(size=family.ndim), rng.uniform(0.2, 2.0, size=family.ndim))
    return theta + 0.3 * rng.normal(size=theta.size)


def case(make: Callable[[int], Family], d: int, S: int, seed: int) -> tuple[Family, FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    family = make(d)
    return family, parameters(family, rng), rng.normal(size=(S, family.noise_dim))


def differences(function: Callable[[FloatArray], float], x: FloatArray) -> FloatArray:
    """Central differences of a scalar function of a vector."""
    steps = STEP * np.eye(x.size)
    return np.array([(function(x + h) - function(x - h)) / (2 * STEP) for h in steps])


def normal(family: Family, theta: FloatArray) -> multivariate_normal:
    return multivariate_normal(family.mean(theta), family.cov(theta))


@every_family
@given(d=dims, seed=seeds)
def test_initial_has_the_mean_and_sd_that_were_asked_for(make, d, seed):
    rng = np.random.default_rng(seed)
    start, sigma = 10 * rng.normal(size=d), 10.0 ** rng.uniform(-6, 4, size=d)
    family = make(d)
    theta = family.initial(start, sigma)
    assert family.ndim == d
    assert theta.shape == (family.size,)
    assert theta.dtype == np.float64
    assert_allclose(family.mean(theta), start, rtol=1e-14)
    assert_allclose(family.std(theta), sigma, rtol=1e-13)


@every_family
@pytest.mark.parametrize(
    ("start", "sigma", "message"),
    [
        (np.zeros(3), np.ones(2), r"start has the shape \(3,\)"),
        (np.zeros(2), np.ones((2, 1)), r"sigma has the shape \(2, 1\)"),
        (np.array([0.0, np.nan]), np.ones(2), r"start\[1\] = nan"),
        (np.zeros(2), np.array([1.0, 0.0]), r"sigma\[1\] = 0.0"),
        (np.zeros(2), np.array([np.inf, 1.0]), r"sigma\[0\] = inf"),
    ],
)
def test_initial_refuses_what_has_no_meaning(make, start, sigma, message):
    with pytest.raises(ArgumentError, match=message):
        make(2).initial(start, sigma)


@every_family
@pytest.mark.parametrize("ndim", [0, -1])
def test_no_dimensions_are_refused(make, ndim):
    with pytest.raises(ArgumentError, match="ndim"):
        make(ndim)


@every_family
@given(d=dims, seed=seeds)
def test_unpack_gives_views_that_cover_theta(make, d, seed):
    family, theta, _ = case(make, d, 1, seed)
    parts = family.unpack(theta)
    assert "mu" in parts
    assert all(np.shares_memory(part, theta) for part in parts.values())
    assert_array_equal(np.concatenate([part.ravel() for part in parts.values()]), theta)
    assert_array_equal(parts["mu"], family.mean(theta))


@every_family
@given(d=dims, seed=seeds)
def test_draws_are_affine_in_the_noise_and_have_the_stated_moments(make, d, seed):
    family, theta, eps = case(make, d, 3, seed)
    mean, cov = family.mean(theta), family.cov(theta)
    assert_allclose(family.draw(theta, np.zeros((1, family.noise_dim))), [mean], rtol=1e-14)
    root = family.draw(theta, np.eye(family.noise_dim)) - mean  # row i is the effect of noise i
    assert_allclose(root.T @ root, cov, rtol=1e-10, atol=1e-12)
    assert_allclose(family.draw(theta, eps), mean + eps @ root, rtol=1e-10, atol=1e-12)
    assert_allclose(family.std(theta), np.sqrt(np.diag(cov)), rtol=1e-12)


@every_family
@given(d=dims, S=draws, seed=seeds)
def test_log_q_is_the_log_density_of_the_draws(make, d, S, seed):
    family, theta, eps = case(make, d, S, seed)
    expected = normal(family, theta).logpdf(family.draw(theta, eps))
    assert_allclose(family.log_q(theta, eps), np.atleast_1d(expected), rtol=1e-9, atol=1e-9)


@every_family
@given(d=dims, S=draws, seed=seeds)
def test_score_is_the_gradient_of_the_log_density(make, d, S, seed):
    family, theta, eps = case(make, d, S, seed)
    q = normal(family, theta)
    expected = [differences(q.logpdf, z) for z in family.draw(theta, eps)]
    assert_allclose(family.score(theta, eps), expected, rtol=1e-4, atol=1e-5)


@every_family
@given(d=dims, S=draws, seed=seeds)
def test_pullback_is_the_gradient_of_the_mean_product(make, d, S, seed):
    family, theta, eps = case(make, d, S, seed)
    v = np.random.default_rng(seed + 1).normal(size=(S, d))
    expected = differences(lambda t: float(np.mean(np.sum(v * family.draw(t, eps), axis=1))), theta)
    assert_allclose(family.pullback(theta, eps, v), expected, rtol=1e-6, atol=1e-8)


@every_family
@given(d=dims, seed=seeds)
def test_entropy_has_its_closed_form_and_gradient(make, d, seed):
    family, theta, _ = case(make, d, 1, seed)
    assert_allclose(family.entropy(theta), normal(family, theta).entropy(), rtol=1e-10, atol=1e-10)
    assert_allclose(family.entropy_gradient(theta), differences(family.entropy, theta), rtol=1e-6, atol=1e-8)


@every_family
@given(d=dims, S=draws, seed=seeds)
def test_path_gradient_is_zero_for_each_draw_when_q_is_the_posterior(make, d, S, seed):
    family, theta, eps = case(make, d, S, seed)
    log_evidence = -12.5
    q = normal(family, theta)
    Z = family.draw(theta, eps)
    logp = log_evidence + np.atleast_1d(q.logpdf(Z))
    score = -np.linalg.solve(family.cov(theta), (Z - family.mean(theta)).T).T
    size = np.abs(score).max() * np.linalg.cond(family.cov(theta))  # what rounding is relative to
    for s in range(S):
        one = slice(s, s + 1)
        elbo, gradient = Elbo("stl").gradient(family, theta, eps[one], logp[one], score[one])
        assert_allclose(elbo, log_evidence, rtol=1e-9)
        assert_allclose(gradient, 0.0, atol=1e-13 * max(1.0, size))


def verbs(family: Family, theta: FloatArray, eps: FloatArray, v: FloatArray) -> dict[str, FloatArray | float]:
    return {
        "draw": family.draw(theta, eps),
        "pullback": family.pullback(theta, eps, v),
        "log_q": family.log_q(theta, eps),
        "score": family.score(theta, eps),
        "entropy": family.entropy(theta),
        "entropy_gradient": family.entropy_gradient(theta),
        "mean": family.mean(theta),
        "std": family.std(theta),
        "cov": family.cov(theta),
    }


@every_family
@given(d=dims, S=draws, seed=seeds)
def test_verbs_are_pure_and_have_the_stated_shapes(make, d, S, seed):
    family, theta, eps = case(make, d, S, seed)
    v = np.random.default_rng(seed + 1).normal(size=(S, d))
    for array in (theta, eps, v):
        array.flags.writeable = False
    first = verbs(family, theta, eps, v)
    second = verbs(pickle.loads(pickle.dumps(family)), theta.copy(), eps.copy(), v.copy())
    p = family.size
    shapes = {"draw": (S, d), "pullback": (p,), "log_q": (S,), "score": (S, d), "entropy": (), "entropy_gradient": (p,)}
    shapes |= {"mean": (d,), "std": (d,), "cov": (d, d)}
    for name, value in first.items():
        assert np.shape(value) == shapes[name], name
        assert_array_equal(value, second[name], err_msg=name)
        assert not any(np.shares_memory(value, array) for array in (theta, eps, v)), name
    assert isinstance(first["entropy"], float)


@every_family
@given(d=st.sampled_from([1, 2, 5, 8, 17, 40]), S=draws, seed=seeds)
def test_a_draw_has_the_same_bits_alone_and_among_others(make, d, S, seed):
    family, theta, eps = case(make, d, S, seed)
    for verb in (family.draw, family.log_q, family.score):
        together = verb(theta, eps)
        for s in range(S):
            assert_array_equal(verb(theta, eps[s : s + 1].copy())[0], together[s])


@every_family
def test_families_of_equal_settings_are_equal(make):
    assert make(3) == make(3)
    assert hash(make(3)) == hash(make(3))
    assert make(3) != make(4)
