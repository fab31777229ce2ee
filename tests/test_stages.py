"""Plans of stages: how many steps, in which units, and when two stages agree."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dvi.errors import DviWarning
from dvi.settings import Settings
from dvi.stages import Outcome, Plan, Stage, difference, early_steps, fixed, next_spread, until_converged


def outcome(steps: int, mean: float, std: float = 1.0, drift: float = 0.0) -> Outcome:
    return Outcome(steps, np.array([mean, 0.0]), np.array([std, 1.0]), np.array([drift, 0.0]))


def drive(plan: Plan, outcomes: list[Outcome]) -> list[Stage]:
    """Stages that a plan asks for when they come out as given."""
    stages = [next(plan)]
    for one in outcomes:
        try:
            stages.append(plan.send(one))
        except StopIteration:
            break
    return stages


@pytest.mark.parametrize("n", [1, 2, 5, 10, 999, 10_000])
def test_a_fixed_number_of_steps_is_kept(n: int) -> None:
    stages = drive(fixed(n, early_steps(n)), [outcome(1, 0.0)] * 4)
    assert sum(stage.steps for stage in stages) == n
    assert all(stage.steps > 0 for stage in stages)


def test_an_optimizer_of_the_user_has_one_stage() -> None:
    (stage,) = drive(fixed(100, ()), [outcome(100, 0.0)])
    assert (stage.steps, stage.spread) == (100, None)


def test_the_second_stage_is_in_units_of_what_the_first_has_found() -> None:
    _, second = drive(fixed(1000, early_steps(1000)), [outcome(100, 5.0, std=0.01, drift=2.0)])
    assert second.spread is not None
    assert second.spread.tolist() == [24.0, 1.0]


def test_a_fit_of_some_steps_has_three_stages() -> None:
    stages = drive(fixed(1000, early_steps(1000)), [outcome(100, 0.0), outcome(300, 0.0), outcome(1000, 0.0)])
    assert [stage.steps for stage in stages] == [100, 200, 700]


def test_a_point_has_no_scale_of_its_own() -> None:
    at_rest = Outcome(10, np.zeros(2), np.zeros(2), np.array([0.0, 0.5]))
    assert next_spread(at_rest).tolist() == [1.0, 6.0]


def test_stages_double_until_two_agree() -> None:
    outcomes = [outcome(1000, 3.0), outcome(3000, 1.0), outcome(7000, 0.95), outcome(15_000, 0.95)]
    stages = drive(until_converged(Settings(n=None)), outcomes)
    assert [stage.steps for stage in stages] == [1000, 2000, 4000]
    assert all(b.steps == 2 * a.steps for a, b in pairwise(stages))


def test_scales_have_to_agree_too() -> None:
    outcomes = [outcome(1000, 0.0, std=2.0), outcome(3000, 0.0), outcome(7000, 0.0)]
    assert len(drive(until_converged(Settings(n=None)), outcomes)) == 3


def test_one_dimension_of_many_can_stop_the_agreement() -> None:
    mean = np.zeros(10_000)
    before = Outcome(1, mean, np.ones(10_000), mean)
    moved = mean.copy()
    moved[7] = 1.0
    assert difference(before, Outcome(2, moved, np.ones(10_000), mean)) == (0.25, 0.0)


@pytest.mark.parametrize("limits", [{"max_steps": 3500}, {"max_seconds": 1e-9}])
def test_a_budget_ends_the_fit_and_says_so(limits: dict[str, float]) -> None:
    outcomes = [replace(outcome(steps, mean), seconds=1.0) for steps, mean in ((1000, 9.0), (3000, 5.0), (3500, 2.0))]
    with pytest.warns(DviWarning, match=next(iter(limits))):
        stages = drive(until_converged(Settings(n=None, **limits)), outcomes)
    assert sum(stage.steps for stage in stages) <= 3500


def test_the_budget_of_a_continued_fit_is_its_own() -> None:
    outcomes = [outcome(101_000, 1.0), outcome(103_000, 1.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stages = drive(until_converged(Settings(n=None, max_steps=5000)), outcomes)
    assert [stage.steps for stage in stages] == [1000, 2000]
