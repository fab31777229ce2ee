"""Side by side: how benchmarks measure two things in turn, and what they say of them."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

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
    limit : float, optional
        The ratio at which the machine could do no more.
    """

    row: int
    work: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratios: tuple[float, ...]
    target: float
    limit: float | None = None

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
    """Seconds of one step, without what a run costs however many steps it has: two lengths tell the two apart.

    Each is run twice, of which the quicker counts: a pause of the machine in one of them would be a multiple of a step.
    Where pauses leave nothing to the steps, both are run again.
    """
    for _ in range(ROUNDS):
        short, long = (min(seconds(lambda: run(n)) for _ in range(2)) for n in (steps, 4 * steps))  # noqa: B023
        if long > short:
            return (long - short) / (3 * steps)
    raise RuntimeError(f"{4 * steps} steps take no longer than {steps} here; take more steps")


def in_turn(ours: Callable[[], float], theirs: Callable[[], float], rounds: int = ROUNDS) -> list[tuple[float, float]]:
    """Both figures, taken one after the other in every round."""
    return [(ours(), theirs()) for _ in range(rounds)]


@functools.lru_cache
def bytes_a_second(threads: int, n_bytes: int) -> float:
    """What some threads read at once, of an array that they go over again and again: it may be in the cache in part.

    The median of as many rounds as the benchmarks have.
    """
    parts = np.array_split(np.ones(max(n_bytes // 8, threads)), threads)
    times = max(1, 2**28 // n_bytes)

    def read(part: np.ndarray[Any, Any]) -> None:
        for _ in range(times):
            np.add.reduce(part)

    with ThreadPoolExecutor(threads) as pool:
        rounds = [seconds(lambda: list(pool.map(read, parts))) for _ in range(ROUNDS + 1)]
    return times * sum(part.nbytes for part in parts) / statistics.median(rounds[1:])


def faster(
    row: int, work: str, peer: str, pairs: list[tuple[float, float]], target: float, *,
    least: float | None = None, limit: float | None = None,
) -> Measurement:  # fmt: skip
    """A row for seconds, of which fewer are better; shown in the unit that suits them.

    Parameters
    ----------
    pairs : list of (ours, theirs)
    least : float, optional
        Seconds below which ours cannot be on this machine.
    limit : float, optional
        The ratio that follows from it, where it is not that.
    """
    mine, others = (statistics.median(column) for column in zip(*pairs, strict=True))
    scale, unit = next(
        (s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if min(mine, others) * s >= 1 or u == "us"
    )
    ratios = tuple(theirs / ours for ours, theirs in pairs)
    if least is not None:
        limit = others / least
    return Measurement(row, work, peer, mine * scale, others * scale, unit, ratios, target, limit)
