"""The workers of a cluster: how long to wait where there is none, and what each of them sets for itself."""

from __future__ import annotations

import ctypes
import sys
import time

import dask
from dask.utils import format_time, parse_timedelta
from distributed import Client

from dvi.errors import ClusterError

_WAIT = "dvi.wait-for-workers"  # key of Dask's configuration
_WAIT_SECONDS = 60.0  # where it is not set


def live_workers(client: Client) -> dict[str, int]:
    """Threads of every live worker by address.

    Raises
    ------
    ClusterError
        If the scheduler is gone.
    """
    try:
        if client.status == "closed":  # as it does by itself, some time after the scheduler went
            raise OSError("the client is closed")
        threads = client.nthreads()
    except OSError as error:
        raise ClusterError(
            f"the Dask scheduler cannot be reached: {error}; start a cluster and call again, or resume a checkpoint"
        ) from error
    return {str(address): int(n) for address, n in sorted(threads.items())}


def wait_for_workers(client: Client) -> dict[str, int]:
    """The live workers, once there is one.

    This is the rule for how long that may take: ``dvi.wait-for-workers`` of Dask's configuration, a minute by default.

    Raises
    ------
    ClusterError
        If it takes longer.
    """
    seconds = float(parse_timedelta(dask.config.get(_WAIT, _WAIT_SECONDS)))
    deadline = time.monotonic() + seconds
    while not (workers := live_workers(client)):
        if time.monotonic() > deadline:
            address = client.scheduler_info(n_workers=0)["address"]
            raise ClusterError(
                f"the Dask cluster at {address} had no worker for {format_time(seconds)}; start "
                "workers (cluster.scale(n)) and call again, or resume a checkpoint. Where workers wait in a queue, set "
                f"{_WAIT} in Dask's configuration to the time they may take"
            )
        time.sleep(0.1)
    return workers


def tune_allocator() -> None:
    """Let glibc keep freed memory: Dask's nanny sets it to return every large temporary to the system."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt(m_trim_threshold, 512 * 2**20)
    mallopt(m_mmap_threshold, 32 * 2**20)
