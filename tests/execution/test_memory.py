"""Lanes that would not fit the memory of a worker."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.errors import DataError
from dvi.execution.cluster.host import check_memory
from dvi.execution.lane import Problem, plan_problem
from dvi.model.graph import split


@pytest.fixture(scope="module")
def problem() -> Problem:
    x = np.random.default_rng(0).normal(size=(200_000, 10))
    with pm.Model() as model:
        pm.Normal("x", pm.Normal("mu"), 1.0, observed=dvi.Minibatch(x, batch_size=4096))
    return plan_problem(split(model).terms, None, 0)


def test_two_pools_of_every_lane_are_what_is_needed(problem: Problem) -> None:
    whole = problem.pool_bytes(range(len(problem.leaves)))
    assert whole == 2 * 200_000 * 80  # every pool holds a lane
    assert problem.pool_bytes(range(1)) == 2 * int(problem.terms[0].plan.lane_rows[0]) * 80


def test_what_fits_half_of_the_memory_is_let_through(problem: Problem) -> None:
    leaves = range(len(problem.leaves))
    check_memory(problem, leaves, None)
    check_memory(problem, leaves, 2 * problem.pool_bytes(leaves))


def test_what_does_not_is_refused_with_the_arithmetic(problem: Problem) -> None:
    leaves = range(len(problem.leaves))
    with pytest.raises(DataError, match=r"may use 50 MB.*take 50%.*4 lanes would hold two pools each, 32 MB in all"):
        check_memory(problem, leaves, 50_000_000)
