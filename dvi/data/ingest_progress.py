"""Telling people how far work on rows has come: an ingest, pass by pass, or a prediction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from dvi.progress.displays import Display, View, choose
from dvi.progress.status import clock_time, short

# Called with the name of a pass, the rows done in it, the rows in all (None: not known) and the bytes of a row.
type Report = Callable[[str, int, int | None, int], None]


@contextmanager
def progress(
    enabled: bool, console: Console | None = None, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Report]:
    """A function to call after each batch; it does nothing unless ``enabled``."""
    if not enabled:
        yield lambda name, rows, total, row_nbytes: None
        return
    passes = _Passes(choose(console or Console(stderr=True)), clock)
    try:
        yield passes
    finally:
        passes.end()


class _Passes:
    """One pass after the other, each shown from its first batch to the first of the next."""

    def __init__(self, display: Display, clock: Callable[[], float]) -> None:
        self._display, self._clock = display, clock
        self._name: str | None = None
        self._started = self._next = 0.0
        self._first = 0  # rows that were done when the pass was first heard of
        self._view = View(0, None, "", "")

    def __call__(self, name: str, rows: int, total: int | None, row_nbytes: int) -> None:
        now = self._clock()
        if name != self._name:
            self.end()
            self._name, self._started, self._first = name, now, rows
            self._next = now + self._display.period
            self._view = _view(name, rows, total, row_nbytes, 0.0, None)
            self._display.start(self._view)
            return
        seconds = now - self._started
        rate = (rows - self._first) / seconds if seconds > 0 and rows > self._first else None
        self._view = _view(name, rows, total, row_nbytes, seconds, rate)
        if now >= self._next:
            self._next = now + self._display.period
            self._display.show(self._view)

    def end(self) -> None:
        """Show where the pass has come to, if there is one."""
        if self._name is not None:
            self._display.stop(self._view)
            self._name = None


def _view(name: str, rows: int, total: int | None, row_nbytes: int, seconds: float, rate: float | None) -> View:
    """Rows and bytes done and to do, the time left, and the speed where it is known."""
    count = f"{rows:,} rows" if total is None else f"{rows:,}/{total:,} rows ({100 * rows // max(1, total)} %)"
    left = "" if total is None or not rate or rows >= total else f", {clock_time((total - rows) / rate)} left"
    speed = [] if rate is None else [f"{short(rate)} rows/s"]
    size = [f"{short(rows * row_nbytes, ' ')}B"] if row_nbytes else []
    return View(rows, total, f"{name}: {count}, {clock_time(seconds)}{left}", ", ".join(speed + size))
