"""A short run of the benchmarks: one measurement, and what they write of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import dvi
from tests.benchmarks import conftest
from tests.benchmarks.bench_steps import THREADS, logistic, peer, reading, runner, tiny
from tests.benchmarks.measuring import Measurement, bytes_a_second, faster, in_turn, seconds, seconds_a_step


def test_two_things_are_measured_in_turn_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    import pymc as pm

    ours, theirs = runner(tiny(dvi, 200, 1, 200)), peer(tiny(pm, 200, 1, 200))
    pairs = in_turn(lambda: seconds_a_step(ours, 200), lambda: seconds(lambda: theirs(20)) / 20, rounds=2)
    found = faster(5, "a step", "pm.fit", pairs, 1.0)
    assert len(found.ratios) == 2
    monkeypatch.setattr(conftest, "_found", [found, faster(2, "work", "peer", [(1.0, 3.0)] * 5, 2.0, least=0.5)])
    monkeypatch.setattr(conftest, "FOLDER", tmp_path / "out")
    conftest.write(conftest._sorted())
    conftest.pytest_sessionfinish()
    monkeypatch.setattr(conftest, "_found", [faster(2, "work", "peer", [(1.0, 4.0)] * 5, 2.0)])
    assert [(m.row, round(m.ratio, 2)) for m in conftest._sorted()] == [(2, 4.0), (5, round(found.ratio, 2))]
    printed = capsys.readouterr().out
    assert "reached" in printed
    assert "a step" in printed
    written = json.loads((tmp_path / "out" / "benchmarks.json").read_text())
    assert [m["row"] for m in written["measurements"]] == [2, 5]
    assert written["measurements"][0] | {"reached": True, "ratio": 3.0, "limit": 6.0} == written["measurements"][0]
    rows = list(csv.reader((tmp_path / "out" / "benchmarks.csv").read_text().splitlines()))
    assert rows[1] == ["2", "work", "1 s", "peer", "3 s", "3.00", "3.00 to 3.00", "2", "6"]
    assert (tmp_path / "out" / "benchmarks.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(("seconds_of_ours", "unit"), [(2.0, "s"), (2e-3, "ms"), (2e-6, "us")])
def test_times_are_shown_in_the_unit_that_suits_them(seconds_of_ours: float, unit: str) -> None:
    found = faster(1, "work", "peer", [(seconds_of_ours, 2 * seconds_of_ours)], 3.0)
    assert (found.ours, found.theirs, found.unit, found.ratio, found.reached) == (2.0, 4.0, unit, 2.0, False)
    assert found.limit is None
    assert isinstance(found, Measurement)


def test_the_limit_of_a_step_is_reading_its_rows() -> None:
    one, two = (reading(logistic(dvi, 2000, 3, batch)) for batch in (500, 1000))
    assert 0.0 < one == pytest.approx(two / 2)
    assert one == 500 * 4 * 8 / bytes_a_second(THREADS, 2000 * 4 * 8)
