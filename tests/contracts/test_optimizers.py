"""What every Optimizer must do. A new optimizer is one row of OPTIMIZERS."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytensor
import pytest
from numpy.testing import assert_array_equal

from dvi.inference import optimizers
from dvi.inference.schedules import Constant, Cosine
from dvi.types import FloatArray, Optimizer

# One row an implementation: settings under which 500 steps bring the quadratic below to a tenth of its first loss.
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": optimizers.sgd(0.05),
    "momentum": optimizers.momentum(0.02),
    "nesterov_momentum": optimizers.nesterov_momentum(0.02),
    "adagrad": optimizers.adagrad(0.5),
    "adagrad_window": optimizers.adagrad_window(0.05, n_win=7),
    "rmsprop": optimizers.rmsprop(0.01),
    "adadelta": optimizers.adadelta(1.0, epsilon=1e-3),
    "adam": optimizers.adam(0.05),
    "adamax": optimizers.adamax(0.05),
    "apply_momentum": optimizers.apply_momentum(optimizers.sgd(0.02)),
    "apply_nesterov_momentum": optimizers.apply_nesterov_momentum(optimizers.adagrad_window(0.02, n_win=3), 0.5),
}

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
P = 6
CURVATURE = np.geomspace(0.3, 3.0, P)
START = np.linspace(-2.0, 3.0, P)
IDENTITY = np.arange(P)


def noisy_gradient(step: int, theta: FloatArray) -> FloatArray:
    return CURVATURE * theta + 0.1 * np.random.default_rng(step).normal(size=theta.shape)


def run(optimizer, theta, state, steps, order=IDENTITY):
    """Take `steps`; component i of theta is component order[i] of the quadratic."""
    for step in steps:
        gradient = noisy_gradient(step, theta[np.argsort(order)])[order]
        theta, state = optimizer.update(step, theta, gradient, state)
    return theta, state


def test_every_optimizer_that_can_be_saved_has_a_row():
    assert OPTIMIZERS.keys() == optimizers.OPTIMIZERS.keys()


@every_optimizer
def test_it_minimises(optimizer):
    theta, state = START, optimizer.init(START)
    for step in range(500):
        theta, state = optimizer.update(step, theta, CURVATURE * theta, state)
    assert CURVATURE @ theta**2 < 0.1 * (CURVATURE @ START**2)


@every_optimizer
def test_update_is_pure(optimizer):
    theta, state = run(optimizer, START, optimizer.init(START), range(5))
    gradient = noisy_gradient(5, theta)
    inputs = (theta, gradient, *state)
    before = [array.copy() for array in inputs]
    for array in inputs:
        array.flags.writeable = False
    first_theta, first_state = optimizer.update(5, theta, gradient, state)
    second_theta, second_state = optimizer.update(5, theta.copy(), gradient.copy(), tuple(a.copy() for a in state))
    for array, copy in zip(inputs, before, strict=True):
        assert_array_equal(array, copy)
    for one, two in zip((first_theta, *first_state), (second_theta, *second_state), strict=True):
        assert_array_equal(one, two)
    assert not any(np.shares_memory(first_theta, array) for array in inputs)
    for array in first_state:  # a part of the state may stay the same array: it is never written to
        assert not np.shares_memory(array, theta) and not np.shares_memory(array, gradient)
        assert any(array is old for old in state) or not any(np.shares_memory(array, old) for old in state)


@every_optimizer
def test_state_keeps_its_structure_and_starts_empty(optimizer):
    state = optimizer.init(START)
    assert all(not array.any() for array in state)
    theta, after = run(optimizer, START, state, range(20))
    assert theta.shape == START.shape
    assert [(array.shape, array.dtype) for array in after] == [(array.shape, array.dtype) for array in state]


@every_optimizer
def test_a_run_that_is_saved_and_resumed_has_the_same_bits(optimizer):
    whole, whole_state = run(optimizer, START, optimizer.init(START), range(30))
    half = run(optimizer, START, optimizer.init(START), range(13))
    theta, state = pickle.loads(pickle.dumps(half))
    restored = optimizers.from_json(json.loads(json.dumps(optimizers.to_json(optimizer))))
    assert restored == optimizer
    theta, state = run(restored, theta, state, range(13, 30))
    for one, two in zip((whole, *whole_state), (theta, *state), strict=True):
        assert_array_equal(one, two)


@every_optimizer
def test_the_rule_is_elementwise(optimizer):
    order = np.array([3, 0, 5, 1, 4, 2])
    theta, _ = run(optimizer, START, optimizer.init(START), range(20))
    permuted, _ = run(optimizer, START[order], optimizer.init(START[order]), range(20), order)
    assert_array_equal(permuted, theta[order])


@every_optimizer
def test_a_zero_gradient_moves_nothing(optimizer):
    theta, state = optimizer.update(0, START, np.zeros(P), optimizer.init(START))
    assert_array_equal(theta, START)
    assert all(not array.any() for array in state)


@every_optimizer
def test_the_learning_rate_may_be_a_schedule(optimizer):
    constant = optimizers.with_learning_rate(optimizer, Constant(optimizer.learning_rate))
    expected, _ = run(optimizer, START, optimizer.init(START), range(20))
    actual, _ = run(constant, START, constant.init(START), range(20))
    assert_array_equal(actual, expected)
    ended = optimizers.with_learning_rate(optimizer, Cosine(optimizer.learning_rate, steps=10))
    theta, _ = ended.update(10, START, np.ones(P), ended.init(START))
    if optimizers.to_json(optimizer)["name"] not in {"momentum", "nesterov_momentum"}:
        assert_array_equal(theta, START)
    assert optimizers.from_json(json.loads(json.dumps(optimizers.to_json(ended)))) == ended


@every_optimizer
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_scale_multiplies_the_learning_rate(optimizer, scale):
    other = optimizers.with_learning_rate(optimizer, scale * optimizer.learning_rate)
    assert optimizers.learning_rate_of(other) == scale * optimizer.learning_rate
    theta, state = run(optimizer, START, optimizer.init(START), range(5))
    gradient = noisy_gradient(5, theta)
    expected, expected_state = other.update(5, theta, gradient, state)
    actual, actual_state = optimizer.update(5, theta, gradient, state, scale)
    for one, two in zip((actual, *actual_state), (expected, *expected_state), strict=True):
        assert_array_equal(one, two)
    if scale == 1.0:
        assert_array_equal(actual, optimizer.update(5, theta, gradient, state)[0])
    assert not np.array_equal(actual, theta)


@every_optimizer
def test_the_learning_rate_may_be_a_variable_that_changes(optimizer):
    variable = pytensor.shared(optimizer.learning_rate)
    alive = optimizers.with_learning_rate(optimizer, variable)
    settled, live = optimizers.take_live(alive)
    assert settled == optimizer
    variable.set_value(2.0 * optimizer.learning_rate)
    assert live() == 2.0 * optimizer.learning_rate
    state = optimizer.init(START)
    expected, _ = optimizer.update(0, START, CURVATURE * START, state, scale=2.0)
    assert_array_equal(alive.update(0, START, CURVATURE * START, state)[0], expected)
    assert optimizers.take_live(optimizer) == (optimizer, None)


@every_optimizer
def test_settings_are_values(optimizer):
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    assert hash(replace(optimizer)) == hash(optimizer)
    with pytest.raises(FrozenInstanceError):
        setattr(optimizer, fields(optimizer)[0].name, 1.0)
