from __future__ import annotations

import math
import pickle

import numpy as np
import pymc as pm
import pytensor
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError
from dvi.inference.kernels import median_bandwidth
from dvi.inference.stein import Stein, stein_block


class Particles:
    """Particles that are their own parameters: the one thing about a family that the objective asks for."""

    def draw(self, theta, eps):
        return theta.reshape(eps.shape[0], -1)

    def pullback(self, theta, eps, v):
        return v.ravel() / len(v)


def evaluate(Z, score, order=None, **settings):
    """Value and directions ``(n, d)``, with the blocks computed in any order."""
    stein = Stein(**settings)
    work = stein.work(Z, score)
    results = [] if work is None else [None] * len(work.items)
    for index in order if order is not None else range(len(results)):
        results[index] = work.function(*work.shared, work.items[index])
    value, gradient = stein.gradient(Particles(), Z.ravel(), np.empty((len(Z), 0)), np.zeros(len(Z)), score, results)
    return value, gradient.reshape(Z.shape)


def by_definition(Z, score, temperature=1.0):
    """Squared discrepancy and directions, as two sums over all pairs."""
    n, d = Z.shape
    score = score / temperature
    square = ((Z[:, None] - Z) ** 2).sum(axis=2)
    h = 0.5 * np.median(square) / np.log(n + 1)
    phi, discrepancy = np.zeros((n, d)), 0.0
    for i in range(n):
        for j in range(n):
            k, r = np.exp(-square[i, j] / (2 * h)), Z[i] - Z[j]
            phi[i] += k * score[j] + k * r / h
            discrepancy += k * (score[i] @ score[j] + r @ (score[i] - score[j]) / h + d / h - r @ r / h**2)
    return discrepancy / n**2, phi / n


def particles(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d))


