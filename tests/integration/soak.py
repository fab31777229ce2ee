"""Faults at random moments of fits, whose bits are compared with those of an undisturbed one: ``make soak``.

Ends after so many killed processes or so many seconds, and writes the tables of docs/explanation/reliability.md.
Exit code 1 if a bit was different.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.integration.faults import FAULTS, Injector, site
from tests.integration.undisturbed import Undisturbed, disturbed, small_model

FAULTS_OF_A_FIT = 5
TABLES = Path("docs/explanation")


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of one fit."""

    fault: str
    kills: int
    steps: int
    equal: bool
    seconds_lost: float


def fits(n_workers: int, rng: np.random.Generator) -> Iterator[Fit]:
    """One fit after another on one cluster, with one kind of fault after another; every other is one step behind."""
    model = small_model()
    undisturbed = [Undisturbed(model, staleness) for staleness in (0, 1)]
    with site(n_workers) as place:
        for name, staleness in zip(itertools.cycle(FAULTS), itertools.cycle((0, 1))):
            injector = Injector(place, [FAULTS[name]] * FAULTS_OF_A_FIT, rng)
            found = disturbed(model, place, injector, staleness)
            equal = undisturbed[staleness].equals(found)
            yield Fit(name, injector.kills, len(found.hist), equal, injector.seconds_lost)


def tables(done: list[Fit], run: dict[str, object]) -> dict[str, list[tuple[object, ...]]]:
    """Rows of each table by its name."""
    rows: list[tuple[object, ...]] = [
        ("Fault", "Times", "Processes killed", "Fits", "... with other bits", "Seconds lost")
    ]
    for name in FAULTS:
        own = [fit for fit in done if fit.fault == name]
        if own:
            lost = np.median([fit.seconds_lost for fit in own])
            n_other = sum(not fit.equal for fit in own)
            kills = sum(fit.kills for fit in own)
            rows.append((name, FAULTS_OF_A_FIT * len(own), kills, len(own), n_other, f"{lost:.1f}"))
    kills, n_other = sum(fit.kills for fit in done), sum(not fit.equal for fit in done)
    rows.append(("all", FAULTS_OF_A_FIT * len(done), kills, len(done), n_other, ""))
    return {"reliability": rows, "reliability-run": [("The run", ""), *run.items()]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    started, done = time.monotonic(), []
    for fit in fits(arguments.workers, np.random.default_rng(arguments.seed)):
        done.append(fit)
        print(fit, flush=True)
        elapsed, kills = time.monotonic() - started, sum(fit.kills for fit in done)
        if elapsed > arguments.seconds or kills >= arguments.kills:
            break
    run = {
        "seconds": round(elapsed),
        "steps": sum(fit.steps for fit in done),
        "seed": arguments.seed,
        "worker processes": arguments.workers,
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
        **{name: version(name) for name in ("dask-vi", "distributed", "pymc", "pytensor")},
    }
    for name, rows in tables(done, run).items():
        with (TABLES / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    return 0 if all(fit.equal for fit in done) else 1


if __name__ == "__main__":
    sys.exit(main())
