"""Ctrl-C ends a fit after a whole step, wherever it comes, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import dask_jobqueue.runner
import numpy as np
import pymc as pm
import pytest
from distributed import Client, LocalCluster

import dvi
from dvi.inference.elbo import Elbo

QUIET: dict[str, Any] = {"progressbar": False, "threads": 1}


@pytest.fixture(scope="module")
def model() -> pm.Model:
    y = np.random.default_rng(3).normal(2.0, 1.0, 2000)
    with pm.Model() as made:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=dvi.Minibatch(y, batch_size=200))
    return made


@pytest.fixture
def advi(model: pm.Model) -> dvi.ADVI:
    return dvi.ADVI(model=model, random_seed=1)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a cluster with one worker process."""
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as made:
        yield made


def bits(inference: dvi.Inference) -> tuple[bytes, bytes]:
    """Losses, and the parameters of the last step, before any averaging."""
    assert inference._state is not None
    assert inference._state.step == len(inference.hist)
    return inference.hist.tobytes(), inference._state.theta.tobytes()


def no_threads_left() -> bool:
    own = [t for t in threading.enumerate() if t.name.startswith("dvi-") and t.name != "dvi-lease"]
    for thread in own:
        thread.join(10)
    return not any(thread.is_alive() for thread in own)


class Interrupting:
    """The ELBO, where someone presses Ctrl-C during one step."""

    def __init__(self, step: int) -> None:
        self._elbo, self._left = Elbo("stl"), step

    def work(self, Z: Any, score: Any) -> None:
        """Nothing to share."""

    def gradient(self, *arguments: Any) -> Any:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt
        return self._elbo.gradient(*arguments)


@pytest.fixture(scope="module")
def undisturbed(model: pm.Model) -> tuple[bytes, bytes]:
    advi = dvi.ADVI(model=model, random_seed=1)
    advi.fit(30, obj_optimizer=dvi.adam(0.01), **QUIET)
    return bits(advi)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("step", [1, 2, 13])
def test_interrupted_during_a_step(model: pm.Model, undisturbed: Any, step: int, threads: int) -> None:
    inference = dvi.Inference(dvi.MeanField(model=model, random_seed=1), Interrupting(step))
    approx = inference.fit(30, obj_optimizer=dvi.adam(0.01), progressbar=False, threads=threads)
    assert len(approx.hist) == step - 1
    assert no_threads_left()
    inference.refine(31 - step)
    assert bits(inference) == undisturbed


@pytest.mark.parametrize("place", ["threads", "cluster"])
def test_interrupted_in_a_callback(
    advi: dvi.ADVI, place: str, undisturbed: Any, request: pytest.FixtureRequest
) -> None:
    where = QUIET if place == "threads" else {"progressbar": False, "client": request.getfixturevalue("client")}

    def interrupt(approx: Any, losses: Any, i: int) -> None:
        if i == 7:
            raise KeyboardInterrupt

    assert len(advi.fit(30, callbacks=[interrupt], obj_optimizer=dvi.adam(0.01), **where).hist) == 7
    advi.refine(23)
    assert bits(advi) == undisturbed


class PressLater:
    """Presses Ctrl-C while the steps after the first one run."""

    every = 1

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        self.every = 10**9
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()


def interrupted(advi: dvi.ADVI, **where: Any) -> None:
    """Interrupt a fit that would take hours, and compare with one of as many steps."""
    advi.fit(10**8, callbacks=[PressLater()], obj_optimizer=dvi.adam(0.01), progressbar=False, **where)
    done = len(advi.hist)
    assert 1 < done < 10**8
    found = bits(advi)
    again = dvi.ADVI(model=advi.approx.model, random_seed=1)
    again.fit(done, obj_optimizer=dvi.adam(0.01), **QUIET)
    assert bits(again) == found


@pytest.mark.parametrize("threads", [1, 3])
def test_interrupted_by_a_signal(advi: dvi.ADVI, threads: int) -> None:
    interrupted(advi, threads=threads)
    assert no_threads_left()


def test_interrupted_where_dask_jobqueue_has_taken_ctrl_c(advi: dvi.ADVI) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        importlib.reload(dask_jobqueue.runner)
        taken = signal.getsignal(signal.SIGINT)
        assert taken is not before
        interrupted(advi, threads=1)
        assert signal.getsignal(signal.SIGINT) is taken
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupted_on_a_cluster_which_stays_usable(advi: dvi.ADVI, client: Client) -> None:
    interrupted(advi, client=client)
    assert client.run_on_scheduler(actors) == []
    before = len(advi.hist)
    assert len(advi.fit(20, client=client, progressbar=False).hist) == before + 20
    assert client.run_on_scheduler(actors) == []


async def actors(dask_scheduler: Any) -> list[str]:
    """Actors that are left once the scheduler has heard that they are released."""
    deadline = time.monotonic() + 10
    while (left := [k for k, task in dask_scheduler.tasks.items() if task.actor]) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return left
