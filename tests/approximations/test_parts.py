"""PointFamily, EmpiricalFamily and StructuredFamily: what only they do."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.flow import FlowFamily
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.point import PointFamily
from dvi.approximations.structured import Part, StructuredFamily
from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference.elbo import Elbo


@pytest.mark.parametrize("estimator", ["stl", "entropy"])
def test_the_elbo_of_a_point_is_the_log_density_there(estimator):
    family = PointFamily(2)
    theta, eps = np.array([1.0, 2.0]), np.empty((3, 0))
    score = np.tile([0.5, -0.5], (3, 1))
    value, gradient = Elbo(estimator).gradient(family, theta, eps, np.full(3, -7.0), score)
    assert value == -7.0
    assert_allclose(gradient, [0.5, -0.5], rtol=1e-15)
    assert_array_equal(family.std(theta), [0.0, 0.0])


def particles(n: int, d: int, log_weights: np.ndarray) -> tuple[EmpiricalFamily, np.ndarray, np.ndarray]:
    family = EmpiricalFamily(d, n)
    histogram = np.random.default_rng(1).normal(size=(n, d))
    return family, histogram, family.pack({"histogram": histogram, "log_weights": log_weights})


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_quantiles_draw_each_particle_once_and_in_order(n):
    family, histogram, theta = particles(n, 3, np.zeros(n))
    assert_array_equal(family.draw(theta, family.quantiles()), histogram)
    v = np.random.default_rng(2).normal(size=(n, 3))
    gradient = family.unpack(family.pullback(theta, family.quantiles(), v))
    assert_allclose(gradient["histogram"], v / n, rtol=1e-15)
    assert_array_equal(gradient["log_weights"], 0.0)


def test_particles_are_drawn_as_often_as_they_weigh_and_moments_agree():
    weights = np.array([0.5, 0.0, 0.2, 0.3])
    with np.errstate(divide="ignore"):
        family, histogram, theta = particles(4, 2, 3.0 + np.log(weights))
    Z = family.draw(theta, np.random.default_rng(3).normal(size=(40_000, 1)))
    share = [(particle == Z).all(axis=1).mean() for particle in histogram]
    assert_allclose(share, weights, atol=5 * 0.5 / 200)
    assert share[1] == 0.0
    assert_allclose(family.mean(theta), np.average(histogram, axis=0, weights=weights), rtol=1e-12)
    assert_allclose(family.cov(theta), np.cov(histogram.T, aweights=weights, ddof=0), rtol=1e-12)
    assert_allclose(family.std(theta), np.sqrt(np.diag(family.cov(theta))), rtol=1e-12)


def test_standard_deviations_of_equal_particles_are_those_of_the_population():
    family, histogram, theta = particles(9, 2, np.zeros(9))
    assert_allclose(family.std(theta), histogram.std(axis=0), rtol=1e-12)


def test_extreme_noise_draws_the_first_and_last_particles():
    family, histogram, theta = particles(5, 1, np.zeros(5))
    assert_array_equal(family.draw(theta, np.array([[-50.0], [50.0]])), histogram[[0, -1]])


def test_particles_start_with_the_moments_asked_for():
    family = EmpiricalFamily(3, 50)
    start, sigma = np.array([1.0, -2.0, 0.0]), np.array([0.1, 1.0, 5.0])
    theta = family.initial(start, sigma)
    assert_allclose(family.mean(theta), start, atol=1e-12)
    assert_allclose(family.std(theta), sigma, rtol=1e-12)


def test_particles_have_no_density():
    family, _, theta = particles(3, 2, np.zeros(3))
    for verb in (family.log_q, family.score):
        with pytest.raises(ArgumentError, match="3 particles has no density"):
            verb(theta, np.zeros((1, 1)))
    with pytest.raises(ArgumentError, match="n = 0"):
        EmpiricalFamily(2, 0)


def test_parts_are_those_of_the_families_alone():
    first, second = FullRankFamily(2), MeanFieldFamily(1)
    family = StructuredFamily([Part(first, [2, 0]), Part(second, [1])])
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=first.size), rng.normal(size=second.size)
    theta, eps, v = np.concatenate([a, b]), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    Z = family.draw(theta, eps)
    assert_array_equal(Z[:, [2, 0]], first.draw(a, eps[:, :2]))
    assert_array_equal(Z[:, [1]], second.draw(b, eps[:, 2:]))
    expected = [first.pullback(a, eps[:, :2], v[:, [2, 0]]), second.pullback(b, eps[:, 2:], v[:, [1]])]
    assert_array_equal(family.pullback(theta, eps, v), np.concatenate(expected))
    assert_array_equal(family.cov(theta)[np.ix_([2, 0], [2, 0])], first.cov(a))
    assert list(family.unpack(theta)) == ["0.mu", "0.L_tril", "1.mu", "1.rho"]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (([0, 1], [1]), "the index 1 is in the place of 2"),
        (([0, 1], [3]), "the index 3 is in the place of 2"),
        (([-1, 1], [0]), "the index -1 is in the place of 0"),
        (([0], [1]), "has 2 dimensions; 1 indices were given"),
    ],
)
def test_indices_cover_the_vector_once(indices, message):
    with pytest.raises(ArgumentError, match=message):
        StructuredFamily((Part(FullRankFamily(2), indices[0]), Part(MeanFieldFamily(1), indices[1])))


def test_parts_without_meaning_are_refused():
    with pytest.raises(ArgumentError, match="at least one part"):
        StructuredFamily(())
    with pytest.raises(ArgumentTypeError, match="not all of type int"):
        Part(MeanFieldFamily(2), (0.0, 1.0))


def test_a_part_without_an_entropy_is_named():
    family = StructuredFamily((Part(FlowFamily(2, "planar"), (0, 1)), Part(MeanFieldFamily(1), (2,))))
    theta = family.initial(np.zeros(3), np.ones(3))
    with pytest.raises(ArgumentError, match=r"FlowFamily.*'stl'"):
        family.entropy(theta)
    with pytest.raises(ArgumentError, match=r"FlowFamily.*'stl'"):
        family.entropy_gradient(theta)
