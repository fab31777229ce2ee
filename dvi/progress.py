"""Telling people how far a fit has come: a bar in a terminal, HTML in a notebook, now and then a line elsewhere.

All of it goes to standard error, so that ``python script.py > log 2>&1`` has the lines and ``script.py > results`` has
the results alone. Only a terminal ever gets control characters.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, Self

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from dvi.types import FloatArray

_BAR_SECONDS = 0.2  # between two refreshes
_NOTEBOOK_SECONDS = 0.5
_LINE_SECONDS = 10.0
_SPEED_SECONDS = 30.0  # over which speeds are averaged
_PART = 20  # what is shown is the mean over the last 1/20 of the steps


@dataclass(frozen=True, slots=True)
class Measure:
    """What is shown of the history of losses: its name, and the sign that makes it of a loss."""

    name: str
    sign: int


ELBO = Measure("ELBO", -1)


@dataclass(frozen=True, slots=True)
class Status:
    """How far a fit is. A number that is not known is None.

    Parameters
    ----------
    steps : int
        Steps done.
    total : int, optional
        Steps to do; None for a fit that goes on until it is stopped.
    value : float, optional
        Mean over the last twentieth of the steps of what is shown.
    seconds : float
        Time since the start.
    step_rate, row_rate : float, optional
        Steps and rows per second.
    epoch : float, optional
        Rows read, as a multiple of the rows there are.
    n_lanes, n_hosts : int
        Lanes, and the processes that evaluate them.
    running : bool
        Whether more is to come.
    measure : str
        Name of the value.
    """

    steps: int
    total: int | None
    value: float | None = None
    seconds: float = 0.0
    step_rate: float | None = None
    row_rate: float | None = None
    epoch: float | None = None
    n_lanes: int = 0
    n_hosts: int = 0
    running: bool = True
    measure: str = "ELBO"

    def count(self) -> str:
        """Steps done and to do.

        Examples
        --------
        >>> Status(1_500, 10_000).count()
        '1,500/10,000 steps (15 %)'
        """
        if self.total is None:
            return f"{self.steps:,} steps"
        return f"{self.steps:,}/{self.total:,} steps ({100 * self.steps // max(1, self.total)} %)"

    def time(self) -> str:
        """Time used and time left.

        Examples
        --------
        >>> Status(1_500, 10_000, seconds=20.0, step_rate=100.0).time()
        '0:00:20, 0:01:25 left'
        """
        used = str(timedelta(seconds=round(self.seconds)))
        if self.total is None or not self.step_rate or not self.running:
            return used
        return f"{used}, {timedelta(seconds=round((self.total - self.steps) / self.step_rate))} left"

    def details(self) -> str:
        """ELBO, speeds, and where it runs.

        Examples
        --------
        >>> Status(1_500, 10_000, -1234.5, step_rate=100.0, row_rate=8e5, epoch=1.25, n_lanes=4, n_hosts=1).details()
        'ELBO -1,234.5, 100 steps/s, 800k rows/s, epoch 1.25, 4 lanes on 1 host'
        """
        if self.value is None:
            return "preparing"
        parts = [f"{self.measure} {self.value:,.7g}"]
        if self.step_rate is not None:
            parts.append(f"{_short(self.step_rate)} steps/s")
        if self.row_rate is not None and self.epoch is not None:
            parts.append(f"{_short(self.row_rate)} rows/s")
        if self.epoch is not None:
            parts.append(f"epoch {self.epoch:.2f}")
        if self.n_lanes and self.n_hosts:
            parts.append(f"{_plural(self.n_lanes, 'lane')} on {_plural(self.n_hosts, 'host')}")
        return ", ".join(parts)

    def line(self) -> str:
        """Everything, in one line."""
        return f"dvi: {self.count()}, {self.time()}, {self.details()}"


class Progress:
    """Shows a fit from entering to leaving its block; leaving by an exception restores the terminal.

    Parameters
    ----------
    total : int, optional
        Steps to do; None for a fit that goes on until it is stopped.
    enabled : bool
        Otherwise nothing is shown and nothing is counted.
    n_rows : int
        Rows of the data; 0 without data.
    n_lanes : int
        Lanes that evaluate them.
    console : rich.console.Console, optional
        Where to show it; standard error by default.
    clock : callable
        Seconds since any moment. Given by tests.

    Examples
    --------
    >>> with Progress(2, enabled=False) as progress:
    ...     progress.update(2, np.array([5.0, 4.0]), n_rows=100, n_hosts=1)
    """

    def __init__(
        self,
        total: int | None,
        *,
        enabled: bool = True,
        n_rows: int = 0,
        n_lanes: int = 0,
        measure: Measure = ELBO,
        console: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._total = total
        self._n_rows = n_rows
        self._n_lanes = n_lanes
        self._measure = measure
        self._clock = clock
        self._display = _choose(console or Console(stderr=True)) if enabled else None
        self._steps = self._rows = self._n_hosts = 0
        self._hist: FloatArray | None = None
        self._speed = _Speed()
        self._start = self._next = 0.0
        self._running = True

    def __enter__(self) -> Self:
        if self._display is not None:
            self._start = self._clock()
            self._next = self._start + self._display.period
            self._show(self._display.start)
        return self

    def __exit__(self, *exception: object) -> None:
        self._running = False
        if self._display is not None:
            self._show(self._display.stop)
            self._display = None

    def update(self, n_steps: int, hist: FloatArray, n_rows: int, n_hosts: int) -> None:
        """Count a block of steps. Costs a look at the clock, but for a few times a second.

        Parameters
        ----------
        n_steps : int
            Steps of the block.
        hist : array, shape (steps,)
            Negative ELBO of all steps so far. Kept until the next call, not copied.
        n_rows : int
            Rows that the block has read.
        n_hosts : int
            Processes that evaluate lanes.
        """
        display = self._display
        if display is None:
            return
        self._steps += n_steps
        self._rows += n_rows
        self._hist = hist
        self._n_hosts = n_hosts
        now = self._clock()
        if self._speed.is_empty:  # what came before the first block was compiling
            self._speed.add(now, self._steps, self._rows)
        if now >= self._next:
            self._next = now + display.period
            self._show(display.show)

    def _show(self, show: Callable[[Status], None]) -> None:
        """Show the status. Where that fails, as in a terminal that was closed, the fit goes on without."""
        try:
            show(self._status())
        except (OSError, ValueError):
            display, self._display = self._display, None
            if display is not None:
                with suppress(OSError, ValueError):
                    display.stop(self._status())

    def _status(self) -> Status:
        now = self._clock()
        step_rate, row_rate = self._speed.add(now, self._steps, self._rows) if self._steps else (None, None)
        return Status(
            steps=self._steps,
            total=self._total,
            value=None if self._hist is None or not len(self._hist) else self._measure.sign * _recent_loss(self._hist),
            measure=self._measure.name,
            seconds=now - self._start,
            step_rate=step_rate,
            row_rate=row_rate,
            epoch=self._rows / self._n_rows if self._n_rows else None,
            n_lanes=self._n_lanes,
            n_hosts=self._n_hosts,
            running=self._running,
        )


class _Speed:
    """Steps and rows per second over the last half minute, from counts at a few moments."""

    def __init__(self) -> None:
        self._moments: deque[tuple[float, int, int]] = deque()

    @property
    def is_empty(self) -> bool:
        return not self._moments

    def add(self, now: float, steps: int, rows: int) -> tuple[float | None, float | None]:
        moments = self._moments
        while len(moments) > 1 and moments[1][0] <= now - _SPEED_SECONDS:
            moments.popleft()
        moments.append((now, steps, rows))
        then, steps_then, rows_then = moments[0]
        if now <= then or steps <= steps_then:
            return None, None
        return (steps - steps_then) / (now - then), (rows - rows_then) / (now - then)


class _Display(Protocol):
    """A place to show progress: started once, stopped once, shown in between about every ``period`` seconds."""

    @property
    def period(self) -> float: ...
    def start(self, status: Status) -> None: ...
    def show(self, status: Status) -> None: ...
    def stop(self, status: Status) -> None: ...


def _choose(console: Console) -> _Display:
    """The display for a console. FORCE_COLOR, which rich takes for a terminal, does not make a log file one."""
    ipython = sys.modules.get("IPython.display")
    if console.is_jupyter and ipython is not None:
        return _Notebook(ipython)
    if console.file.isatty() and not console.is_dumb_terminal:
        return _Bar(console)
    return _Lines(console)


class _Bar:
    """Two lines at the bottom of a terminal: a bar with the time left, and the details."""

    period = _BAR_SECONDS

    def __init__(self, console: Console) -> None:
        # Output that goes to a file stays there; what the terminal gets is put above the bar.
        to_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=to_terminal)

    def start(self, status: Status) -> None:
        self._live.start()
        self.show(status)

    def show(self, status: Status) -> None:
        total = None if status.total is None else max(1, status.total)
        grid = Table.grid(Column(width=24), Column(no_wrap=True), padding=(0, 1))
        grid.add_row(ProgressBar(total, status.steps), Text(f"{status.count()}, {status.time()}"))
        self._live.update(Group(grid, Text(status.details(), no_wrap=True, overflow="ellipsis")), refresh=True)

    def stop(self, status: Status) -> None:
        try:
            self.show(status)
        finally:
            self._live.stop()


class _Lines:
    """Whole lines, for log files and pipes."""

    period = _LINE_SECONDS

    def __init__(self, console: Console) -> None:
        self._file = console.file

    def start(self, status: Status) -> None:
        """Nothing: a short fit is one line."""

    def show(self, status: Status) -> None:
        self._file.write(status.line() + "\n")
        self._file.flush()

    def stop(self, status: Status) -> None:
        if status.steps:
            self.show(status)


class _Notebook:
    """HTML that replaces itself; needs no widgets."""

    period = _NOTEBOOK_SECONDS

    def __init__(self, ipython: Any) -> None:
        self._ipython = ipython
        self._handle: Any = None

    def start(self, status: Status) -> None:
        self._handle = self._ipython.display(_Card(status), display_id=True)

    def show(self, status: Status) -> None:
        if self._handle is not None:
            self._handle.update(_Card(status))

    stop = show


@dataclass(frozen=True, slots=True)
class _Card:
    """A status as notebooks show objects. Its values are numbers, so that nothing needs to be escaped."""

    status: Status

    def __repr__(self) -> str:
        return self.status.line()

    def _repr_html_(self) -> str:
        status = self.status
        value = "" if status.total is None else f' value="{status.steps}" max="{max(1, status.total)}"'
        return (
            f'<div><progress{value} style="width: 20em"></progress> {status.count()}, {status.time()}'
            f"<br><small>{status.details()}</small></div>"
        )


def _recent_loss(hist: FloatArray) -> float:
    return float(np.mean(hist[-max(1, len(hist) // _PART) :]))


def _short(number: float) -> str:
    """Three digits and a suffix."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}"


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
