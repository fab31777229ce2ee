"""Telling people how far an ingest has come: a bar in a terminal, a line in the log elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0

# Called with the name of a pass, the rows done in it, the rows in all (None: not known) and the bytes of a row.
type Report = Callable[[str, int, int | None, int], None]


@contextmanager
def progress(enabled: bool) -> Iterator[Report]:
    """A function to call after each batch; it does nothing unless ``enabled``."""
    console = Console(stderr=True)
    if not enabled:
        yield lambda name, rows, total, row_nbytes: None
    elif console.is_terminal:
        yield from _bars(console)
    else:
        yield _LogReport()


def _bars(console: Console) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} rows, {task.fields[megabytes]:,.0f} MB"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(name: str, rows: int, total: int | None, row_nbytes: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, megabytes=0.0)
            bars.update(tasks[name], completed=rows, total=total, megabytes=rows * row_nbytes / 1e6)

        yield report


class _LogReport:
    """One line at most every ten seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, name: str, rows: int, total: int | None, row_nbytes: int) -> None:
        if time.monotonic() - self._last >= LOG_SECONDS:
            self._last = time.monotonic()
            of = "" if total is None else f" of {total}"
            logger.info("ingest: %s %d%s rows, %.0f MB", name, rows, of, rows * row_nbytes / 1e6)
