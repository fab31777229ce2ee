"""Progress is a bar in a terminal, HTML in a notebook, lines elsewhere, and costs next to nothing."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from rich.console import Console

from dvi.progress import Progress, Status
from dvi.progress.course import Course, Moment
from dvi.progress.displays import View, _Card
from dvi.progress.status import short, time_shares
from dvi.types import Times

HIST = np.linspace(200.0, 100.0, 1000)


class Clock:
    """Stands still unless told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls = 0

    def __call__(self) -> float:
        self.calls += 1
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Unread:
    """Losses that must not be looked at."""

    def __len__(self) -> int:
        raise AssertionError("read between two refreshes")


def terminal_console(file: Any = None) -> Console:
    return Console(file=file or Terminal(), width=100, force_terminal=True, _environ={"TERM": "xterm"})


def run(progress: Progress, clock: Clock, blocks: int = 10, seconds: float = 4.0) -> None:
    """Ten blocks of 100 steps that read 1,000 rows each."""
    for i in range(1, blocks + 1):
        clock.now += seconds
        progress.update(100, HIST[: 100 * i], 1000, 2)


# What is said


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (Status(0, 10), "dvi: 0/10 steps (0 %), 0:00:00, preparing"),
        (Status(7, None, 2.5, seconds=3661.0), "dvi: 7 steps, 1:01:01, ELBO 2.5"),
        (Status(9_999, 10_000, -1e6 / 3), "dvi: 9,999/10,000 steps (99 %), 0:00:00, ELBO -333,333.3"),
        (
            Status(5, 9, 1.0, 5.0, 1.0, 2.0, 3.0, 8, 3),
            "dvi: 5/9 steps (55 %), 0:00:05, 0:00:04 left, ELBO 1, 1 steps/s, 2 rows/s, epoch 3.00, 8 lanes on 3 hosts",
        ),
        (Status(5, 10, -1.0, 5.0, 1.0, 0.0, n_lanes=1, n_hosts=1, running=False),
         "dvi: 5/10 steps (50 %), 0:00:05, ELBO -1, 1 steps/s, 1 lane on 1 host"),
    ],
)  # fmt: skip
def test_line(status: Status, line: str) -> None:
    assert status.view().line() == line


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0123, "0.0123"), (12.34, "12.3"), (999.4, "999"), (999.9, "1k"), (123_456, "123k"), (9.996e8, "1G")],
)
def test_short_numbers(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("times", "shares"),
    [
        (Times(), ""),
        (Times(0.0, 2.0, 0.0), "read 0 %, compute 100 %, wait 0 %"),
        (Times(1.0, 2.0, 1.0), "read 25 %, compute 50 %, wait 25 %"),
    ],
)
def test_shares_of_time(times: Times, shares: str) -> None:
    assert time_shares(times) == shares


def test_time_goes_where_it_went_lately() -> None:
    clock, file = Clock(), io.StringIO()
    with Progress(10_000, console=Console(file=file), clock=clock) as progress:
        for i, times in enumerate(20 * [Times(1.0, 3.0)] + 40 * [Times(compute=1.0, wait=3.0)], 1):
            clock.now += 1.0
            progress.update(10, HIST[: 10 * i], 100, 2, times=times)
    lines = file.getvalue().splitlines()
    assert lines[0].endswith("time: read 25 %, compute 75 %, wait 0 %")
    assert lines[-1].endswith("time: read 0 %, compute 25 %, wait 75 %")


def test_elbo_is_the_mean_over_the_last_twentieth() -> None:
    clock, file = Clock(), io.StringIO()
    with Progress(1000, console=Console(file=file), clock=clock) as progress:
        run(progress, clock)
    assert f"ELBO -{HIST[-50:].mean():,.7g}" in file.getvalue().splitlines()[-1]


def test_speed_leaves_out_the_compiling_and_forgets_what_is_long_ago() -> None:
    clock, file = Clock(), io.StringIO()
    with Progress(10_000, n_rows=4000, n_lanes=4, console=Console(file=file), clock=clock) as progress:
        clock.now += 60.0  # compiling
        run(progress, clock, blocks=11, seconds=1.0)
        run(progress, clock, blocks=60, seconds=0.5)
    lines = file.getvalue().splitlines()
    assert "steps/s" not in lines[0]
    assert "100 steps/s, 1k rows/s, epoch 2.75, 4 lanes on 2 hosts" in lines[1]
    assert "200 steps/s, 2k rows/s, epoch 17.75" in lines[-1]


