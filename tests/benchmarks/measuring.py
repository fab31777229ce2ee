"""Side by side: how benchmarks measure two things in turn, and what they say of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the table of benchmarks.

    Parameters
    ----------
    row : int
        Number of the work in the table.
    work : str
    peer : str
        What it is measured against.
    ours, theirs : float
        Medians, in ``unit``.
    unit : str
    ratios : tuple of float
        How many times better ours was, in each round: above 1 is better.
    target : float
        What the median of them should be at least.
    """

    row: int
    work: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratios: tuple[float, ...]
    target: float

    @property
    def ratio(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.ratios)

    @property
    def reached(self) -> bool:
        return self.ratio >= self.target

    def as_json(self) -> dict[str, Any]:
        """All of it, and the median."""
        return {**asdict(self), "ratio": self.ratio, "reached": self.reached}


def seconds(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def seconds_a_step(run: Callable[[int], object], steps: int) -> float:
    """Seconds of one step, without what a run costs however many steps it has: two lengths tell the two apart."""
    short = seconds(lambda: run(steps))
    return (seconds(lambda: run(4 * steps)) - short) / (3 * steps)


def in_turn(ours: Callable[[], float], theirs: Callable[[], float], rounds: int = ROUNDS) -> list[tuple[float, float]]:
    """Both figures, taken one after the other in every round."""
    return [(ours(), theirs()) for _ in range(rounds)]


def faster(row: int, work: str, peer: str, pairs: list[tuple[float, float]], target: float) -> Measurement:
    """A row for seconds, of which fewer are better; shown in the unit that suits them."""
    mine, others = (statistics.median(column) for column in zip(*pairs, strict=True))
    scale, unit = next(
        (s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if min(mine, others) * s >= 1 or u == "us"
    )
    ratios = tuple(theirs / ours for ours, theirs in pairs)
    return Measurement(row, work, peer, mine * scale, others * scale, unit, ratios, target)
