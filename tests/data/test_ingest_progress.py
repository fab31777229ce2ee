"""What is shown of work on rows."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from dvi.data.ingest import ingest
from dvi.data.ingest_progress import progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(file: io.StringIO, **settings: object) -> list[str]:
    """Two passes: one of known length and rows of 1 kB, one of neither."""
    clock = Clock()
    with progress(True, Console(file=file, width=120, **settings), clock) as report:
        for rows in (100, 600, 1_000):
            report("write", rows, 1_000, 1_000)
            clock.now += 20.0
        for rows in (5, 10):
            report("scan", rows, None, 0)
            clock.now += 1.0
    return file.getvalue().splitlines()


def test_log_file_gets_whole_lines() -> None:
    assert told(io.StringIO()) == [
        "dvi: write: 600/1,000 rows (60 %), 0:00:20, 0:00:16 left, 25 rows/s, 600 kB",
        "dvi: write: 1,000/1,000 rows (100 %), 0:00:40, 22.5 rows/s, 1 MB",
        "dvi: scan: 10 rows, 0:00:01, 5 rows/s",
    ]


def test_terminal_gets_a_bar_for_each_pass() -> None:
    lines = "\n".join(told(Terminal(), force_terminal=True, _environ={"TERM": "xterm"}))
    assert "━" in lines
    assert "write: 600/1,000 rows (60 %)" in lines
    assert lines.rindex("\x1b[?25h") > lines.rindex("\x1b[?25l")


def test_an_exception_ends_the_display() -> None:
    file, clock = io.StringIO(), Clock()
    try:
        with progress(True, Console(file=file), clock) as report:
            report("write", 5, 10, 8)
            raise KeyError
    except KeyError:
        pass
    assert file.getvalue() == "dvi: write: 5/10 rows (50 %), 0:00:00, 40 B\n"


def test_ingest_tells_of_its_passes_on_standard_error(tmp_path, capsys) -> None:
    ingest({"x": np.arange(1_000.0)}, tmp_path / "store.zarr")
    out, err = capsys.readouterr()
    assert out == ""
    assert "shuffle: 1,000/1,000 rows (100 %)" in err
    assert "write: 1,000/1,000 rows (100 %)" in err


def test_ingest_can_be_silent(tmp_path, capsys) -> None:
    ingest({"x": np.arange(1_000.0)}, tmp_path / "store.zarr", progressbar=False)
    assert capsys.readouterr() == ("", "")
