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

from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.flow import FlowFamily
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.point import PointFamily
from dvi.approximations.structured import Part, StructuredFamily
from dvi.errors import ArgumentError
from dvi.inference.elbo import Elbo
from dvi.types import Family, FloatArray, GaussianFamily


def structured(d: int) -> StructuredFamily:
    """A full covariance for every second dimension, independent ones between them."""
    parts = [Part(FullRankFamily((d + 1) // 2), range(0, d, 2))]
    if d > 1:
        parts.append(Part(MeanFieldFamily(d // 2), range(1, d, 2)))
    return StructuredFamily(tuple(parts))


# One row an implementation: how to make it for d dimensions. The first are normal distributions.
GAUSSIAN: dict[str, Callable[[int], GaussianFamily]] = {
    "meanfield": MeanFieldFamily,
    "fullrank": FullRankFamily,
    "lowrank, rank 1": lambda d: LowRankFamily(d, 1),
    "lowrank, rank 3": lambda d: LowRankFamily(d, min(3, d)),
    "lowrank, rank d": lambda d: LowRankFamily(d, d),
    "structured": structured,
}
FLOWS: dict[str, Callable[[int], Family]] = {
    "scale and loc": lambda d: FlowFamily(d, "loc-scale"),
    "planar": lambda d: FlowFamily(d, "scale-loc-planar*3"),
    "radial": lambda d: FlowFamily(d, "radial*3-loc"),
    "coupling": lambda d: FlowFamily(d, "coupling*3" if d > 1 else "planar"),
    "all layers": lambda d: FlowFamily(d, "planar-scale-radial*2-loc" + "-coupling*2" * (d > 1)),
}
DENSITIES = GAUSSIAN | FLOWS
OTHERS: dict[str, Callable[[int], Family]] = {
    "point": PointFamily,
    "empirical, 1": lambda d: EmpiricalFamily(d, 1),
    "empirical, 7": lambda d: EmpiricalFamily(d, 7),
    "structured of points": lambda d: StructuredFamily(tuple(Part(PointFamily(1), (d - 1 - i,)) for i in range(d))),
}
FAMILIES = DENSITIES | OTHERS

every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
every_gaussian = pytest.mark.parametrize("make", GAUSSIAN.values(), ids=GAUSSIAN)
every_density = pytest.mark.parametrize("make", DENSITIES.values(), ids=DENSITIES)
every_flow = pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)
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


def jacobian_of(function: Callable[[FloatArray], FloatArray], x: FloatArray) -> FloatArray:
    """Central differences of a vector function of a vector: element (i, j) is of output i, in input j."""
    steps = STEP * np.eye(x.size)
    return np.array([(function(x + h) - function(x - h)) / (2 * STEP) for h in steps]).T


def normal(family: Family, theta: FloatArray) -> multivariate_normal:
    return multivariate_normal(family.mean(theta), family.cov(theta))


@every_density
@given(d=dims, seed=seeds)
def test_initial_has_the_mean_and_sd_that_were_asked_for(make, d, seed):
    rng = np.random.default_rng(seed)
    start, sigma = 10 * rng.normal(size=d), 10.0 ** rng.uniform(-6, 4, size=d)
    family = make(d)
    theta = family.initial(start, sigma)
    assert family.ndim == d
    assert theta.shape == (family.size,)
    assert theta.dtype == np.float64
    rounding = 1e-15 * (np.abs(start) + sigma) * isinstance(family, FlowFamily)  # of moments that are those of draws
    assert np.all(np.abs(family.mean(theta) - start) <= 1e-14 * np.abs(start) + 10 * rounding)
    assert np.all(np.abs(family.std(theta) - sigma) <= 1e-13 * sigma + 10 * rounding)


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
def test_pack_is_the_inverse_of_unpack(make, d, seed):
    family, theta, _ = case(make, d, 1, seed)
    params = family.unpack(theta)
    again = family.pack(params)
    assert again.shape == (family.size,)
    assert not np.shares_memory(again, theta)
    assert_allclose(again, theta, rtol=1e-7, atol=1e-9)
    for name, value in family.unpack(again).items():
        assert_allclose(value, params[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("make", [MeanFieldFamily, FullRankFamily, PointFamily, GAUSSIAN["lowrank, rank 3"]])
@given(d=dims, seed=seeds)
def test_the_mean_is_a_parameter(make, d, seed):
    family, theta, _ = case(make, d, 1, seed)
    assert_array_equal(family.unpack(theta)["mu"], family.mean(theta))


@every_gaussian
@given(d=dims, seed=seeds)
def test_draws_are_affine_in_the_noise_and_have_the_stated_moments(make, d, seed):
    family, theta, eps = case(make, d, 3, seed)
    mean, cov = family.mean(theta), family.cov(theta)
    assert_allclose(family.draw(theta, np.zeros((1, family.noise_dim))), [mean], rtol=1e-14)
    root = family.draw(theta, np.eye(family.noise_dim)) - mean  # row i is the effect of noise i
    assert_allclose(root.T @ root, cov, rtol=1e-10, atol=1e-12)
    assert_allclose(family.draw(theta, eps), mean + eps @ root, rtol=1e-10, atol=1e-12)
    assert_allclose(family.std(theta), np.sqrt(np.diag(cov)), rtol=1e-12)


@every_gaussian
@given(d=dims, S=draws, seed=seeds)
def test_log_q_is_the_log_density_of_the_draws(make, d, S, seed):
    family, theta, eps = case(make, d, S, seed)
    expected = normal(family, theta).logpdf(family.draw(theta, eps))
    assert_allclose(family.log_q(theta, eps), np.atleast_1d(expected), rtol=1e-9, atol=1e-9)


@every_gaussian
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


@every_gaussian
@given(d=dims, seed=seeds)
def test_entropy_has_its_closed_form_and_gradient(make, d, seed):
    family, theta, _ = case(make, d, 1, seed)
    assert_allclose(family.entropy(theta), normal(family, theta).entropy(), rtol=1e-10, atol=1e-10)
    assert_allclose(family.entropy_gradient(theta), differences(family.entropy, theta), rtol=1e-6, atol=1e-8)


@every_gaussian
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


@every_flow
@given(d=st.integers(1, 4), S=draws, seed=seeds)
def test_density_of_a_flow_is_that_of_its_noise_over_the_volume_of_its_map(make, d, S, seed):
    family, theta, eps = case(make, d, S, seed)
    log_q = family.log_q(theta, eps)
    for s, one in enumerate(eps):
        jacobian = jacobian_of(lambda e: family.draw(theta, e[None])[0], one)
        expected = -0.5 * one @ one - 0.5 * d * np.log(2 * np.pi) - np.linalg.slogdet(jacobian)[1]
        assert_allclose(log_q[s], expected, rtol=1e-6, atol=1e-6)
        slope = differences(lambda e: float(family.log_q(theta, e[None])[0]), one)
        assert_allclose(jacobian.T @ family.score(theta, one[None])[0], slope, rtol=1e-5, atol=1e-6)


@every_flow
@given(d=dims, seed=seeds)
def test_moments_of_a_flow_are_those_of_its_draws(make, d, seed):
    family, theta, eps = case(make, d, 4000, seed)
    Z = family.draw(theta, eps)
    error = 6 * family.std(theta) / np.sqrt(4000)
    assert np.all(np.abs(Z.mean(axis=0) - family.mean(theta)) < 2 * error)
    assert_allclose(np.sqrt(np.diag(family.cov(theta))), family.std(theta), rtol=1e-12)


def verbs(family: Family, theta: FloatArray, eps: FloatArray, v: FloatArray) -> dict[str, FloatArray | float]:
    """Results of all verbs that a family has; a set of particles refuses those of a density."""
    names = {"draw": (theta, eps), "pullback": (theta, eps, v), "mean": (theta,), "std": (theta,), "cov": (theta,)}
    if not isinstance(family, EmpiricalFamily):
        names |= {"log_q": (theta, eps), "score": (theta, eps)}
    if hasattr(family, "entropy"):
        names |= {"entropy": (theta,), "entropy_gradient": (theta,)}
    return {name: getattr(family, name)(*arguments) for name, arguments in names.items()}


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
    assert isinstance(first.get("entropy", 0.0), float)
    assert first.keys() >= {"draw", "pullback", "mean", "std", "cov"}


@every_family
@given(d=st.sampled_from([1, 2, 5, 8, 17, 40]), S=draws, seed=seeds)
def test_a_draw_has_the_same_bits_alone_and_among_others(make, d, S, seed):
    family, theta, eps = case(make, d, S, seed)
    for verb in (family.draw, family.log_q, family.score)[: 1 if isinstance(family, EmpiricalFamily) else 3]:
        together = verb(theta, eps)
        for s in range(S):
            assert_array_equal(verb(theta, eps[s : s + 1].copy())[0], together[s])


@every_family
def test_families_of_equal_settings_are_equal(make):
    assert make(3) == make(3)
    assert hash(make(3)) == hash(make(3))
    assert make(3) != make(4)
