"""Telling people how far a fit has come, and keeping how it went."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Self

from rich.console import Console

from dvi.progress.course import Course, Moment
from dvi.progress.displays import View, choose
from dvi.progress.status import ELBO, Measure, Status, recent, sparkline
from dvi.types import NO_TIME, FloatArray, Times

__all__ = ["ELBO", "Measure", "Progress", "Status"]

_SPEED_SECONDS = 30.0  # over which speeds are averaged


class Progress:
    """Shows a fit from entering to leaving its block; leaving by an exception restores the terminal.

    Parameters
    ----------
    total : int, optional
        Steps to do; None for a fit that goes on until it is stopped.
    enabled : bool
        Otherwise nothing is shown.
    n_rows : int
        Rows of the data; 0 without data.
    n_lanes : int
        Lanes that evaluate them.
    row_nbytes : int
        Bytes of a row; 0 where it is not known.
    courses : list, optional
        Of the records of fits, to which that of this one is added when its block is left.
    console : rich.console.Console, optional
        Where to show it; standard error by default.
    clock : callable
        Seconds since any moment. Given by tests.

    Examples
    --------
    >>> import numpy as np
    >>> with Progress(2, enabled=False) as progress:
    ...     progress.update(2, np.array([5.0, 4.0]), n_rows=100, n_hosts=1)
    >>> progress.record()["rows"], progress.record()["end"]
    ([0, 100], 'done')
    """

    def __init__(
        self,
        total: int | None,
        *,
        enabled: bool = True,
        n_rows: int = 0,
        n_lanes: int = 0,
        row_nbytes: int = 0,
        measure: Measure = ELBO,
        courses: list[dict[str, Any]] | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._total = total
        self._n_rows, self._n_lanes, self._row_nbytes = n_rows, n_lanes, row_nbytes
        self._measure = measure
        self._clock = clock
        self._display = choose(console or Console(stderr=True)) if enabled else None
        self._steps = self._rows = self._n_hosts = 0
        self._times = NO_TIME
        self._hist: FloatArray | None = None
        self._speed = _Speed()
        self._course, self._courses = Course(), courses
        self._end = "done"
        self._start = self._next = 0.0
        self._running = True

    def __enter__(self) -> Self:
        self._start = self._clock()
        self._course.add(Moment(0.0, 0, 0, 0, None))
        if self._display is not None:
            self._next = self._start + self._display.period
            self._show(self._display.start)
        return self

    def __exit__(self, *exception: object) -> None:
        self._running = False
        if self._display is not None:
            self._show(self._display.stop)
            self._display = None
        if self._courses is not None and self._steps:
            self._courses.append(self.record())

    def update(
        self,
        n_steps: int,
        hist: FloatArray,
        n_rows: int,
        n_hosts: int,
        learning_rate: float | None = None,
        times: Times = NO_TIME,
    ) -> None:
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
        learning_rate : float, optional
            Of the next step.
        times : Times
            Where the time of the block went; zeros where it is not known.
        """
        self._steps += n_steps
        self._rows += n_rows
        self._times += times
        self._hist = hist
        self._n_hosts = n_hosts
        now = self._clock()
        spent = (round(seconds, 3) for seconds in (self._times.read, self._times.compute, self._times.wait))
        self._course.add(Moment(round(now - self._start, 3), self._steps, self._rows, n_hosts, learning_rate, *spent))
        if self._speed.is_empty:  # what came before the first block was compiling
            self._speed.add(now, self._steps, self._rows, self._times)
        display = self._display
        if display is not None and now >= self._next:
            self._next = now + display.period
            self._show(display.show)

    def stopped(self, reason: str) -> None:
        """Keep why the fit ended before its last step."""
        self._end = reason

    def record(self) -> dict[str, Any]:
        """How the fit went, as plain JSON values: lists of moments by the fields of Moment, and ``end``, why it did."""
        return {**self._course.to_json(), "end": self._end}

    def _show(self, show: Callable[[View], None]) -> None:
        """Show the status. Where that fails, as in a terminal that was closed, the fit goes on without."""
        try:
            show(self._status().view())
        except (OSError, ValueError):
            display, self._display = self._display, None
            if display is not None:
                with suppress(OSError, ValueError):
                    display.stop(self._status().view())

    def _status(self) -> Status:
        now = self._clock()
        if self._steps:
            self._speed.add(now, self._steps, self._rows, self._times)
        step_rate, row_rate = self._speed.rates()
        hist, sign = self._hist, self._measure.sign
        return Status(
            steps=self._steps,
            total=self._total,
            value=sign * recent(hist) if hist is not None and len(hist) else None,
            change=sign * (recent(hist) - recent(hist, 1)) if hist is not None and len(hist) > 1 else None,
            trend="" if hist is None else sparkline(sign * hist[len(hist) // 2 :]),
            measure=self._measure.name,
            seconds=now - self._start,
            step_rate=step_rate,
            row_rate=row_rate,
            epoch=self._rows / self._n_rows if self._n_rows else None,
            nbytes=self._rows * self._row_nbytes,
            n_lanes=self._n_lanes,
            n_hosts=self._n_hosts,
            times=self._speed.times(),
            running=self._running,
        )


class _Counts(NamedTuple):
    """What there was at one time."""

    seconds: float
    steps: int
    rows: int
    times: Times


class _Speed:
    """Steps and rows per second, and where the time goes, over the last half minute, from counts at a few moments."""

    def __init__(self) -> None:
        self._counts: deque[_Counts] = deque()

    @property
    def is_empty(self) -> bool:
        return not self._counts

    def add(self, now: float, steps: int, rows: int, times: Times) -> None:
        counts = self._counts
        while len(counts) > 1 and counts[1].seconds <= now - _SPEED_SECONDS:
            counts.popleft()
        counts.append(_Counts(now, steps, rows, times))

    def rates(self) -> tuple[float | None, float | None]:
        """Steps and rows per second; None before there is anything to tell them from."""
        if self.is_empty:
            return None, None
        then, now = self._counts[0], self._counts[-1]
        seconds = now.seconds - then.seconds
        if seconds <= 0 or now.steps <= then.steps:
            return None, None
        return (now.steps - then.steps) / seconds, (now.rows - then.rows) / seconds

    def times(self) -> Times:
        """Where the time went."""
        return NO_TIME if self.is_empty else self._counts[-1].times - self._counts[0].times
