"""Workers that die or join during a fit change nothing but the time it takes."""

from __future__ import annotations

import os
import signal
from typing import Any

import dask
import numpy as np
import pymc as pm
import pytest
from distributed import Client, LocalCluster

import dvi
from dvi.errors import ClusterError


@pytest.fixture(scope="module")
def model() -> pm.Model:
    y = np.random.default_rng(0).normal(1.0, 2.0, 60_000)
    with pm.Model() as made:
        pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sd"), observed=dvi.Minibatch(y, batch_size=8192))
    return made


@pytest.fixture(scope="module")
def undisturbed(model: pm.Model) -> bytes:
    return dvi.fit(300, model=model, random_seed=7, threads=1, progressbar=False).theta.tobytes()


class Kill:
    """A callback that kills the worker at a position in the list of workers, at one step."""

    def __init__(self, client: Client, step: int, position: int) -> None:
        self.client, self.step, self.position, self.done = client, step, position, False

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        if i >= self.step and not self.done:
            self.done = True
            pids = self.client.run(os.getpid)
            os.kill(pids[sorted(pids)[self.position]], signal.SIGKILL)


@pytest.mark.parametrize("position", [0, 1], ids=["with the server", "with lanes only"])
def test_a_killed_worker_does_not_change_a_bit(model: pm.Model, undisturbed: bytes, position: int) -> None:
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "600s"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        kill = Kill(client, 100, position)
        approx = dvi.fit(300, model=model, random_seed=7, client=client, callbacks=[kill], progressbar=False)
    assert kill.done
    assert approx.theta.tobytes() == undisturbed


def test_workers_that_join_get_lanes(model: pm.Model, undisturbed: bytes) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):

        def grow(approx: Any, losses: Any, i: int) -> None:
            if i == 50:
                cluster.scale(3)
                client.wait_for_workers(3)

        approx = dvi.fit(300, model=model, random_seed=7, client=client, callbacks=[grow], progressbar=False)
    assert approx.theta.tobytes() == undisturbed


def test_an_active_client_is_used(model: pm.Model, undisturbed: bytes) -> None:
    hosts: list[int] = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        count = [lambda *_: hosts.append(len(client.run_on_scheduler(actors)))]
        approx = dvi.fit(300, model=model, random_seed=7, callbacks=count, progressbar=False)
    assert approx.theta.tobytes() == undisturbed
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
