"""Where a fit runs: on the workers of a Dask client, or on the threads of this process."""

from __future__ import annotations

import os
import sys
from typing import Any

from dvi.execution.lane import Problem
from dvi.execution.threads import ThreadsDriver
from dvi.types import Driver, Training


def open_driver(training: Training, problem: Problem, client: Any, threads: int | None) -> Driver:
    """The rule: the client that is given, or the active one where threads are not asked for; else threads.

    Parameters
    ----------
    training : Training
    problem : Problem
    client : distributed.Client, optional
    threads : int, optional
        The cores at hand by default.
    """
    if client is None and threads is None and "distributed" in sys.modules:
        from dvi.execution.cluster import active_client

        client = active_client()
    if client is None or not problem.leaves:
        return ThreadsDriver(training, problem, threads or len(os.sched_getaffinity(0)))
    from dvi.execution.cluster import ClusterDriver, warn_of_plain_text

    driver = ClusterDriver(client, training, problem)
    warn_of_plain_text(client)
    return driver