# Where it is said


def test_log_file_gets_a_line_every_ten_seconds_and_a_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock, file = Clock(), io.StringIO()
    with Progress(1000, n_rows=5000, console=Console(file=file, width=20), clock=clock) as progress:
        run(progress, clock)
        assert len(file.getvalue().splitlines()) == 3  # after 12, 24 and 36 seconds
    lines = file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["300/1,000", "600/1,000", "900/1,000", "1,000/1,000"]
    assert "".join(lines).isprintable()


def test_it_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100) as progress:
        progress.update(100, HIST[:100], 0, 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dvi: 100/100 steps")
    assert err.count("\n") == 1


def test_nothing_is_said_of_a_fit_without_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), Progress(100):
        raise KeyError
    assert capsys.readouterr() == ("", "")


def test_disabled_is_silent_and_costs_a_look_at_the_clock(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(100, enabled=False, clock=clock) as progress:
        progress.update(100, Unread(), 1000, 1)  # type: ignore[arg-type]
    assert capsys.readouterr() == ("", "")
    assert clock.calls == 2  # at the start, and after the block


@pytest.mark.parametrize("console", [Console(file=io.StringIO()), terminal_console()], ids=["lines", "bar"])
def test_between_refreshes_there_is_one_look_at_the_clock(console: Console) -> None:
    clock = Clock()
    with Progress(1000, console=console, clock=clock) as progress:
        progress.update(1, HIST[:1], 10, 1)
        before = clock.calls
        for _ in range(100):
            progress.update(1, Unread(), 10, 1)  # type: ignore[arg-type]
        assert clock.calls == before + 100
        progress.update(1, HIST[:102], 10, 1)


def test_terminal_gets_a_bar_and_its_cursor_back() -> None:
    clock, console = Clock(), terminal_console()
    with Progress(1000, n_rows=5000, n_lanes=2, console=console, clock=clock) as progress:
        assert "preparing" in console.file.getvalue()
        run(progress, clock, blocks=5)
        assert "500/1,000 steps (50 %), 0:00:20, 0:00:20 left" in console.file.getvalue()
    text = console.file.getvalue()
    assert "━" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.rstrip("\x1b[?25h").endswith("\n")


def test_a_fit_without_an_end_has_a_bar_too() -> None:
    clock, console = Clock(), terminal_console()
    with Progress(None, console=console, clock=clock) as progress:
        run(progress, clock, blocks=2)
    assert "200 steps, 0:00:08" in console.file.getvalue()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StopIteration])
def test_an_exception_leaves_the_terminal_clean(error: type[BaseException]) -> None:
    clock, console = Clock(), terminal_console()
    streams = sys.stdout, sys.stderr

    def fit() -> None:
        with Progress(1000, console=console, clock=clock) as progress:
            run(progress, clock, blocks=3)
            raise error

    with pytest.raises(error):
        fit()
    text = console.file.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "left" not in text[text.rindex("300/1,000") :]
    assert (sys.stdout, sys.stderr) == streams


def test_output_that_goes_to_a_file_stays_there(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1000, console=terminal_console(), clock=Clock()):
        print("result")  # noqa: T201
    assert capsys.readouterr().out == "result\n"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_real_terminal() -> None:
    clock, (leader, follower) = Clock(), os.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as file:
        console = Console(file=file, width=100, _environ={"TERM": "xterm"})
        with Progress(1000, console=console, clock=clock) as progress:
            run(progress, clock, blocks=2)
        assert b"200/1,000 steps (20 %)" in screen.read(100_000)


def test_a_dumb_terminal_gets_lines() -> None:
    clock, file = Clock(), Terminal()
    with Progress(1000, console=Console(file=file, _environ={"TERM": "dumb"}), clock=clock) as progress:
        run(progress, clock)
    assert "".join(file.getvalue().splitlines()).isprintable()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_that_was_closed_does_not_end_the_fit(terminal: bool) -> None:
    clock, file = Clock(), Terminal() if terminal else io.StringIO()
    streams = sys.stdout, sys.stderr
    console = terminal_console(file) if terminal else Console(file=file)
    with Progress(1000, console=console, clock=clock) as progress:
        run(progress, clock, blocks=4)
        file.close()
        run(progress, clock, blocks=4)
    assert (sys.stdout, sys.stderr) == streams


