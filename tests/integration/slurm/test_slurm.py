"""Fits on the jobs of a real Slurm of two nodes, which up.sh starts on this machine."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytest
from distributed import Client

import dvi

HERE = Path(__file__).parent
DEPLOY = HERE.parents[2] / "deploy" / "slurm"
STEPS = 300
STEPS_OF_DRIVER = 10_000
PATIENCE = 300.0  # seconds, for what takes a few on an idle machine

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("slurmctld") and shutil.which("munged")),
        reason="no Slurm here; `make test-slurm` installs it",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemons of Slurm are started by root"),
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm of this module's own."""
    root = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVI_SLURM", str(root))
        patch.setenv("SLURM_CONF", str(root / "slurm.conf"))
        try:
            subprocess.run([HERE / "up.sh"], check=True, stdout=subprocess.DEVNULL)
            yield
        finally:
            subprocess.run([HERE / "down.sh"], check=True)


@pytest.fixture(scope="module")
def model() -> pm.Model:
    y = np.random.default_rng(0).normal(1.0, 2.0, 60_000)
    with pm.Model() as made:
        pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sd"), observed=dvi.Minibatch(y, batch_size=8192))
    return made


@pytest.fixture(scope="module")
def undisturbed(model: pm.Model) -> bytes:
    return dvi.fit(STEPS, model=model, random_seed=7, threads=1, progressbar=False).theta.tobytes()


@contextmanager
def jobs(n: int, folder: Path, **settings: Any) -> Iterator[tuple[Any, Client]]:
    """A cluster that is kept at some jobs, all of which have a worker, and its client."""
    from dask_jobqueue import SLURMCluster

    dashboard = {"dashboard_address": ":0"}
    with (
        SLURMCluster(
            cores=1,
            processes=1,
            memory="1GB",
            interface="lo",
            log_directory=str(folder),
            scheduler_options=dashboard,
            **settings,
        ) as cluster,
        Client(cluster) as client,
        dvi.cluster.keep(cluster),
    ):
        cluster.scale(jobs=n)
        client.wait_for_workers(n, timeout=PATIENCE)
        yield cluster, client


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing has changed for too long"
        time.sleep(0.1)


def ids(cluster: Any) -> set[str]:
    return {job.job_id for job in cluster.workers.values()}


class Disturb:
    """A callback that does something to a cluster after 100 steps, and after 200 waits until the cluster is whole."""

    every = 100

    def __init__(self, cluster: Any, client: Client, act: Callable[[], Any]) -> None:
        self.cluster, self.client, self.act = cluster, client, act
        self.before = ids(cluster)

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        if i == 100:
            self.act()
        elif i == 200:
            until(lambda: not self.before <= ids(self.cluster) and len(self.client.nthreads()) == len(self.before))


def fitted(model: pm.Model, client: Client, *callbacks: Any) -> bytes:
    approx = dvi.fit(STEPS, model=model, random_seed=7, client=client, callbacks=[*callbacks], progressbar=False)
    return approx.theta.tobytes()


def test_two_jobs_give_the_bits_of_threads(model: pm.Model, undisturbed: bytes, tmp_path: Path) -> None:
    with jobs(2, tmp_path) as (_, client):
        assert fitted(model, client) == undisturbed


def test_a_cancelled_job_is_replaced(model: pm.Model, undisturbed: bytes, tmp_path: Path) -> None:
    with jobs(2, tmp_path) as (cluster, client):
        first = min(ids(cluster))
        disturb = Disturb(cluster, client, lambda: subprocess.run(["scancel", first], check=True))
        assert fitted(model, client, disturb) == undisturbed
        assert first not in ids(cluster)
        assert len(ids(cluster)) == len(client.nthreads()) == 2


def test_a_killed_job_is_replaced_under_adapt(model: pm.Model, undisturbed: bytes, tmp_path: Path) -> None:
    with jobs(2, tmp_path) as (cluster, client):
        cluster.adapt(minimum=2, maximum=2)
        first = min(ids(cluster))
        kill = ["scancel", "--full", "--signal=KILL", first]
        assert fitted(model, client, Disturb(cluster, client, lambda: subprocess.run(kill, check=True))) == undisturbed
        assert first not in ids(cluster)


