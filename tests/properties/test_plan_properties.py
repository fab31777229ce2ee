"""What a plan promises, over random chunk layouts, lanes and batch sizes."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvi.data.plan import Plan, default_lanes, share
from dvi.data.readers import reader
from dvi.data.source import Source
from dvi.data.stream import Scatter, Stream, assign
from dvi.model.scatter import scatter


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    starts = np.append(0, np.cumsum(lengths))
    batch_size = draw(st.integers(1, int(starts[-1])))
    lanes = draw(st.integers(1, min(len(lengths), batch_size)))
    return Plan(starts, batch_size, lanes, draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(0, 99)))


@given(plans())
def test_lanes_share_the_rows_and_the_batch(plan: Plan) -> None:
    assert plan.lane_batch.sum() == plan.batch_size
    assert plan.lane_rows.sum() == plan.n_rows
    assert (plan.lane_batch >= 1).all()
    assert (plan.lane_batch <= plan.lane_rows).all()
    owned = np.concatenate([plan.chunks(lane) for lane in range(plan.lanes)])
    assert sorted(owned.tolist()) == list(range(plan.n_chunks))


@given(st.integers(0, 6), st.integers(0, 200))
def test_every_subtree_of_lanes_has_as_many_chunks_as_its_sibling_to_one(height: int, more: int) -> None:
    lanes = 2**height
    plan = Plan(np.arange(lanes + more + 1), lanes, lanes, 1, 1, 0)
    chunks = np.array([len(plan.chunks(lane)) for lane in range(lanes)])
    while len(chunks) > 1:
        assert (abs(chunks[::2] - chunks[1::2]) <= 1).all()
        chunks = chunks[::2] + chunks[1::2]


@given(plans(), st.integers(1, 3))
def test_every_row_is_visited_once_an_epoch(plan: Plan, epochs: int) -> None:
    for lane in range(plan.lanes):
        n, b = int(plan.lane_rows[lane]), int(plan.lane_batch[lane])
        steps = -(-epochs * n // b)
        visited = np.concatenate([plan.rows(step, lane) for step in range(steps)])
        own = np.concatenate([np.arange(plan.starts[c], plan.starts[c + 1]) for c in plan.chunks(lane)])
        for epoch in range(epochs):
            assert sorted(visited[epoch * n : (epoch + 1) * n].tolist()) == sorted(own.tolist())


@given(plans())
def test_weighted_sums_average_to_the_full_sum_over_epochs_that_end_on_a_batch(plan: Plan) -> None:
    value = np.random.default_rng(0).normal(size=plan.n_rows)
    steps = int(np.lcm.reduce(plan.lane_rows // np.gcd(plan.lane_rows, plan.lane_batch)))
    if steps > 2000:
        steps = int(plan.lane_rows[0])
        plan = Plan(plan.starts, plan.batch_size, 1, plan.pool_chunks, plan.block_rows, plan.seed)
        steps = plan.n_rows
    total = sum(
        plan.weight(lane) * value[plan.rows(step, lane)].sum() for step in range(steps) for lane in range(plan.lanes)
    )
    np.testing.assert_allclose(total / steps, value.sum(), rtol=1e-10, atol=1e-10)


@given(plans())
def test_a_batch_of_all_rows_is_exact_at_every_step(plan: Plan) -> None:
    full = Plan(plan.starts, plan.n_rows, plan.lanes, plan.pool_chunks, plan.block_rows, plan.seed)
    for step in (0, 5):
        rows = np.concatenate([full.rows(step, lane) for lane in range(full.lanes)])
        assert sorted(rows.tolist()) == list(range(full.n_rows))
        assert all(full.weight(lane) == 1.0 for lane in range(full.lanes))


@given(plans(), st.integers(0, 50))
def test_rows_are_a_pure_function_of_step_and_lane(plan: Plan, step: int) -> None:
    again = pickle.loads(pickle.dumps(plan))
    for lane in range(plan.lanes):
        again.rows(step + 7, lane)
        assert plan.rows(step, lane).tolist() == again.rows(step, lane).tolist()


@pytest.mark.parametrize("put", [assign, scatter], ids=["NumPy", "compiled"])
@given(plan=plans(), steps=st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_streams_hand_out_the_rows_of_the_plan_in_any_order_of_asking(
    put: Scatter, plan: Plan, steps: list[int]
) -> None:
    data = np.random.default_rng(1).normal(size=(plan.n_rows, 2))
    index = np.arange(plan.n_rows, dtype=np.int32)
    source = Source(("x", "i"), (reader(data), reader(index)), plan.starts)
    with ThreadPoolExecutor(1) as background:
        stream = Stream(source, plan, background, scatter=put)
        for step in steps:
            for lane in range(plan.lanes):
                blocks = [tuple(map(np.copy, block)) for block in stream.blocks(step, lane)]
                rows = plan.rows(step, lane)
                np.testing.assert_array_equal(np.concatenate([b[1] for b in blocks]), index[rows])
                np.testing.assert_array_equal(np.concatenate([b[0] for b in blocks]), data[rows])
                assert all(len(b[0]) <= plan.block_rows and b[0].flags.c_contiguous for b in blocks)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.data())
def test_shares_are_whole_within_bounds_and_near_proportion(weights: list[int], data: st.DataObject) -> None:
    array = np.array(weights)
    total = data.draw(st.integers(len(weights), int(array.sum())))
    parts = share(total, array)
    assert parts.sum() == total
    assert ((parts >= 1) & (parts <= array)).all()


@pytest.mark.parametrize(
    ("n_chunks", "batch_size", "row_bytes", "ndim", "lanes"),
    [
        (100, 500, 16, 2, 1),
        (100, 8192, 16, 2, 8),
        (3, 8192, 16, 2, 2),
        (10_000, 10**6, 16, 2, 64),
        (100, 8192, 16, 1500, 2),  # 3,000 rows
        (100, 8192, 16, 10**5, 1),
        (100, 500, 1000, 2, 2),  # 200 kB
        (100, 500, 10**5, 2, 8),
        (100, 500, 10**5, 10**6, 2),  # 16 MB
    ],
)
def test_default_lanes_follow_their_rule(n_chunks: int, batch_size: int, row_bytes: int, ndim: int, lanes: int) -> None:
    assert default_lanes(n_chunks, batch_size, row_bytes, ndim) == lanes


def test_orders_differ_between_epochs_lanes_and_seeds() -> None:
    plan = Plan(np.arange(0, 401, 50), 100, 2, 4, 64, 1)
    other = Plan(np.arange(0, 401, 50), 100, 2, 4, 64, 2)
    epochs = {tuple(np.concatenate([plan.rows(s, 0) for s in range(4 * e, 4 * e + 4)])) for e in range(5)}
    assert len(epochs) == 5
    assert plan.rows(0, 0).tolist() != other.rows(0, 0).tolist()


def test_rows_are_shuffled_across_the_chunks_of_a_pool() -> None:
    plan = Plan(np.arange(0, 1001, 100), 100, 1, 10, 64, 3)
    assert len(np.unique(plan.rows(0, 0) // 100)) >= 8
