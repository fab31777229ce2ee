"""Jobs that end are replaced. Real worker processes, submitted by commands that take the place of Slurm's.

tests/integration/slurm does the same on a real Slurm, where it is installed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask_jobqueue import SLURMCluster
from distributed import Client

import dvi
from dvi.errors import ArgumentTypeError

PATIENCE = 120.0
COMMANDS = {
    "sbatch": '[ ! -e closed ] || { echo "the queue is closed" >&2; exit 1; }\n'
    'cp "$1" script.$$; setsid bash script.$$ > job.log 2>&1 & touch jobs/$!; echo "Submitted batch job $!"',
    "squeue": 'for job in $(ls jobs); do ! pgrep -g $job > /dev/null || echo "$job RUNNING"; done',
    "scancel": "pkill -g $1; true",
}


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with commands of a batch system, whose jobs are process groups."""
    (tmp_path / "jobs").mkdir()
    for name, script in COMMANDS.items():
        command = tmp_path / name
        command.write_text(f"#!/bin/bash\ncd {tmp_path}\n{script}\n", "utf-8")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


@pytest.fixture
def cluster(queue: Path) -> Iterator[Any]:
    with SLURMCluster(
        cores=1, processes=1, memory="1GB", interface="lo", scheduler_options={"dashboard_address": ":0"}
    ) as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing has changed for too long"
        time.sleep(0.05)


def test_a_job_that_ends_is_replaced(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Client(cluster) as client, dvi.cluster.keep(cluster):
        cluster.scale(jobs=1)
        client.wait_for_workers(1, timeout=PATIENCE)
        (first,) = client.nthreads()
        ((name, job),) = cluster.workers.items()
        os.killpg(int(job.job_id), signal.SIGKILL)
        until(lambda: list(client.nthreads()) not in ([], [first]))
        assert len(cluster.worker_spec) == 1
    assert f"{name} has lost its job ({job.job_id}); another is submitted" in caplog.messages


def test_a_job_that_is_refused_is_submitted_again(cluster: Any, queue: Path) -> None:
    (queue / "closed").touch()
    with Client(cluster) as client, dvi.cluster.keep(cluster):
        cluster.scale(jobs=1)
        until(lambda: [job.job_id for job in cluster.workers.values()] == [None])
        (queue / "closed").unlink()
        client.wait_for_workers(1, timeout=PATIENCE)


def test_without_it_a_job_that_ends_is_gone(cluster: Any) -> None:
    with Client(cluster) as client:
        cluster.scale(jobs=1)
        client.wait_for_workers(1, timeout=PATIENCE)
        (job,) = cluster.workers.values()
        os.killpg(int(job.job_id), signal.SIGKILL)
        until(lambda: not client.nthreads())
        cluster.scale(jobs=1)
        assert [job] == list(cluster.workers.values())


def test_other_clusters_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="keep\\(\\) was given a str; give a cluster of dask-jobqueue"):
        dvi.cluster.keep("cluster").__enter__()