def test_jobs_that_are_refused_are_submitted_again(tmp_path: Path) -> None:
    def partition(state: str) -> None:
        subprocess.run(["scontrol", "update", "partitionname=debug", f"state={state}"], check=True)

    with jobs(1, tmp_path) as (cluster, client):
        partition("INACTIVE")
        try:
            cluster.scale(jobs=2)
            until(lambda: None in ids(cluster))
        finally:
            partition("UP")
        client.wait_for_workers(2, timeout=PATIENCE)


class EndRenewed:
    """A callback that ends a fit once it is done by others than the workers that it began with."""

    every = 200

    def __init__(self, client: Client) -> None:
        self.client, self.first = client, set(client.nthreads())

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        here = set(self.client.nthreads())
        if here and here.isdisjoint(self.first):
            raise StopIteration


def test_workers_leave_before_a_walltime_of_one_minute(model: pm.Model, tmp_path: Path) -> None:
    lifetime = ["--lifetime", "30s", "--lifetime-stagger", "10s"]
    settings = {"obj_optimizer": dvi.adam(0.01), "progressbar": False}
    with jobs(2, tmp_path, walltime="00:01:00", worker_extra_args=lifetime) as (_, client):
        found = dvi.ADVI(model=model, random_seed=7)
        found.fit(10**8, client=client, callbacks=[EndRenewed(client)], **settings)
    expected = dvi.ADVI(model=model, random_seed=7)
    expected.fit(len(found.hist), threads=1, **settings)
    assert found.hist.tobytes() == expected.hist.tobytes()
    assert "DUE TO TIME LIMIT" not in "".join(path.read_text("utf-8") for path in tmp_path.glob("*.err"))


# dask-jobqueue leaves it to the garbage collector to close, and so delete, the files of the certificate.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_over_tls(model: pm.Model, undisturbed: bytes, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="cryptography makes the certificate")
    with jobs(2, tmp_path, security=True, shared_temp_directory=str(tmp_path)) as (_, client):
        assert all(address.startswith("tls://") for address in client.nthreads())
        assert fitted(model, client) == undisturbed


def test_the_driver_goes_on_where_its_time_was_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("jobqueue.yaml", "driver.sh", "fit.py"):
        shutil.copy(DEPLOY / name, tmp_path)
    rng = np.random.default_rng(0)
    dvi.ingest(
        {"x": rng.normal(size=(40_000, 3)), "y": rng.normal(size=40_000)}, tmp_path / "rows.zarr", chunk_bytes=200_000,
        progressbar=False,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("DASK_CONFIG", "jobqueue.yaml")
    for key, value in {"CORES": "1", "MEMORY": "1GB", "INTERFACE": "lo"}.items():
        monkeypatch.setenv(f"DASK_JOBQUEUE__SLURM__{key}", value)
    job = output(
        "sbatch", "--parsable", "driver.sh", "fit.py", "rows.zarr", "run.zarr", "--jobs=2", f"--steps={STEPS_OF_DRIVER}"
    )
    log = tmp_path / f"dvi-driver-{job}.log"

    until(lambda: log.exists() and "step 1,000:" in log.read_text("utf-8"))
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)  # as Slurm does before the time is up
    until(lambda: state(job) == "PENDING")  # for two minutes, as all jobs that are requeued
    until(lambda: state(job) not in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"})

    text = log.read_text("utf-8")
    assert state(job) == "COMPLETED", text
    assert "back to the queue" in text
    assert text.count("step 1,000:") == text.count(f"step {STEPS_OF_DRIVER:,}:") == 1
    build = runpy.run_path("fit.py")["build"]
    expected = dvi.fit(STEPS_OF_DRIVER, model=build("rows.zarr"), random_seed=1, threads=1, progressbar=False)
    assert dvi.load("run.zarr").theta.tobytes() == expected.theta.tobytes()


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def state(job: str) -> str:
    return output("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
