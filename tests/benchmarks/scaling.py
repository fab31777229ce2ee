"""How the time of a step depends on the number of worker processes: three numbers, checked, and carried further.

``python -m tests.benchmarks.scaling > docs/explanation/scaling.csv`` writes the table of the documentation.

With ``H`` workers that have a core each, a step of ``B`` rows takes ``B r / H + a + b (H - 1)`` seconds: ``r`` is what
a core needs for a row, ``a`` what a step costs anyhow, and ``b`` what the server does for each host but its own. ``a``
and ``b`` are those of a line through the times of a step that has hardly any rows; ``r`` is that of one worker. Where
there are fewer cores than workers, the rows are shared by the cores, and a part of ``b`` is what the hosts do.
"""

from __future__ import annotations

import csv
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
from distributed import Client, LocalCluster

import dvi
from tests.benchmarks.bench_steps import logistic
from tests.benchmarks.measuring import ROUNDS, seconds_a_step

MEASURED, FURTHER = (1, 2, 4, 8), (64, 1000)
FEATURES, BATCH, LARGE = 20, 262_144, 2**26  # rows of a step that is measured, and of one that is not
RUN = {"obj_n_mc": 1, "obj_optimizer": dvi.adam(1e-3), "progressbar": False, "lanes": 16}


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds: of a row, of a step, and of a host in a step that is not the server's own."""

    row: float
    step: float
    host: float

    def seconds(self, rows: int, hosts: int, cores: float = np.inf) -> float:
        """Of a step."""
        return rows * self.row / min(hosts, cores) + self.step + self.host * (hosts - 1)


@contextmanager
def steps(model: pm.Model, hosts: int) -> Iterator[Callable[[int], object]]:
    """Runs a number of steps on as many worker processes of one thread."""
    with (
        LocalCluster(n_workers=hosts, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        inference = dvi.ADVI(random_seed=1, model=model)
        inference.fit(5, client=client, **RUN)
        yield lambda n: inference.fit(n, client=client, **RUN)


def measured(model: pm.Model, hosts: int, n: int) -> float:
    """Seconds of a step: the median of some rounds."""
    with steps(model, hosts) as run:
        return statistics.median(seconds_a_step(run, n) for _ in range(ROUNDS))


def main() -> None:
    """Measure, fit, check, print."""
    small, large = logistic(dvi, 6400, FEATURES, 64), logistic(dvi, BATCH, FEATURES, BATCH)
    idle = [measured(small, hosts, 200) for hosts in MEASURED]
    busy = [measured(large, hosts, 20) for hosts in MEASURED]
    host, step = np.polyfit(np.subtract(MEASURED, 1), idle, 1)
    cost = Cost((busy[0] - step) / BATCH, step, host)
    cores = os.cpu_count() or 1
    print({"cores": cores, "row": cost.row, "step": step, "host": host, "idle": idle}, file=sys.stderr)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(
        ["workers", "measured, ms", f"model, {cores} cores, ms", "model, a core each, ms", "speed-up",
         f"{LARGE:,} rows: speed-up"]
    )  # fmt: skip
    for hosts, seconds in zip((*MEASURED, *FURTHER), (*busy, *[None] * len(FURTHER)), strict=True):
        here = "" if seconds is None else f"{1e3 * cost.seconds(BATCH, hosts, cores):.1f}"
        table.writerow(
            [hosts, "" if seconds is None else f"{1e3 * seconds:.1f}", here, *_further(cost, hosts)]
        )  # fmt: skip


def _further(cost: Cost, hosts: int) -> list[Any]:
    small, large = (cost.seconds(rows, 1) / cost.seconds(rows, hosts) for rows in (BATCH, LARGE))
    return [f"{1e3 * cost.seconds(BATCH, hosts):.1f}", f"{small:.1f}", f"{large:.0f}"]


if __name__ == "__main__":
    main()
