"""Processes that die, stand still, leave or join during a fit change nothing but the time it takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pymc as pm
import pytest
from distributed import Client, LocalCluster

import dvi
from dvi.errors import ClusterError
from tests.integration.faults import FAULTS, PATIENCE, Injector, Site, site
from tests.integration.soak import Fit, tables
from tests.integration.undisturbed import SETTINGS, Undisturbed, disturbed, small_model


@pytest.fixture(scope="module")
def model() -> pm.Model:
    return small_model()


@pytest.fixture(scope="module")
def undisturbed(model: pm.Model) -> Undisturbed:
    return Undisturbed(model)


@pytest.fixture(scope="module")
def three_workers() -> Iterator[Site]:
    with site(3) as made:
        yield made


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_does_not_change_a_bit(
    model: pm.Model, undisturbed: Undisturbed, three_workers: Site, name: str
) -> None:
    injector = Injector(three_workers, [FAULTS[name]], np.random.default_rng(len(name)))
    assert undisturbed.equals(disturbed(model, three_workers, injector))
    assert bool(injector.kills) == ("killed" in name)


@pytest.mark.parametrize(
    "name",
    [
        "a worker with lanes is killed",
        "the worker with the parameter server is killed",
        "a worker joins, and one leaves",
    ],
)
def test_nor_where_hosts_have_the_following_step_already(model: pm.Model, three_workers: Site, name: str) -> None:
    injector = Injector(three_workers, [FAULTS[name]] * 2, np.random.default_rng(len(name)))
    found = disturbed(model, three_workers, injector, staleness=1)
    assert Undisturbed(model, staleness=1).equals(found)


@pytest.mark.parametrize("who", ["host", "server"])
def test_steps_go_on_while_a_worker_stands_still(
    model: pm.Model, undisturbed: Undisturbed, three_workers: Site, who: str
) -> None:
    def stall(site: Site, rng: np.random.Generator) -> int:
        victim = site.server() if who == "server" else site.hosts()[0]
        assert victim is not None
        pid, done = site.pids()[victim], len(injector.times)
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: len(injector.times) > done + 10)
        finally:
            os.kill(pid, signal.SIGCONT)
        return 0

    injector = Injector(three_workers, [stall], np.random.default_rng(0))
    assert undisturbed.equals(disturbed(model, three_workers, injector))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing has changed for too long"
        time.sleep(0.05)


def test_table_of_a_soak() -> None:
    fits = [Fit("all workers are killed", 6, 900, True, 2.0), Fit("all workers are killed", 6, 700, False, 4.0)]
    (_, *rows), _ = tables(fits, {}).values()
    assert rows == [("all workers are killed", 10, 12, 2, 1, "3.0"), ("all", 10, 12, 2, 1, "")]


@contextmanager
def processes(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler, which has a process of its own, and a worker that knows it from a file."""
    shared = ["--scheduler-file", str(folder / "scheduler.json"), "--dashboard-address", ":0"]
    parts = {"scheduler": ["--host", "127.0.0.1", "--port", "0"], "worker": ["--nthreads", "1"]}
    with ExitStack() as stack:
        started = []
        for part, own in parts.items():
            command = [sys.executable, "-m", f"distributed.cli.dask_{part}", *own, *shared]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
            started.append(process)
        yield started[0]


def test_a_killed_scheduler_ends_in_one_clear_error(model: pm.Model, tmp_path: Path) -> None:
    def kill(approx: Any, losses: Any, i: int) -> None:
        if i == 100:
            scheduler.send_signal(signal.SIGKILL)

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "5s"}),
        processes(tmp_path) as scheduler,
        Client(scheduler_file=str(tmp_path / "scheduler.json")) as client,
    ):
        with pytest.raises(ClusterError, match=r"the Dask scheduler cannot be reached: .*resume a checkpoint"):
            dvi.fit(10**8, model=model, random_seed=7, client=client, callbacks=[kill], progressbar=False)
        while client.status != "closed":  # by itself, once it gives up; to close it before that takes longer
            time.sleep(0.1)


def test_no_worker_for_too_long_ends_in_one_clear_error(model: pm.Model) -> None:
    with (
        dask.config.set({"dvi.wait-for-workers": "0.2s"}),
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        pytest.raises(ClusterError, match=r"had no worker for 200.00 ms; start workers .*dvi\.wait-for-workers"),
    ):
        dvi.fit(300, model=model, random_seed=7, client=client, progressbar=False)


def test_an_active_client_is_used(model: pm.Model, undisturbed: Undisturbed) -> None:
    hosts: list[int] = []
    found = dvi.ADVI(model=model, random_seed=7)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        found.fit(300, callbacks=[lambda *_: hosts.append(len(client.run_on_scheduler(actors)))], **SETTINGS)
    assert undisturbed.equals(found)
    assert hosts[-1] == 3  # a host on each worker, and the server


def actors(dask_scheduler: Any) -> list[str]:
    return [key for key, task in dask_scheduler.tasks.items() if task.actor]


def test_an_asynchronous_client_is_refused(model: pm.Model) -> None:
    class Asynchronous:
        asynchronous = True

    with pytest.raises(ClusterError, match="asynchronous"):
        dvi.fit(300, model=model, random_seed=7, client=Asynchronous(), progressbar=False)


def test_workers_that_cannot_start_end_in_one_clear_error(model: pm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvi.execution import cluster as cluster_module

    def refuse(*_: Any) -> None:
        raise OSError("the package is broken here")

    monkeypatch.setattr(cluster_module.LaneHost, "__init__", refuse)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        pytest.raises(ClusterError, match=r"no step could be done in 21 attempts.*the package is broken here"),
    ):
        dvi.fit(300, model=model, random_seed=7, client=client, progressbar=False)
