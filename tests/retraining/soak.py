"""Scheduled runs over a store that grows, killed at random moments, against the same ones undisturbed.

``make soak-retrain``: one sequence of five runs after another, in a folder and on S3 in turn. Each run is started
again until it has come to its end; after each of them pointer, records and bits have to be those of the undisturbed
sequence. Ends after so many killed processes or so many seconds, and writes a table of docs/explanation/reliability.md.
Exit code 1 if anything was different.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.retraining.models import config_of, deliver, delivery
from tests.retraining.processes import KILLED, Processes, processes
from tests.retraining.states import phase, state
from tests.storage.service import Service, running

DRIFT = (3.0, 3.0, 3.1, 2.0, 3.0)  # of the mean, from one delivery to the next; the fourth predicts nothing of itself
TABLE = Path("docs/explanation/reliability-retrain.csv")
LATER = 1.1  # the last moment of a first kill, in durations of an undisturbed run
PATIENCE = 1.2  # by how much that is later at each of the next, or a slow machine might never come to the end


@dataclass(frozen=True, slots=True)
class Run:
    """A scheduled run that has come to its end."""

    outcome: str
    state: dict[str, Any]
    seconds: float


@dataclass(frozen=True, slots=True)
class Disturbed:
    """A scheduled run that was killed until it came to its end."""

    outcome: str
    phases: tuple[str, ...]
    equal: bool


def config_in(folder: object) -> dict[str, Any]:
    """A configuration with drift in view: the last two deliveries."""
    return config_of(str(folder), data={"window": "sliding", "rows": 2_000}, runs={"keep": 2})


def undisturbed(parent: Processes, folder: object, n_runs: int) -> list[Run]:
    """What the runs come to if nothing happens to them."""
    done = []
    for i in range(n_runs):
        deliver(f"{folder}/rows.zarr", delivery(i, mu=DRIFT[i]))
        started = time.monotonic()
        (outcome,) = parent.run(config_in(folder))
        done.append(Run(outcome, state(folder), time.monotonic() - started))
    return done


def disturbed(parent: Processes, folder: object, whole: list[Run], rng: np.random.Generator) -> Iterator[Disturbed]:
    """The same runs, each killed at random moments until it ends before the next one."""
    for i, run in enumerate(whole):
        deliver(f"{folder}/rows.zarr", delivery(i, mu=DRIFT[i]))
        phases = []
        while True:
            latest = LATER * run.seconds * PATIENCE ** len(phases)
            (outcome,) = parent.run(config_in(folder), after=rng.uniform(0, latest))
            if outcome != KILLED:
                break
            phases.append(phase(folder))
        if outcome == "nothing new":  # killed when all was done but to say so
            outcome = run.outcome
        yield Disturbed(outcome, tuple(phases), outcome == run.outcome and state(folder) == run.state)


def sequences(service: Service, n_runs: int, rng: np.random.Generator) -> Iterator[Disturbed]:
    """Runs of one sequence after another."""
    with processes(service.environment) as parent, tempfile.TemporaryDirectory() as folder:
        whole = undisturbed(parent, f"{folder}/undisturbed", n_runs)
        for i in range(10**6):
            place = f"{folder}/{i}" if i % 2 == 0 else service.url(str(i))
            yield from disturbed(parent, place, whole, rng)


def table(done: list[Disturbed]) -> list[tuple[object, ...]]:
    """How many processes were killed in each phase."""
    phases = Counter(phase for run in done for phase in run.phases)
    other = sum(not run.equal for run in done)
    return [
        ("Killed when the run had", "Times"),
        *sorted(phases.items()),
        ("all", phases.total()),
        ("Runs that came to their end", len(done)),
        ("... with other bits, records or pointer", other),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.retraining.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--runs", type=int, default=len(DRIFT))
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    started, done = time.monotonic(), []
    with running() as service:
        os.environ.update(service.environment)
        for run in sequences(service, arguments.runs, np.random.default_rng(arguments.seed)):
            done.append(run)
            print(run, flush=True)
            n_kills = sum(len(found.phases) for found in done)
            if time.monotonic() - started > arguments.seconds or n_kills >= arguments.kills:
                break
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table(done))
    print(f"{n_kills} kills in {len(done)} runs, {time.monotonic() - started:.0f} s")
    return 0 if all(run.equal for run in done) else 1


if __name__ == "__main__":
    sys.exit(main())
