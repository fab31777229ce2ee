"""A learning rate that follows the losses is a pure function of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference.schedules import Constant, ReduceOnPlateau, observe, start_rate


def factors(schedule, losses):
    """The factor on the learning rate after each loss."""
    memory, seen = start_rate(schedule), []
    for loss in losses:
        memory = observe(schedule, memory, loss)
        seen.append(float(memory[0]))
    return seen


def test_a_loss_that_falls_keeps_the_learning_rate():
    noise = np.random.default_rng(1).normal(size=5_000)
    schedule = ReduceOnPlateau(0.1, patience=300, window=100)
    assert set(factors(schedule, noise - 0.01 * np.arange(5_000))) == {1.0}


def test_a_plateau_reduces_it_once_every_patience_down_to_the_minimum():
    schedule = ReduceOnPlateau(0.1, factor=0.5, patience=20, window=10, minimum=0.02)
    seen = factors(schedule, [3.0] * 100)
    # The first window is an improvement on nothing; two more without one are the patience.
    assert [seen.index(f) + 1 for f in (0.5, 0.25)] == [30, 50]
    assert seen[69] == seen[-1] == pytest.approx(0.2)
    assert schedule(70) * seen[69] == pytest.approx(0.02)


def test_patience_is_rounded_up_to_whole_windows():
    assert factors(ReduceOnPlateau(0.1, patience=11, window=10), [3.0] * 60).index(0.5) + 1 == 30


def test_losses_of_the_cooldown_are_not_looked_at():
    schedule = ReduceOnPlateau(0.1, factor=0.5, patience=20, window=10, cooldown=15)
    losses = [3.0] * 30 + [-1e9] * 15 + [3.0] * 20
    seen = factors(schedule, losses)
    assert seen.index(0.25) + 1 == 65


def test_noise_is_no_improvement_and_a_plateau_of_noise_is_found():
    losses = np.random.default_rng(2).normal(size=20_000)
    seen = factors(ReduceOnPlateau(0.1, factor=0.1, patience=1_000, window=100, tolerance=1.0), losses)
    assert seen[-1] < 1e-6
    drop = np.concatenate([losses[:10_000], losses[10_000:] - 0.5])  # half a standard deviation of one loss
    patient = ReduceOnPlateau(0.1, factor=0.1, patience=11_000, window=100)
    assert factors(patient, losses)[-1] < 1.0
    assert factors(patient, drop)[-1] == 1.0


def test_losses_that_are_not_finite_are_left_out():
    schedule = ReduceOnPlateau(0.1, patience=20, window=10)
    losses = [3.0 + 0.1 * (i % 3) for i in range(60)]
    spoiled = [value for loss in losses for value in (loss, math.nan, math.inf, -math.inf)]
    assert factors(schedule, spoiled)[::4] == factors(schedule, losses)


@given(
    st.builds(ReduceOnPlateau, st.just(0.1), st.floats(0.01, 0.9), *[st.integers(1, 20)] * 2, st.floats(0.0, 3.0)),
    st.lists(st.floats(-1e6, 1e6), max_size=100),
    st.integers(0, 100),
)
def test_a_fit_that_is_resumed_has_the_same_bits_and_nothing_is_written_to(schedule, losses, cut):
    memory = start_rate(schedule)
    restored = memory.copy()
    for i, loss in enumerate(losses):
        memory.flags.writeable = False
        before = memory.copy()
        after = observe(schedule, memory, loss)
        assert_array_equal(memory, before)
        assert after.shape == memory.shape and after[0] <= memory[0]
        restored = observe(schedule, restored.copy() if i == cut else restored, loss)
        memory = after
        assert_array_equal(memory, restored)


@pytest.mark.parametrize("learning_rate", [0.1, Constant(0.1), lambda step: 0.1, None])
def test_other_learning_rates_do_not_look_at_losses(learning_rate):
    rate = start_rate(learning_rate)
    assert rate.tolist() == [1.0]
    assert observe(learning_rate, rate, math.nan) is rate


@pytest.mark.parametrize(
    "setting",
    [
        {"initial": 0.0}, {"factor": 0.0}, {"factor": 1.0}, {"patience": 0}, {"window": 0}, {"tolerance": -0.1},
        {"cooldown": -1}, {"minimum": -1.0}, {"minimum": 0.2}, {"tolerance": math.inf},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ArgumentError, match=f"{next(iter(setting))} = "):
        ReduceOnPlateau(**({"initial": 0.1} | setting))


def test_settings_of_another_type_are_refused():
    with pytest.raises(ArgumentTypeError, match=r"window = .* is of type float"):
        ReduceOnPlateau(0.1, window=1.5)
