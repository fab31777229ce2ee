"""Tables made for many steps at once say what the stream says of each of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dvi.execution.tables
from dvi.data.plan import Plan
from dvi.data.readers import reader
from dvi.data.resident import Budget
from dvi.data.source import Source
from dvi.data.stream import Stream
from dvi.execution.tables import Table, Tables
from dvi.types import Slab
from tests.properties.test_plan_properties import plans


class Form:
    """Takes the place of a kernel, which looks at the form of rows."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def check(self, slab: Slab) -> None:
        self.seen.add(slab.n_rows)


def of_table(table: Table, step: int) -> list[list[int]]:
    """Lane, number of rows and addresses of every piece of a step."""
    rows, starts = table.at(step)
    return [[lane, *rows[p].tolist()] for lane in range(len(starts) - 1) for p in range(starts[lane], starts[lane + 1])]


def pieces(stream: Stream, lanes: tuple[int, ...], step: int) -> list[list[int]]:
    """The same, as the stream hands them out."""
    return [
        [position, span.stop - span.start, *(first + span.start * stride for first, stride in span.slab.places)]
        for position, lane in enumerate(lanes)
        for span in stream.spans(step, lane)
    ]


@given(plans(), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_tables_are_what_the_stream_hands_out(plan: Plan, step: int, random: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = [reader(rng.normal(size=(plan.n_rows, 2))), reader(rng.normal(size=plan.n_rows))]
    source, lanes = Source(("x", "y"), tuple(arrays), plan.starts), tuple(range(plan.lanes))
    some = lanes[random.randrange(len(lanes)) :]
    with ThreadPoolExecutor(1) as background:
        stream, form = Stream(source, plan, background, Budget(10**6)), Form()
        tables = Tables(stream, form)  # type: ignore[arg-type]
        assert tables.of(lanes, step) is None  # nothing was read so far
        for first in range(2 * max(int(n // b) + 1 for n, b in zip(plan.lane_rows, plan.lane_batch, strict=True))):
            expected = pieces(stream, lanes, first)
        assert all(stream.kept(lane) is not None for lane in lanes)
        for group in (lanes, some):
            for at in (step, step + 1, step + 70, first, 0):
                table = tables.of(group, at)
                assert table is not None
                found = of_table(table, at)
                assert found == pieces(stream, group, at)
                assert sum(piece[1] for piece in found) == sum(int(plan.lane_batch[lane]) for lane in group)
                assert table.rows.flags.c_contiguous
                assert table.at(at).starts.flags.c_contiguous
        assert expected
        assert form.seen
        stream.drop({lanes[0]})
        assert Tables(stream, form).of(lanes, step) is None  # type: ignore[arg-type]


def test_rows_that_do_not_fit_the_budget_have_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvi.execution.tables, "_GROUPS", 1)
    plan = Plan(np.array([0, 5, 10]), 4, 2, 1, 256, 0)
    source = Source(("y",), (reader(np.arange(10.0)),), plan.starts)
    with ThreadPoolExecutor(1) as background:
        for n_bytes, lanes in ((0, []), (40, [0]), (80, [0, 1])):
            stream = Stream(source, plan, background, Budget(n_bytes))
            for step in range(10):
                pieces(stream, (0, 1), step)
            tables = Tables(stream, Form())  # type: ignore[arg-type]
            assert [lane for lane in (0, 1) if tables.of((lane,), 3) is not None] == lanes
            assert (tables.of((0, 1), 3) is not None) == (lanes == [0, 1])
            assert len(tables._known) <= 1


def test_steps_that_take_all_rows_have_one_table() -> None:
    plan = Plan(np.array([0, 5, 10]), 10, 2, 1, 256, 0)
    source = Source(("y",), (reader(np.arange(10.0)),), plan.starts)
    with ThreadPoolExecutor(1) as background:
        stream = Stream(source, plan, background, Budget(0))
        expected = pieces(stream, (0, 1), 0)
        tables = Tables(stream, Form())  # type: ignore[arg-type]
        first, later = (tables.of((0, 1), step) for step in (0, 10**6))
        assert first is not None
        assert first is later
        assert of_table(first, 10**6) == expected == pieces(stream, (0, 1), 10**6)
