"""Worker processes against one, against threads, and against the bare round trip of a Dask actor."""

from __future__ import annotations

import asyncio
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytest
import zarr
from distributed import Client, LocalCluster

import dvi
from tests.benchmarks.bench_steps import binary, logistic
from tests.benchmarks.measuring import ROUNDS, Measurement, faster, in_turn, seconds_a_step

Report = Callable[[Measurement], None]
OPTIONS = {"threads_per_worker": 1, "dashboard_address": ":0"}
RUN = {"obj_n_mc": 1, "obj_optimizer": dvi.adam(1e-3), "progressbar": False}
ROWS = 600_000
STEPS = 60


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[int, Client]]:
    """Clients of clusters of one and of two worker processes."""
    with (
        LocalCluster(n_workers=1, **OPTIONS) as one, Client(one) as first,
        LocalCluster(n_workers=2, **OPTIONS) as two, Client(two) as second,
    ):  # fmt: skip
        yield {1: first, 2: second}


@pytest.fixture(scope="module")
def zarr_logistic(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], pm.Model]:
    """The logistic model on a store, so that workers read for themselves."""
    x, y = binary(ROWS, 20)
    folder = tmp_path_factory.mktemp("cluster")
    for name, values in {"x": x, "y": y}.items():
        chunks = (20_000, *values.shape[1:])
        zarr.create_array(folder / name, shape=values.shape, chunks=chunks, dtype="f8")[:] = values
    return functools.partial(stored_logistic, folder)


def stored_logistic(folder: Path, batch: int) -> pm.Model:
    x, y = dvi.Minibatch(zarr.open_array(folder / "x"), zarr.open_array(folder / "y"), batch_size=batch)
    with pm.Model() as model:
        pm.Bernoulli("y", logit_p=x @ pm.Normal("b", 0, 1, shape=20), observed=y)
    return model


def step(model: pm.Model, **where: Any) -> Callable[[int], object]:
    inference = dvi.ADVI(random_seed=1, model=model)
    inference.fit(5, **RUN, **where)
    return lambda n: inference.fit(n, **RUN, **where)


def alone(make: Callable[[int], pm.Model], batch: int) -> float:
    """Seconds of a step in the process of a worker, which has nothing to do with any other."""
    return seconds_a_step(step(make(batch), threads=1), STEPS)


def halves(client: Client, make: Callable[[int], pm.Model], batch: int) -> float:
    """Seconds of a step of half a batch in the process of every worker at the same time, of the slower one."""
    workers = sorted(client.scheduler_info()["workers"])
    return max(client.gather([client.submit(alone, make, batch // 2, workers=[w], pure=False) for w in workers]))


@pytest.mark.parametrize(("batch", "staleness", "target"), [(262_144, 0, 1.8), (65_536, 0, 1.6), (65_536, 1, 1.8)])
def bench_scaling(report: Report, clients: Any, zarr_logistic: Any, batch: int, staleness: int, target: float) -> None:
    """Two worker processes against one. They could do no more than two that do half of it each, without a word."""
    model = zarr_logistic(batch)
    two, one = (step(model, client=clients[n], staleness=staleness) for n in (2, 1))
    pairs = in_turn(lambda: seconds_a_step(two, STEPS), lambda: seconds_a_step(one, STEPS))
    least = statistics.median(halves(clients[2], zarr_logistic, batch) for _ in range(ROUNDS))
    behind = ", one step behind" if staleness else ""
    report(faster(8, f"two workers, logistic, batch {batch:,}{behind}", "one worker", pairs, target, least=least))


@pytest.mark.parametrize(("batch", "target"), [(262_144, 1 / 1.2), (8192, 0.0)])
def bench_against_threads(report: Report, clients: Any, zarr_logistic: Any, batch: int, target: float) -> None:
    """Two processes on one host against two threads in one process."""
    model = zarr_logistic(batch)
    two, threads = step(model, client=clients[2]), step(model, threads=2)
    pairs = in_turn(lambda: seconds_a_step(two, STEPS), lambda: seconds_a_step(threads, STEPS))
    report(faster(10, f"two workers, logistic, batch {batch:,}", "two threads", pairs, target))


class Echo:
    """An actor that answers at once, with as much as a lane host does."""

    def evaluate(self, step: int, Z: Any) -> Any:
        return np.concatenate([Z, Z[:, :1]], axis=1)


class Asker:
    """An actor that asks others, as the parameter server does."""

    async def ask(self, others: list[Any], d: int, n: int) -> float:
        Z = np.zeros((1, d))
        started = time.perf_counter()
        for i in range(n):
            await asyncio.gather(*(other.evaluate(i, Z) for other in others))
        return (time.perf_counter() - started) / n


@pytest.mark.parametrize("d", [200, 100_000, 1_000_000])
def bench_round_trip(report: Report, clients: Any, d: int) -> None:
    """What a step costs on two workers beyond the same step on a thread, against the bare round trip."""
    client, n = clients[2], max(20, min(200, 4_000_000 // d))
    rows = np.random.default_rng(0).normal(size=(max(2, 1_200_000 // d), d))  # of two chunks at least
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 1, shape=d), 1.0, observed=dvi.Minibatch(rows, batch_size=2))
    there, here = step(model, client=client, lanes=2), step(model, threads=1, lanes=2)
    workers = sorted(client.scheduler_info()["workers"])
    others = [client.submit(Echo, actor=True, workers=[w], pure=False).result() for w in workers]
    asker = client.submit(Asker, actor=True, workers=[workers[-1]], pure=False).result()
    pairs = in_turn(
        lambda: max(1e-9, seconds_a_step(there, n) - seconds_a_step(here, n)),
        lambda: asker.ask(others, d, n).result(),
    )
    report(faster(9, f"overhead of a step on two workers, d = {d:,}", "bare actor round trip", pairs, 1 / 1.3))


def bench_threads(report: Report) -> None:
    """Two threads against one, in one process."""
    model = logistic(dvi, 200_000, 100, 65_536)
    two, one = step(model, threads=2), step(model, threads=1)
    pairs = in_turn(lambda: seconds_a_step(two, STEPS), lambda: seconds_a_step(one, STEPS))
    report(faster(8, "two threads, logistic, batch 65,536", "one thread", pairs, 1.6, limit=2.0))
