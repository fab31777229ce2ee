"""The summation tree gives the same bits however its leaves are spread."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dvi.execution.tree import add_up, assign, combine, height, subtrees
from dvi.types import Evaluation


def leaves(n: int) -> dict[tuple[int, int], Evaluation]:
    rng = np.random.default_rng(n)
    return {(0, i): Evaluation(rng.normal(size=1) * 10.0 ** rng.integers(-8, 8), rng.normal(size=(1, 3)), 1)
            for i in range(n)}  # fmt: skip


@given(st.integers(1, 70), st.lists(st.integers(1, 5), min_size=1, max_size=9))
def test_any_assignment_gives_the_same_bits(n: int, capacities: list[int]) -> None:
    nodes = leaves(n)
    whole = combine(nodes, n)
    assert set(whole) == {(height(n), 0)}
    parts = {}
    for run in assign([1.0] * n, capacities):
        parts |= combine({(0, i): nodes[0, i] for i in run}, n)
    spread = combine(parts, n)
    assert set(spread) == {(height(n), 0)}
    one, other = whole[height(n), 0], spread[height(n), 0]
    assert one.n_rows == n
    assert one.loglik.tobytes() == other.loglik.tobytes()
    assert one.score.tobytes() == other.score.tobytes()


@given(st.integers(1, 70), st.lists(st.integers(1, 5), min_size=1, max_size=9))
def test_subtrees_that_are_added_up_at_once_are_those_that_are_combined(n: int, capacities: list[int]) -> None:
    nodes = leaves(n)
    score = np.stack([nodes[0, i].score for i in range(n)])
    for run in assign([1.0] * n, capacities):
        combined = combine({(0, i): nodes[0, i] for i in run}, n)
        at_once = {
            node: add_up(score[part.start : part.stop], np.ones(len(part)))[0]
            for node, part in subtrees(run, n).items()
        }
        assert {node: e.score.tobytes() for node, e in combined.items()} == {k: s.tobytes() for k, s in at_once.items()}


COSTS = st.lists(st.floats(0.0, 1e9), min_size=1, max_size=70)


@given(COSTS, st.lists(st.integers(1, 5), min_size=1, max_size=9))
def test_runs_cover_the_leaves_in_order(costs: list[float], capacities: list[int]) -> None:
    runs = assign(costs, capacities)
    assert len(runs) == len(capacities)
    assert [i for run in runs for i in run] == list(range(len(costs)))


@given(st.lists(st.integers(0, 100), min_size=1, max_size=70), st.lists(st.integers(1, 5), min_size=1, max_size=9))
def test_no_host_has_more_than_its_part_by_more_than_a_leaf(costs: list[int], capacities: list[int]) -> None:
    for run, capacity in zip(assign(costs, capacities), capacities, strict=True):
        part = sum(costs) * capacity / sum(capacities)
        assert abs(sum(costs[i] for i in run) - part) <= 1.02 * max(costs)


def test_no_host_has_nothing() -> None:
    assert assign([1.0], []) == []


def test_hosts_send_few_nodes() -> None:
    nodes = leaves(64)
    for run in assign([1.0] * 64, [1, 1]):
        assert len(combine({(0, i): nodes[0, i] for i in run}, 64)) == 1
