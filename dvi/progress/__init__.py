"""Telling people how far a fit has come, and keeping how it went."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from rich.console import Console

from dvi.progress.course import Course, Moment
from dvi.progress.displays import View, choose
from dvi.progress.status import ELBO, Measure, Status, recent, sparkline
from dvi.types import FloatArray

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
        self, n_steps: int, hist: FloatArray, n_rows: int, n_hosts: int, learning_rate: float | None = None
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
        """
        self._steps += n_steps
        self._rows += n_rows
        self._hist = hist
        self._n_hosts = n_hosts
        now = self._clock()
        self._course.add(Moment(round(now - self._start, 3), self._steps, self._rows, n_hosts, learning_rate))
        if self._speed.is_empty:  # what came before the first block was compiling
            self._speed.add(now, self._steps, self._rows)
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
        step_rate, row_rate = self._speed.add(now, self._steps, self._rows) if self._steps else (None, None)
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
