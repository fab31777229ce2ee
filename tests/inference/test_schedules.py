from __future__ import annotations

import json
import math
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference import schedules
from dvi.inference.schedules import Constant, Cosine, Exponential, OneCycle, ReduceOnPlateau

sizes = st.floats(1e-6, 10.0)
parts = st.floats(0.0, 1.0)
lengths = st.integers(1, 10_000)
PEAKS = {  # the field of the highest rate
    Constant: "value", Exponential: "initial", Cosine: "peak", OneCycle: "peak", ReduceOnPlateau: "initial",
}  # fmt: skip
any_schedule = st.one_of(
    st.builds(Constant, sizes),
    st.builds(Exponential, sizes, st.floats(1e-3, 1.0), lengths),
    st.builds(Cosine, sizes, st.integers(101, 10_000), st.integers(0, 100), parts),
    st.builds(OneCycle, sizes, lengths, st.floats(0.0, 0.99), parts, parts),
    st.builds(ReduceOnPlateau, sizes, st.floats(1e-3, 0.99), lengths, lengths, sizes, lengths, st.floats(0.0, 1e-6)),
)


@given(any_schedule, st.integers(0, 20_000))
def test_values_are_pure_finite_and_at_most_the_peak(schedule, step):
    value = schedule(step)
    assert type(value) is float
    assert value == schedule(step)
    peak = getattr(schedule, PEAKS[type(schedule)])
    assert 0.0 <= value <= peak * (1 + 1e-12)


@given(any_schedule)
def test_schedules_are_values_that_can_be_saved(schedule):
    assert schedules.from_json(json.loads(json.dumps(schedules.to_json(schedule)))) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert isinstance(hash(schedule), int)


def test_exponential_has_its_closed_form():
    rate = Exponential(0.2, factor=0.1, steps=50)
    assert rate(0) == 0.2
    assert rate(75) == pytest.approx(0.2 * 10**-1.5)


@given(st.integers(0, 50), st.integers(51, 500), parts)
def test_cosine_climbs_without_a_zero_then_falls_and_stays(warmup, steps, final):
    rate = Cosine(1.0, steps, warmup, final)
    values = [rate(step) for step in range(steps + 1)]
    assert all(low < high for low, high in pairwise(values[: warmup + 1]))
    assert values[0] > 0
    assert values[warmup] == pytest.approx(1.0)
    assert all(high >= low - 1e-15 for high, low in pairwise(values[warmup:]))
    assert values[(steps + warmup) // 2] == pytest.approx((1 + final) / 2, abs=math.pi / 2 / (steps - warmup))
    assert values[-1] == pytest.approx(final)
    assert rate(10 * steps) == values[-1]


def test_one_cycle_starts_peaks_and_ends_where_it_says():
    rate = OneCycle(2.0, steps=100, rise=0.4, initial=0.1, final=0.01)
    assert rate(0) == pytest.approx(0.2)
    assert rate(20) == pytest.approx(2.0 * 0.55)
    assert rate(40) == pytest.approx(2.0)
    assert rate(70) == pytest.approx(2.0 * 0.505)
    assert rate(100) == rate(1_000) == pytest.approx(0.02)
    assert max(range(101), key=rate) == 40


def test_one_cycle_without_a_rise_starts_at_the_peak():
    assert OneCycle(2.0, steps=10, rise=0)(0) == 2.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(0), "value = 0"),
        (lambda: Constant(math.nan), "value = nan"),
        (lambda: Exponential(0.1, 0.0, 10), "factor = 0.0"),
        (lambda: Exponential(0.1, 1.1, 10), "factor = 1.1"),
        (lambda: Exponential(0.1, 0.5, 0), "steps = 0"),
        (lambda: Cosine(-1.0, 10), "peak = -1.0"),
        (lambda: Cosine(1.0, 10, warmup=10), "warmup = 10 leaves no step to decay in. Pass fewer than 10"),
        (lambda: Cosine(1.0, 10, warmup=-1), "warmup = -1"),
        (lambda: Cosine(1.0, 10, final=1.5), "final = 1.5"),
        (lambda: OneCycle(1.0, 10, rise=1.0), "rise = 1.0"),
        (lambda: OneCycle(1.0, 10, initial=-0.1), "initial = -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ArgumentError, match=message):
        build()


@pytest.mark.parametrize("build", [lambda: Constant("0.1"), lambda: Constant(True), lambda: Cosine(1.0, 10.0)])
def test_settings_of_another_type_are_refused(build):
    with pytest.raises(ArgumentTypeError, match="is of type"):
        build()


def test_defaults_may_be_left_out_of_a_record():
    assert schedules.from_json({"name": "one_cycle", "peak": 0.1, "steps": 5}) == OneCycle(0.1, 5)
    with pytest.raises(ArgumentError, match="cosine has the settings peak, steps, warmup, final"):
        schedules.from_json({"name": "cosine", "peak": 0.1})
