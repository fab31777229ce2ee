"""Data terms of row numbers and of parts of axes, evaluated by lanes as hosts do it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import cloudpickle
import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.execution.lane import LaneEvaluator, plan_problem
from dvi.execution.threads import ThreadsExecutor
from dvi.model.compile import compile_kernel
from dvi.model.graph import DataTerm, split
from dvi.types import AnyArray, Round

N = 20_000  # three chunks
LANES = 2
RNG = np.random.default_rng(4)
Y = RNG.normal(size=N)
WIDE = RNG.normal(size=(96, 8))


@pytest.fixture(scope="module")
def effects() -> tuple[Any, ...]:
    y = dvi.Minibatch(Y, batch_size=6000)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("effects", shape=N)[y.rows], 1.0, observed=y)
    return split(model).terms


@pytest.mark.parametrize("threads", [1, 3])
def test_row_numbers_are_those_of_the_rows_read(effects: tuple[Any, ...], threads: int) -> None:
    problem = plan_problem(effects, LANES, seed=1)
    executor = ThreadsExecutor(problem, threads)
    z = RNG.normal(size=(1, N))
    try:
        for step in range(3):
            found = executor.evaluate(Round(step, z)).score[0]
            expected = np.zeros(N)
            plan = problem.terms[0].plan
            for lane in range(plan.lanes):
                rows = plan.rows(step, lane)
                expected[rows] = plan.weight(lane) * (Y[rows] - z[0, rows])
            np.testing.assert_allclose(found, expected)
    finally:
        executor.close()


def test_row_numbers_need_no_delivery(effects: tuple[Any, ...]) -> None:
    problem = plan_problem(effects, LANES, seed=1)
    sent = cloudpickle.dumps(problem)
    assert len(sent) < 60_000
    there = pickle.loads(sent)
    source = problem.terms[0].source
    pieces = {chunk: source.pieces(chunk) for chunk in range(source.n_chunks)}
    assert {name for piece in pieces.values() for name in piece} == {"minibatch.0"}
    evaluator = LaneEvaluator(there)
    evaluator.use(0, there.terms[0].source.with_pieces(pieces))
    here = LaneEvaluator(problem)
    try:
        z = np.ones((1, N))
        for leaf in range(LANES):
            found, expected = evaluator.evaluate(leaf, Round(5, z)), here.evaluate(leaf, Round(5, z))
            assert found.score.tobytes() == expected.score.tobytes()
    finally:
        evaluator.close()
        here.close()


def matrix(batch_size: Any) -> LaneEvaluator:
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=dvi.Minibatch(WIDE, batch_size=batch_size))
    return LaneEvaluator(plan_problem(split(model).terms, 1, seed=6))


def test_lanes_average_to_the_full_data_gradient_over_picks_and_rows() -> None:
    full = np.sum(WIDE - 0.3)
    z = np.full((1, 1), 0.3)
    for batch_size, n_steps in (([None, 3], 8), ([96, (3, 9)], 16), ([24, 3], 800)):
        evaluator = matrix(batch_size)
        try:
            found = np.array([evaluator.evaluate(0, Round(step, z)).score[0, 0] for step in range(n_steps)])
        finally:
            evaluator.close()
        error = 5 * found.std() / np.sqrt(n_steps) if batch_size[0] == 24 else 1e-9 * abs(full)
        assert abs(found.mean() - full) < error
        assert found.std() > 1.0  # so that the mean is of different estimates


def density(term: DataTerm, step: int, kernel: Any, rows: tuple[AnyArray, ...]) -> AnyArray:
    """Gradient on what a step takes of some rows."""
    return np.asarray(kernel(np.full((1, 1), 0.3), *term.batch.picks.apply(rows, step, 1))[1])


def test_a_compiled_kernel_evaluates_what_is_picked_of_a_block() -> None:
    x = dvi.Minibatch(WIDE, batch_size=[24, 3], dtype="float32")
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=x)
    (term,) = split(model).terms
    picks = term.batch.picks
    example = tuple(np.zeros(picks.shape((2, *r.shape[1:])), dtype=r.dtype) for r in term.batch.source.readers)
    kernel = compile_kernel(term.program, example)
    rows = term.batch.source.head(96)
    full = np.sum(rows[0] - 0.3, dtype=np.float64)
    np.testing.assert_allclose(np.mean([density(term, s, kernel, rows) for s in range(8)]), full, rtol=1e-5)
    shifted = replace(picks, seeds=(7,)).indices(0, 1)[0]
    assert shifted.tolist() == replace(picks, seeds=(None,)).indices(0, 7)[0].tolist()
