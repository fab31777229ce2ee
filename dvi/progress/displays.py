"""Places to show progress: a bar in a terminal, HTML in a notebook, now and then a line elsewhere.

All of it goes to standard error, so that ``python script.py > log 2>&1`` has the lines and ``script.py > results`` has
the results alone. Only a terminal ever gets control characters.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

_BAR_SECONDS = 0.2  # between two refreshes
_NOTEBOOK_SECONDS = 0.5
_LINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class View:
    """What there is to show.

    Parameters
    ----------
    done : float
    total : float, optional
        None where the end is not known.
    head, details : str
        What comes beside the bar, and below it.
    trend : str
        Shown where characters of different height can be.
    resources : str
        What comes below the details.

    Examples
    --------
    >>> View(2, 4, "2/4 steps", "ELBO 1.5").line()
    'dvi: 2/4 steps, ELBO 1.5'
    """

    done: float
    total: float | None
    head: str
    details: str
    trend: str = ""
    resources: str = ""

    def line(self) -> str:
        """Everything, in one line."""
        return f"dvi: {', '.join(filter(None, (self.head, self.details, self.resources)))}"


class Display(Protocol):
    """A place to show progress: started once, stopped once, shown in between about every ``period`` seconds."""

    @property
    def period(self) -> float: ...
    def start(self, view: View) -> None: ...
    def show(self, view: View) -> None: ...
    def stop(self, view: View) -> None: ...


def choose(console: Console) -> Display:
    """The display for a console. FORCE_COLOR, which rich takes for a terminal, does not make a log file one."""
    ipython = sys.modules.get("IPython.display")
    if console.is_jupyter and ipython is not None:
        return _Notebook(ipython)
    if console.file.isatty() and not console.is_dumb_terminal:
        return _Bar(console)
    return _Lines(console)


class _Bar:
    """Lines at the bottom of a terminal: a bar with the time left, the details, and the resources."""

    period = _BAR_SECONDS

    def __init__(self, console: Console) -> None:
        # Output that goes to a file stays there; what the terminal gets is put above the bar.
        to_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=to_terminal)
        self._has_trend = console.encoding.lower().startswith("utf")

    def start(self, view: View) -> None:
        self._live.start()
        self.show(view)

    def show(self, view: View) -> None:
        total = None if view.total is None else max(1, view.total)
        grid = Table.grid(Column(width=24), Column(no_wrap=True), padding=(0, 1))
        grid.add_row(ProgressBar(total, view.done), Text(view.head))
        details = Text(view.details, no_wrap=True, overflow="ellipsis")
        if view.trend and self._has_trend:
            details = Text.assemble((view.trend, "cyan"), " ", details, no_wrap=True, overflow="ellipsis")
        lines = [Text(view.resources, no_wrap=True, overflow="ellipsis")] if view.resources else []
        self._live.update(Group(grid, details, *lines), refresh=True)

    def stop(self, view: View) -> None:
        try:
            self.show(view)
        finally:
            self._live.stop()


class _Lines:
    """Whole lines, for log files and pipes."""

    period = _LINE_SECONDS

    def __init__(self, console: Console) -> None:
        self._file = console.file
        self._last: View | None = None

    def start(self, view: View) -> None:
        """Nothing: what is short is one line."""

    def show(self, view: View) -> None:
        self._last = view
        self._file.write(view.line() + "\n")
        self._file.flush()

    def stop(self, view: View) -> None:
        if view.done and view != self._last:
            self.show(view)


class _Notebook:
    """HTML that replaces itself; needs no widgets."""

    period = _NOTEBOOK_SECONDS

    def __init__(self, ipython: Any) -> None:
        self._ipython = ipython
        self._handle: Any = None

    def start(self, view: View) -> None:
        self._handle = self._ipython.display(_Card(view), display_id=True)

    def show(self, view: View) -> None:
        if self._handle is not None:
            self._handle.update(_Card(view))

    stop = show


@dataclass(frozen=True, slots=True)
class _Card:
    """A view as notebooks show objects."""

    view: View

    def __repr__(self) -> str:
        return self.view.line()

    def _repr_html_(self) -> str:
        view = self.view
        value = "" if view.total is None else f' value="{view.done}" max="{max(1, view.total)}"'
        resources = f"<br>{escape(view.resources)}" if view.resources else ""
        trend = f'<span aria-hidden="true">{view.trend}</span> ' if view.trend else ""
        return (
            f'<div><progress{value} style="width: 20em" aria-label="progress"></progress> {escape(view.head)}'
            f"<br><small>{trend}{escape(view.details)}{resources}</small></div>"
        )
