"""Keeping a cluster of batch jobs at its size while jobs come to their end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from dvi.errors import ArgumentTypeError

__all__ = ["keep"]

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0  # between looks at the workers, which ask nobody
_MOST_SECONDS = 60.0  # between questions to the batch system about jobs that wait, or that end as soon as they start
_SQUEUE = ("squeue", "--me", "--noheader", "--format=%A %T")


@contextmanager
def keep(cluster: Any) -> Iterator[None]:
    """Replace the jobs of a cluster that end, for as long as a ``with`` block runs.

    A batch job ends at its walltime, by ``scancel``, by preemption or with its node. The cluster of dask-jobqueue goes
    on without it: it forgets the job after ``distributed.deploy.lost-worker-timeout`` (15 s), and submits another only
    when ``scale()`` is called again after that. Here the same number of jobs is asked for until it is there, be it the
    number of ``scale()`` or of ``adapt()``. A Slurm job without a worker is replaced as soon as ``squeue`` no longer
    lists it; one that is listed waits in the queue, or restarts its worker, and is left alone. Of other batch systems a
    job is replaced once Dask has forgotten it.

    Parameters
    ----------
    cluster : dask_jobqueue.JobQueueCluster
        ``SLURMCluster``, ``PBSCluster``, ``SGECluster``, ...

    Raises
    ------
    ArgumentTypeError
        For any other cluster. ``LocalCluster`` and ``KubeCluster`` restart their workers by themselves.

    Notes
    -----
    Where a job ends as soon as it starts, or cannot be submitted, the next attempts follow after 1, 2, 4, ... seconds,
    and then once a minute. Every replacement is logged as a warning.

    Examples
    --------
    >>> from distributed import Client
    >>> from dask_jobqueue import SLURMCluster  # doctest: +SKIP
    >>> with SLURMCluster(cores=16, memory="64GB") as cluster, Client(cluster) as client:  # doctest: +SKIP
    ...     cluster.scale(jobs=8)
    ...     with dvi.cluster.keep(cluster):
    ...         approx = dvi.fit(100_000, model=model, client=client)
    """
    if not hasattr(cluster, "job_cls"):
        raise ArgumentTypeError(
            f"keep() was given a {type(cluster).__name__}; give a cluster of dask-jobqueue, such as SLURMCluster: "
            "others restart their workers by themselves"
        )
    watch = asyncio.run_coroutine_threadsafe(_watch(cluster), cluster.loop.asyncio_loop)
    watch.add_done_callback(_report)
    try:
        yield
    finally:
        watch.cancel()


def _report(watch: Future[None]) -> None:
    """Log what ended a watch before its time."""
    if not watch.cancelled() and watch.exception() is not None:
        logger.error("jobs that end are no longer replaced", exc_info=watch.exception())


async def _watch(cluster: Any) -> None:
    """Look at the workers every second, and replace what is lost. Runs on the cluster's own event loop."""
    here: set[Any] = set()
    pause, due = _LOOK_SECONDS, 0.0
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        before, here = here, cluster.observed
        if here != before:
            pause, due = _LOOK_SECONDS, 0.0
        missing = [name for name, spec in cluster.worker_spec.items() if here.isdisjoint(_workers(name, spec))]
        if missing and time.monotonic() >= due:
            _replace(cluster, await _lost(cluster, missing))
            due = time.monotonic() + pause
            pause = min(2 * pause, _MOST_SECONDS)


def _workers(name: Any, spec: dict[str, Any]) -> list[Any]:
    """Names of the workers of a job."""
    return [f"{name}{suffix}" for suffix in spec["group"]] if "group" in spec else [name]


async def _lost(cluster: Any, missing: list[Any]) -> list[Any]:
    """The jobs that could not be submitted, or that the batch system no longer has: they never get a worker."""
    jobs = {name: cluster.workers[name].job_id for name in missing if name in cluster.workers}
    listed = await _listed(cluster)  # after the jobs are known: one that is submitted meanwhile may not be in it
    lost = [name for name, job in jobs.items() if job is None or (listed is not None and job not in listed)]
    return [name for name in lost if name in cluster.worker_spec]


async def _listed(cluster: Any) -> set[str] | None:
    """Ids of the jobs that wait, start or run; None where the batch system does not say."""
    if cluster.job_cls.submit_command != "sbatch":
        return None
    process = await asyncio.create_subprocess_exec(*_SQUEUE, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        return None
    rows = [line.split() for line in output.decode().splitlines()]
    return {job for job, state in rows if state != "COMPLETING"}


def _replace(cluster: Any, lost: list[Any]) -> None:
    """Submit a job for each one that is lost, and those that Dask has forgotten.

    The new job has a new name: whatever Dask still has to do about the old one, it does by name.
    """
    from distributed import Status

    for name in lost:
        job = cluster.workers[name]
        logger.warning("%s has lost its job (%s); another is submitted", name, job.job_id or "refused")
        job.status = Status.failed  # a job that was refused stays "created", which the cluster would not close
        cluster.worker_spec.update(cluster.new_worker_spec())
        del cluster.worker_spec[name]
    cluster.scale(jobs=len(cluster.worker_spec))