@pytest.mark.parametrize(("n", "d"), [(2, 1), (2, 3), (3, 2), (40, 1), (65, 7), (30, 200)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_directions_and_discrepancy_are_those_of_the_definition(n, d, temperature):
    Z, score = particles(n, d)
    value, phi = evaluate(Z, score, temperature=temperature, block=16)
    discrepancy, expected = by_definition(Z, score, temperature)
    assert_allclose(phi, expected, rtol=0, atol=1e-12)
    assert_allclose(value, -discrepancy, rtol=1e-12)
    assert type(value) is float


PRECISION = np.linalg.inv([[1.0, 0.5], [0.5, 2.0]])


@pytest.fixture
def model():
    with pm.Model() as model:
        pm.MvNormal("x", [1.0, 2.0], tau=PRECISION, shape=2)
    return model


def test_one_step_moves_particles_to_where_pymc_moves_them(model):
    svgd = pm.SVGD(n_particles=37, random_seed=1, model=model)
    (shared,) = svgd.approx.params
    Z = shared.get_value().copy()
    step = svgd.objective.step_function(
        obj_optimizer=pm.sgd(learning_rate=0.7), compile_kwargs={"mode": "FAST_COMPILE"}
    )
    step()
    _, phi = evaluate(Z, -(Z - [1.0, 2.0]) @ PRECISION)
    assert_allclose(Z + 0.7 * phi, shared.get_value(), rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:You are using experimental inference Operator")
def test_amortised_gradient_is_that_of_pymc(model):
    with model:
        asvgd = pm.ASVGD(pm.MeanField(random_seed=1))
    approx, objective = asvgd.approx, asvgd.objective
    mu, rho = approx.params_dict["mu"], approx.params_dict["rho"]
    draws = approx.symbolic_random
    moves = objective.op.apply(objective.tf)
    gradients = pytensor.grad(None, [mu, rho], known_grads={draws: moves})
    graph = approx.set_size_and_deterministic([draws, *gradients], 40, 0)
    Z, *expected = pytensor.function([], graph, mode="FAST_COMPILE")()

    family = MeanFieldFamily(2)
    theta = family.pack({"mu": mu.get_value(), "rho": rho.get_value()})
    eps = (Z - family.mean(theta)) / family.std(theta)
    _, gradient = Stein().gradient(family, theta, eps, np.zeros(40), -(Z - [1.0, 2.0]) @ PRECISION, [])
    assert_allclose(gradient, -np.concatenate(expected), rtol=0, atol=1e-10)


def test_amortised_gradient_is_the_sum_of_the_moves_pulled_back():
    family = MeanFieldFamily(2)
    rng = np.random.default_rng(3)
    theta, eps = rng.normal(size=4), rng.normal(size=(40, 2))
    Z = family.draw(theta, eps)
    _, gradient = Stein().gradient(family, theta, eps, np.zeros(40), -Z, [])
    _, phi = by_definition(Z, -Z)
    h = 1e-6
    differences = [
        np.sum(phi * (family.draw(theta + step, eps) - family.draw(theta - step, eps))) / (2 * h)
        for step in h * np.eye(4)
    ]
    assert_allclose(gradient, differences, rtol=1e-7)


@given(n=st.integers(1, 150), d=st.integers(1, 4), block=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_size_of_the_blocks_changes_rounding_only(n, d, block, seed):
    Z, score = particles(n, d, seed)
    value, phi = evaluate(Z, score, block=block)
    expected, expected_phi = evaluate(Z, score)
    assert_allclose(phi, expected_phi, rtol=0, atol=1e-11 * max(1.0, np.abs(expected_phi).max()))
    assert_allclose(value, expected, rtol=1e-10, atol=1e-10)


@given(order=st.permutations(range(5)))
def test_order_and_place_of_the_blocks_change_no_bit(order):
    Z, score = particles(70, 3)
    work = Stein(block=16).work(Z, score)
    assert work.function is stein_block
    assert [pickle.loads(pickle.dumps(item)) for item in work.items] == [
        (0, 16),
        (16, 32),
        (32, 48),
        (48, 64),
        (64, 70),
    ]
    value, phi = evaluate(Z, score, order, block=16)
    expected, expected_phi = evaluate(Z, score, block=16)
    assert value == expected
    assert_array_equal(phi, expected_phi)


def test_one_block_is_not_shared_and_gives_the_same_bits():
    Z, score = particles(16, 3)
    stein = Stein(block=16)
    assert stein.work(Z, score) is None
    value, gradient = stein.gradient(Particles(), Z.ravel(), np.empty((16, 0)), np.zeros(16), score, [])
    again, same = stein.gradient(Particles(), Z.ravel(), np.empty((16, 0)), np.zeros(16), score, [])
    assert value == again
    assert_array_equal(gradient, same)


@pytest.mark.parametrize("offset", [2.0**27, -(2.0**27)])
def test_an_offset_of_all_particles_changes_nothing(offset):
    Z, score = particles(50, 3)
    Z = np.round(Z * 2**20) / 2**20  # so that the sum with the offset is exact
    value, phi = evaluate(Z + offset, score)
    expected, expected_phi = evaluate(Z, score)
    assert_allclose(phi, expected_phi, rtol=0, atol=1e-13)
    assert_allclose(value, expected, rtol=1e-13)


def test_one_particle_follows_its_score():
    score = np.array([[3.0, -4.0]])
    value, phi = evaluate(np.array([[1e8, 2.0]]), score)
    assert_allclose(phi, score)
    assert_allclose(value, -(25.0 + 2 / (0.5 / np.log(2))))


def test_particles_that_coincide_follow_their_mean_score():
    _, score = particles(20, 3)
    _, phi = evaluate(np.full((20, 3), 0.1), score)
    assert_allclose(phi, np.tile(score.mean(axis=0), (20, 1)), rtol=1e-13)


def test_when_most_particles_coincide_the_others_still_repel():
    Z = np.zeros((20, 1))
    Z[:2] = [[1.0], [-1.0]]
    value, phi = evaluate(Z, np.zeros((20, 1)))
    assert np.isfinite(value)
    assert phi[0, 0] > 0 > phi[1, 0]
    assert_allclose(phi[2:], 0.0, atol=1e-15)


def test_a_particle_far_away_costs_the_others_no_digits():
    Z, score = particles(51, 2)
    Z[0] = 1e9
    _, phi = evaluate(Z, score)
    _, expected = by_definition(Z, score)
    assert_allclose(phi[1:], expected[1:], rtol=0, atol=1e-12)


def test_without_scores_the_moves_cancel():
    """Repulsion is antisymmetric: it moves no centre of mass."""
    Z, _ = particles(100, 3)
    value, phi = evaluate(Z, np.zeros_like(Z))
    assert np.abs(phi).max() > 0.01
    assert_allclose(phi.sum(axis=0), 0.0, atol=1e-12)
    assert value < 0


@given(n=st.integers(2, 80), d=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_discrepancy_is_never_negative(n, d, seed):
    value, _ = evaluate(*particles(n, d, seed))
    assert value <= 0


def test_steps_lead_to_the_mean_and_spread_of_the_density():
    """Quantiles of a normal distribution hardly move; particles off it end with its mean and sd."""
    Z = np.random.default_rng(0).normal(3.0, 0.3, size=(50, 1))
    first, _ = evaluate(Z, -Z)
    for _ in range(600):
        value, phi = evaluate(Z, -Z)
        Z = Z + 0.5 * phi
    assert value > 0.001 * first
    assert_allclose(Z.mean(), 0.0, atol=0.01)
    assert_allclose(Z.std(), 1.0, atol=0.05)


def test_no_argument_is_written_to():
    Z, score = particles(70, 3)
    Z.flags.writeable = score.flags.writeable = False
    work = Stein().work(Z, score)
    work.shared[0].flags.writeable = False
    assert [phi.shape for phi, _ in (work.function(*work.shared, item) for item in work.items)] == [(64, 3), (6, 3)]


def test_bandwidth_fixes_the_length_scale():
    Z, score = particles(10, 2)
    _, h = Stein(block=4).work(Z, score).shared
    assert_allclose(h, median_bandwidth(Z), rtol=1e-13)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"temperature = 0.0 .*above 0"),
        ({"temperature": math.inf}, r"temperature = inf .*finite"),
        ({"block": 0}, r"block = 0 .*at least 1"),
        ({"block": 2.5}, r"block = 2.5 .*integer"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        Stein(**settings)