class Display:
    """What IPython shows, as the list of its updates."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def __call__(self, card: Any, *, display_id: bool) -> Self:
        assert display_id
        self.shown.append(card)
        return self

    def update(self, card: Any) -> None:
        self.shown.append(card)


def test_notebook_gets_html(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock, display = Clock(), Display()
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))  # type: ignore[arg-type]
    with Progress(1000, n_rows=100, console=Console(force_jupyter=True), clock=clock) as progress:
        run(progress, clock)
    assert len(display.shown) == 12  # at the start, ten times, at the end
    assert repr(display.shown[0]) == "dvi: 0/1,000 steps (0 %), 0:00:00, preparing"
    html = display.shown[-1]._repr_html_()
    assert '<progress value="1000" max="1000"' in html
    assert "1,000/1,000 steps (100 %), 0:00:40" in html
    assert capsys.readouterr() == ("", "")


def test_notebook_without_an_end_shows_activity() -> None:
    assert "<progress style" in _Card(Status(5, None).view())._repr_html_()


def test_notebook_escapes_what_it_shows() -> None:
    html = _Card(View(1, 2, "<b>", "a & b", "▁█", "5 < 6"))._repr_html_()
    assert "&lt;b&gt;" in html
    assert "a &amp; b" in html
    assert "5 &lt; 6" in html
    assert "▁█" in html


# What is kept


def test_record_has_the_moments_and_why_the_fit_ended() -> None:
    clock = Clock()
    with Progress(1000, enabled=False, clock=clock) as progress:
        run(progress, clock, blocks=2)
        progress.update(50, HIST[:250], 500, 3, learning_rate=0.01, times=Times(0.5, 2.0, 0.25))
        progress.stopped("the loss is flat")
    assert progress.record() == {
        "seconds": [0.0, 4.0, 8.0, 8.0],
        "steps": [0, 100, 200, 250],
        "rows": [0, 1000, 2000, 2500],
        "hosts": [0, 2, 2, 3],
        "learning_rate": [None, None, None, 0.01],
        "read": [0.0, 0.0, 0.0, 0.5],
        "compute": [0.0, 0.0, 0.0, 2.0],
        "wait": [0.0, 0.0, 0.0, 0.25],
        "end": "the loss is flat",
    }


def test_record_is_added_to_those_of_other_fits_when_there_were_steps() -> None:
    courses: list[dict[str, Any]] = []
    for steps in (5, 0, 7):
        with Progress(10, enabled=False, courses=courses) as progress:
            if steps:
                progress.update(steps, HIST[:steps], 0, 1)
    assert [course["steps"] for course in courses] == [[0, 5], [0, 7]]


@pytest.mark.parametrize("n", [1, 255, 256, 257, 1000, 4097])
def test_record_of_a_long_fit_is_thinned_evenly(n: int) -> None:
    course = Course()
    for i in range(n):
        course.add(Moment(float(i), i, 0, 1, None))
    steps = course.to_json()["steps"]
    assert steps[0] == 0
    assert steps[-1] == n - 1
    assert len(steps) <= 258
    assert len(set(np.diff(steps[:-1]).tolist())) <= 1


# Trend


def test_trend_shows_what_a_fit_has_gained_lately() -> None:
    clock, console = Clock(), terminal_console()
    with Progress(1000, console=console, clock=clock) as progress:
        run(progress, clock)
    text = console.file.getvalue()
    assert f"ELBO -{HIST[-50:].mean():,.7g} ({HIST[-100:-50].mean() - HIST[-50:].mean():+.3g})" in text
    assert "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██" in text


def test_a_terminal_without_unicode_has_no_trend() -> None:
    class Ascii(Terminal):
        encoding = "ascii"

    clock, file = Clock(), Ascii()
    with Progress(1000, console=terminal_console(file), clock=clock) as progress:
        run(progress, clock, blocks=5)
    assert "▁" not in file.getvalue()


def test_nothing_writes_elsewhere() -> None:
    source = Path(Progress.__init__.__code__.co_filename).read_text("utf-8")
    assert "print(" not in source
