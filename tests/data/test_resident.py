"""Rows that stay in memory between epochs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from weakref import ref

import numpy as np
import pytest

from dvi.data.plan import Plan
from dvi.data.readers import reader
from dvi.data.resident import Budget
from dvi.data.source import Source
from dvi.data.stream import Stream
from dvi.errors import NonFiniteError
from dvi.types import AnyArray


class Counted:
    """A source that counts how often each chunk is read, as if it were in a store."""

    def __init__(self, source: Source) -> None:
        self.source, self.whole, self.row_nbytes = source, None, source.row_nbytes
        self.reads: list[int] = []

    def read(self, chunk: int) -> tuple[AnyArray, ...]:
        self.reads.append(chunk)
        return self.source.read(chunk)

    def empty(self, n_rows: int) -> tuple[AnyArray, ...]:
        return self.source.empty(n_rows)


DATA = np.random.default_rng(0).normal(size=(40, 2))
STARTS = np.array([0, 7, 20, 25, 40])


def plan(batch_size: int, lanes: int = 2) -> Plan:
    return Plan(STARTS, batch_size, lanes, pool_chunks=1, block_rows=3, seed=5)


def visited(stream: Stream, plan: Plan, steps: int) -> list[AnyArray]:
    return [np.copy(b[0]) for s in range(steps) for lane in range(plan.lanes) for b in stream.blocks(s, lane)]


@pytest.mark.parametrize("batch_size", [8, 40], ids=["batches", "all rows"])
def test_kept_chunks_are_read_once_and_give_the_same_rows(batch_size: int) -> None:
    layout = plan(batch_size, lanes=1)
    source = Source(("x",), (reader(DATA),), STARTS)
    found = {}
    with ThreadPoolExecutor(2) as background:
        for name, n_bytes in {"kept": 10_000, "read again": 0}.items():
            counted = Counted(source)
            found[name] = visited(Stream(counted, layout, background, Budget(n_bytes)), layout, 20)
            if name == "kept":
                assert sorted(counted.reads) == [0, 1, 2, 3]
            else:
                assert len(counted.reads) > 12
        found["in memory"] = visited(Stream(source, layout, background, Budget(0)), layout, 20)
    for other in ("read again", "in memory"):
        np.testing.assert_array_equal(np.concatenate(found["kept"]), np.concatenate(found[other]))


def test_a_part_of_the_pools_is_kept_where_the_budget_is_short() -> None:
    layout = plan(8, lanes=1)
    counted = Counted(Source(("x",), (reader(DATA),), STARTS))
    budget = Budget(25 * 16)
    with ThreadPoolExecutor(1) as background:
        stream = Stream(counted, layout, background, budget)
        found = np.concatenate(visited(stream, layout, 40))
    np.testing.assert_array_equal(found, DATA[np.concatenate([layout.rows(step, 0) for step in range(40)])])
    reads = sorted(counted.reads.count(chunk) for chunk in range(4))
    assert reads[0] == 1
    assert reads[-1] > 3
    assert budget.left >= 0


def test_arrays_in_memory_are_not_copied_where_every_step_takes_all_rows() -> None:
    layout = plan(40)
    source = Source(("x",), (reader(DATA),), STARTS)
    with ThreadPoolExecutor(1) as background:
        stream = Stream(source, layout, background, Budget(0))
        assert all(np.shares_memory(b[0], DATA) for lane in range(2) for b in stream.blocks(0, lane))


def test_no_more_than_two_pools_are_in_memory_at_once() -> None:
    made: list[ref[AnyArray]] = []
    most = 0

    class Watched(Counted):
        def empty(self, n_rows: int) -> tuple[AnyArray, ...]:
            nonlocal most
            arrays = super().empty(n_rows)
            made.append(ref(arrays[0]))
            most = max(most, sum(array() is not None for array in made))
            return arrays

    starts = np.arange(0, 41, 10)
    layout = Plan(starts, 10, 1, pool_chunks=1, block_rows=3, seed=5)  # a step is a pool
    with ThreadPoolExecutor(1) as background:
        stream = Stream(Watched(Source(("x",), (reader(DATA),), starts)), layout, background, Budget(0))
        for step in range(12):
            for _ in stream.blocks(step, 0):
                pass
    assert len(made) > 8
    assert most == 2


def test_waiting_for_rows_is_timed_once_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Slow(Counted):
        def read(self, chunk: int) -> tuple[AnyArray, ...]:
            nonlocal now
            now += 2.0
            return super().read(chunk)

    monkeypatch.setattr("dvi.data.stream.time", SimpleNamespace(perf_counter=lambda: now))
    source, layout = Slow(Source(("x",), (reader(DATA),), STARTS)), plan(8, lanes=1)
    with ThreadPoolExecutor(1) as background:
        stream = Stream(source, layout, background)
        first = next(iter(stream.spans(0, 0)))
        assert stream.waiting.take() == 2.0
        next(iter(stream.spans(0, 0)))
        assert stream.waiting.take() == 0.0
        assert first.stop > first.start


def test_lanes_that_leave_give_their_bytes_back() -> None:
    layout, budget = plan(8), Budget(40 * 16)
    counted = Counted(Source(("x",), (reader(DATA),), STARTS))
    with ThreadPoolExecutor(1) as background:
        stream = Stream(counted, layout, background, budget)
        visited(stream, layout, 2)
        assert budget.left == 0
        stream.drop({0})
        assert budget.left == int(layout.lane_rows[0]) * 16


def test_a_chunk_that_is_not_finite_is_refused_each_time_it_is_asked_for() -> None:
    bad = DATA.copy()
    bad[22, 1] = np.nan
    layout = plan(8)
    with ThreadPoolExecutor(2) as background:
        stream = Stream(Source(("x",), (reader(bad),), STARTS), layout, background)
        for _ in range(2):
            with pytest.raises(NonFiniteError, match=r"chunk 2.*row 22"):
                visited(stream, layout, 8)
