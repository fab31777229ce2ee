"""Where the time of a step goes in one process, and how it grows.

``python -m tests.benchmarks.parts docs/explanation`` writes two tables of the documentation there: ``parts.csv`` and
``growth.csv``. All on one thread, in turn, medians of the rounds of the other benchmarks.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymc as pm
import pytest

import dvi
from dvi.execution.threads import ThreadsDriver, ThreadsExecutor
from dvi.model.compile import CompiledKernel
from tests.benchmarks.bench_steps import CASES, RATE, hierarchical, logistic
from tests.benchmarks.measuring import ROUNDS, seconds, seconds_a_step

RUN = {"obj_n_mc": 1, "obj_optimizer": dvi.adam(RATE), "progressbar": False, "threads": 1}
WATCHED = {
    "step": (ThreadsDriver, "_step"),
    "evaluation": (ThreadsExecutor, "evaluate"),
    "kernel": (CompiledKernel, "run"),
}
ROWS, FEATURES, BATCH, GROUPS = 200_000, 20, 8192, 1000


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Seconds spent in parts of steps, each with what it calls in it."""
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args)
            finally:
                spent[name] += time.perf_counter() - began

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name, (owner, attribute) in WATCHED.items():
            patch.setattr(owner, attribute, timed(name, getattr(owner, attribute)))
        yield spent


def steps(model: pm.Model, method: Any = dvi.ADVI, **settings: Any) -> Callable[[int], object]:
    """Runs a number of steps, warm."""
    inference = method(random_seed=1, model=model)

    def run(n: int) -> object:
        return inference.fit(n, **{**RUN, **settings})

    run(50)
    return run


def parts_of(model: pm.Model, n: int) -> list[float]:
    """Microseconds of a step: in all, in the kernel, around the kernel, and for draws, prior and update."""
    run, rounds = steps(model), []
    for _ in range(ROUNDS):
        with watched() as short:
            run(n)
        with watched() as long:
            run(4 * n)
        whole, evaluation, kernel = (1e6 * (long[name] - short[name]) / (3 * n) for name in WATCHED)
        rounds.append([whole, kernel, evaluation - kernel, whole - evaluation])
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def microseconds(run: Callable[[int], object]) -> float:
    """Of a step, after as many as make some tenths of a second."""
    n = max(20, int(0.1 * 100 / seconds(lambda: run(100))))
    return 1e6 * statistics.median(seconds_a_step(run, n) for _ in range(ROUNDS))


def growth() -> Iterator[tuple[str, Sequence[int], list[float]]]:
    """What grows, its sizes, and microseconds of a step at each of them."""

    def regression(batch: int = BATCH, features: int = FEATURES) -> pm.Model:
        return logistic(dvi, ROWS, features, batch)

    def grouped(groups: int) -> pm.Model:
        return hierarchical(dvi, ROWS, 10, BATCH, groups)

    yield from (
        (what, sizes, [microseconds(run(size)) for size in sizes])
        for what, sizes, run in [
            ("rows of a batch", (512, 2048, 8192, 32768), lambda n: steps(regression(batch=n))),
            ("features", (5, 20, 80, 320), lambda n: steps(regression(features=n))),
            ("groups, mean field", (100, 1000, 10_000, 100_000), lambda n: steps(grouped(n))),
            ("groups, full rank", (10, 50, 250, 1250), lambda n: steps(grouped(n), dvi.FullRankADVI)),
            ("draws", (1, 4, 16, 64), lambda n: steps(regression(), obj_n_mc=n)),
            ("lanes", (1, 2, 4, 8), lambda n: steps(regression(), lanes=n)),
        ]
    )


def main(folder: Path) -> None:
    """Measure and write."""
    with (folder / "parts.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["Step, one thread", "µs", "kernel", "finding rows, adding lanes", "draws, prior, update"])
        for _, name, make, rows, columns, batch, n, _ in CASES:
            found = parts_of(make(dvi, rows, columns, batch), n)
            table.writerow([name, *(f"{part:.0f}" for part in found)])
    with (folder / "growth.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["", "sizes", "µs a step"])
        for what, sizes, found in growth():
            table.writerow([what, " · ".join(f"{n:,}" for n in sizes), " · ".join(f"{us:,.0f}" for us in found)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
