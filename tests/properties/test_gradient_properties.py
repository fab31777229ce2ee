"""The gradient that lanes add up to is unbiased: exactly the full-data gradient, on average over whole epochs."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pymc as pm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvi
from dvi.data.picks import Picks
from dvi.data.plan import Plan
from dvi.execution.lane import LaneEvaluator, LaneTerm, Problem, plan_problem
from dvi.execution.tree import combine, height
from dvi.model.graph import split
from dvi.types import Evaluation, Round

N = 96
RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(N, 3)), RNG.integers(0, 2, N)
Z = RNG.normal(size=(2, 3))


def problem(lengths: list[int], batch_size: int) -> Problem:
    chunks = (tuple(lengths),)
    with pm.Model() as model:
        x, y = dvi.Minibatch(
            da.from_array(X, chunks=(*chunks, 3)), da.from_array(Y, chunks=chunks), batch_size=batch_size
        )
        pm.Bernoulli("y", logit_p=x @ pm.Normal("b", 0, 1, shape=3), observed=y)
    return plan_problem(split(model).terms, None, 5)


@pytest.fixture(scope="module")
def evaluator() -> LaneEvaluator:
    """Compiled once: the kernel is the same for every layout."""
    return LaneEvaluator(problem([N], N))


@pytest.fixture(scope="module")
def full(evaluator: LaneEvaluator) -> Evaluation:
    return evaluator.evaluate(0, Round(0, Z))


def total(evaluator: LaneEvaluator, step: int) -> Evaluation:
    n = len(evaluator.leaves)
    return combine({(0, i): evaluator.evaluate(i, Round(step, Z)) for i in range(n)}, n)[height(n), 0]


def with_layout(evaluator: LaneEvaluator, lengths: list[int], batch_size: int, lanes: int) -> LaneEvaluator:
    """The same kernel over other chunks, batches and lanes."""
    term = evaluator.problem.terms[0]
    starts = np.append(0, np.cumsum(lengths))
    plan = Plan(starts, batch_size, lanes, 2, 7, 5)
    source = type(term.source)(term.source.names, term.source.readers, starts)
    return LaneEvaluator(Problem((LaneTerm(term.names, source, plan, term.program, Picks(), 0, term.layout),)))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Ragged chunks of N rows, and a batch that ends where the epochs of all lanes end."""
    cuts = draw(st.lists(st.integers(1, N - 1), unique=True, max_size=9))
    lengths = np.diff([0, *sorted(cuts), N]).tolist()
    lanes = draw(st.integers(1, len(lengths)))
    return lengths, draw(st.integers(lanes, N)), lanes


@settings(max_examples=8)
@given(layouts())
def test_mean_over_whole_epochs_is_the_full_data_gradient(
    evaluator: LaneEvaluator, full: Evaluation, layout: tuple[list[int], int, int]
) -> None:
    lengths, batch_size, lanes = layout
    ragged = with_layout(evaluator, lengths, batch_size, lanes)
    plan = ragged.problem.terms[0].plan
    for lane in range(lanes):  # each lane has epochs of its own, so each is averaged over its own
        steps = int(np.lcm(plan.lane_rows[lane], plan.lane_batch[lane]) // plan.lane_batch[lane])
        mean = sum(ragged.evaluate(lane, Round(s, Z)).score for s in range(steps)) / steps
        alone = with_layout(evaluator, lengths, N, lanes).evaluate(lane, Round(0, Z))
        np.testing.assert_allclose(mean, alone.score, rtol=1e-10, atol=1e-10)
    whole = total(with_layout(evaluator, lengths, N, lanes), 3)
    np.testing.assert_allclose(whole.score, full.score, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(whole.loglik, full.loglik, rtol=1e-10)
    assert whole.n_rows == N


def test_the_full_data_gradient_is_that_of_the_formula(full: Evaluation) -> None:
    p = 1 / (1 + np.exp(-X @ Z.T))  # (N, 2)
    np.testing.assert_allclose(full.score, (Y[:, None] - p).T @ X, rtol=1e-10)
