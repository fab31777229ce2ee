"""How far a fit is, in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from dvi.progress.displays import View
from dvi.types import NO_TIME, FloatArray, Times

_PART = 20  # what is shown is the mean over the last 1/20 of the steps
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 16  # characters of a trend


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
    change : float, optional
        From the twentieth of the steps before the last one to the last one.
    trend : str
        The values over the last half of the steps, as characters of different height.
    nbytes : int
        Bytes of the rows read, decoded; 0 where it is not known.
    times : Times
        Where the time of the last steps went; zeros where it is not known.
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
    change: float | None = None
    trend: str = ""
    nbytes: int = 0
    times: Times = NO_TIME

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
        used = clock_time(self.seconds)
        if self.total is None or not self.step_rate or not self.running:
            return used
        return f"{used}, {clock_time((self.total - self.steps) / self.step_rate)} left"

    def details(self) -> str:
        """ELBO and by how much it changes, and speeds.

        Examples
        --------
        >>> Status(1_500, 10_000, -1234.5, change=3.25, step_rate=100.0, row_rate=8e5, epoch=1.25).details()
        'ELBO -1,234.5 (+3.25), 100 steps/s, 800k rows/s, epoch 1.25'
        """
        if self.value is None:
            return "preparing"
        change = "" if self.change is None else f" ({self.change:+.3g})"
        parts = [f"{self.measure} {self.value:,.7g}{change}"]
        if self.step_rate is not None:
            parts.append(f"{short(self.step_rate)} steps/s")
        if self.row_rate is not None and self.epoch is not None:
            parts.append(f"{short(self.row_rate)} rows/s")
        if self.epoch is not None:
            parts.append(f"epoch {self.epoch:.2f}")
        return ", ".join(parts)

    def resources(self) -> str:
        """What was read, where it runs, and where its time goes.

        Examples
        --------
        >>> from dvi.types import Times
        >>> Status(1_500, 10_000, nbytes=2_000_000_000, n_lanes=4, n_hosts=1, times=Times(3.0, 20.0, 2.0)).resources()
        '2 GB read, 4 lanes on 1 host, time: read 12 %, compute 80 %, wait 8 %'
        """
        parts = []
        if self.nbytes:
            parts.append(f"{short(self.nbytes, ' ')}B read")
        if self.n_lanes and self.n_hosts:
            parts.append(f"{_plural(self.n_lanes, 'lane')} on {_plural(self.n_hosts, 'host')}")
        if shares := time_shares(self.times):
            parts.append(f"time: {shares}")
        return ", ".join(parts)

    def view(self) -> View:
        """What a display shows of it."""
        head = f"{self.count()}, {self.time()}"
        return View(self.steps, self.total, head, self.details(), self.trend, self.resources())


def recent(values: FloatArray, before: int = 0) -> float:
    """Mean over the last twentieth of the values ``(n,)``, or over a twentieth that many twentieths before it."""
    length = max(1, len(values) // _PART)
    return float(np.mean(values[len(values) - (before + 1) * length : len(values) - before * length]))


def sparkline(values: FloatArray) -> str:
    """Values ``(n,)`` as a row of at most 16 bars, each the mean of as many of them; none for fewer than two bars.

    Examples
    --------
    >>> sparkline(np.array([0.0, 7.0, 3.0]))
    '▁█▄'
    >>> sparkline(np.arange(1000.0))
    '▁▁▂▂▃▃▄▄▅▅▆▆▇▇██'
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return ""
    means = np.array([part.mean() for part in np.array_split(values, min(_WIDTH, len(values)))])
    span = float(np.ptp(means)) or 1.0
    heights = (len(_BARS) * (means - means.min()) / span).astype(int).clip(0, len(_BARS) - 1)
    return "".join(_BARS[height] for height in heights)


def time_shares(times: Times) -> str:
    """Parts of some time in per cent; nothing where there is none.

    Examples
    --------
    >>> time_shares(Times(read=3.0, compute=20.0, wait=2.0)), time_shares(Times())
    ('read 12 %, compute 80 %, wait 8 %', '')
    """
    total = times.read + times.compute + times.wait
    if total <= 0:
        return ""
    parts = {"read": times.read, "compute": times.compute, "wait": times.wait}
    return ", ".join(f"{name} {seconds / total:.0%}".replace("%", " %") for name, seconds in parts.items())


def clock_time(seconds: float) -> str:
    """Hours, minutes and seconds.

    Examples
    --------
    >>> clock_time(3661.4)
    '1:01:01'
    """
    return str(timedelta(seconds=round(seconds)))


def short(number: float, space: str = "") -> str:
    """Three digits and a suffix.

    Examples
    --------
    >>> short(123_456), short(999.9), short(2e9, " ")
    ('123k', '1k', '2 G')
    """
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{space}{suffix}"
    return f"{number:.3g}{space}"


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
