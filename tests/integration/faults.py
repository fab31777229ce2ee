"""What can happen to the processes of a cluster, done to a LocalCluster on purpose."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context

from dvi.execution.cluster import driver

PATIENCE = 300.0  # seconds for a cluster to be whole again
STALL = 4.0  # seconds that a process stands still
_CALM = 5  # hundreds of steps after the last fault
STEP_SECONDS = 1.0  # after which a host is given up, in place of 10 s


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster of worker processes that nannies start again, and what may be done to it."""

    cluster: LocalCluster
    client: Client
    n_workers: int

    def pids(self) -> dict[str, int]:
        """Process of every live worker by address."""
        nannies = [nanny for nanny in self.cluster.workers.values() if nanny.worker_address is not None]
        here = self.client.nthreads()
        return {nanny.worker_address: nanny.pid for nanny in nannies if nanny.worker_address in here}

    def server(self) -> str | None:
        """Address of the worker with the parameter server."""
        address: str | None = self.client.run_on_scheduler(server_address)
        return address

    def hosts(self) -> list[str]:
        """Addresses of the workers with lanes only."""
        server = self.server()
        return sorted(address for address in self.pids() if address != server)

    def kill(self, addresses: Sequence[str]) -> int:
        """Kill processes, wait until the scheduler knows, and say how many they were."""
        pids = self.pids()
        for address in addresses:
            os.kill(pids[address], signal.SIGKILL)
        self._until(lambda: self.client.nthreads().keys().isdisjoint(addresses))
        return len(addresses)

    def wait(self, n_workers: int) -> None:
        """Wait until a number of workers is there."""
        self._until(lambda: len(self.client.nthreads()) == n_workers)

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"after {PATIENCE} s: {self.client}"
            time.sleep(0.02)


def server_address(dask_scheduler: Any) -> str | None:
    """Address of the worker that holds the parameter server."""
    for key, task in dask_scheduler.tasks.items():
        if str(key).startswith("ParameterServer") and task.who_has:
            return str(next(iter(task.who_has)).address)
    return None


def kill_a_host(site: Site, rng: np.random.Generator) -> int:
    return site.kill([rng.choice(site.hosts())])


def kill_the_server(site: Site, rng: np.random.Generator) -> int:
    return site.kill([address for address in [site.server()] if address is not None])


def kill_two(site: Site, rng: np.random.Generator) -> int:
    return site.kill(rng.permutation(sorted(site.pids()))[:2])


def kill_all_but_one(site: Site, rng: np.random.Generator) -> int:
    return site.kill(rng.permutation(sorted(site.pids()))[1:])


def kill_all(site: Site, rng: np.random.Generator) -> int:
    return site.kill(sorted(site.pids()))


def stall_a_host(site: Site, rng: np.random.Generator) -> int:
    """It comes back late, when its lanes are with others."""
    site.client.run(give_up_early)
    pid = site.pids()[rng.choice(site.hosts())]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(STALL)
    os.kill(pid, signal.SIGCONT)
    return 0


def give_up_early() -> None:
    """Runs on a worker."""
    from dvi.execution.cluster import asking

    asking.STEP_SECONDS = STEP_SECONDS


def stall_the_server(site: Site, rng: np.random.Generator) -> int:
    """It comes back when another server has gone on."""
    patience, driver.STEP_SECONDS = driver.STEP_SECONDS, STEP_SECONDS
    try:
        pid = site.pids()[site.server() or site.hosts()[0]]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STALL)
        os.kill(pid, signal.SIGCONT)
    finally:
        driver.STEP_SECONDS = patience
    return 0


def retire(site: Site, rng: np.random.Generator) -> int:
    """Adaptive scaling thinks that a cluster of actors has nothing to do."""
    adaptive = site.cluster.adapt(minimum=1, maximum=1, interval="50ms", wait_count=1)
    site.wait(1)
    adaptive.stop()
    site.cluster.scale(site.n_workers)
    return 0


def add(site: Site, rng: np.random.Generator) -> int:
    site.cluster.scale(site.n_workers + 1)
    site.wait(site.n_workers + 1)
    site.cluster.scale(site.n_workers)
    return 0


type Fault = Callable[[Site, np.random.Generator], int]  # does it, and returns how many processes were killed

FAULTS: dict[str, Fault] = {
    "a worker with lanes is killed": kill_a_host,
    "the worker with the parameter server is killed": kill_the_server,
    "two workers are killed at once": kill_two,
    "all workers but one are killed": kill_all_but_one,
    "all workers are killed": kill_all,
    "a worker stands still and comes back": stall_a_host,
    "the worker with the parameter server does so": stall_the_server,
    "adaptive scaling retires all workers but one": retire,
    "a worker joins, and one leaves": add,
}


@contextmanager
def site(n_workers: int) -> Iterator[Site]:
    """A cluster for faults, whose processes come back soon: forked from one that has imported what they need.

    Dask would drop a worker for good that is away for 15 s.
    """
    settings = {
        "distributed.deploy.lost-worker-timeout": "600s",
        "distributed.worker.multiprocessing-method": "forkserver",
    }
    with dask.config.set(settings):
        get_mp_context().set_forkserver_preload(["pymc", "dvi.execution.cluster"])
        with (
            LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            yield Site(cluster, client, n_workers)


class Injector:
    """A callback that ends a fit once faults have happened, each while steps run and all workers are there.

    Parameters
    ----------
    site : Site
    faults : list of callables
    rng : numpy.random.Generator
        Decides on the moments and the victims.

    Attributes
    ----------
    kills : int
        Processes killed.
    times : list of float
        When every hundredth step was done.
    """

    every = 100

    def __init__(self, site: Site, faults: Sequence[Fault], rng: np.random.Generator) -> None:
        self.kills = 0
        self._left = _CALM
        self._site, self._faults, self._rng = site, faults, rng
        self._thread = threading.Thread(target=self._run, name="faults")
        self._went_on = threading.Event()
        self._error: BaseException | None = None
        self.times: list[float] = []

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        self.times.append(time.monotonic())
        self._went_on.set()
        if len(self.times) == 1:
            self._thread.start()
        elif not self._thread.is_alive():
            if self._error is not None:
                raise self._error
            self._left -= 1
            if not self._left:
                raise StopIteration

    @property
    def seconds_lost(self) -> float:
        """By each fault: what steps took more than so many undisturbed ones."""
        gaps = np.diff(self.times)
        return float(np.sum(gaps - np.median(gaps))) / len(self._faults)

    def _run(self) -> None:
        try:
            for fault in self._faults:
                self._went_on.clear()
                assert self._went_on.wait(PATIENCE), "no step was done"
                time.sleep(self._rng.uniform(0.0, 1.0))
                self.kills += fault(self._site, self._rng)
                self._site.wait(self._site.n_workers)
        except BaseException as error:
            self._error = error
