"""Where a run computes, for as long as it lasts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from dvi.errors import ClusterError, DviError
from dvi.retraining.kubernetes import kube_cluster

if TYPE_CHECKING:
    from dvi.retraining.config import ClusterConfig

_CONNECT_SECONDS = 60.0


@contextmanager
def computing(config: ClusterConfig) -> Iterator[Mapping[str, Any]]:
    """Keywords ``client`` and ``threads`` of :func:`dvi.fit` and its like.

    Raises
    ------
    ClusterError
        If there is no such cluster, or it does not start in time.
    """
    if config.kind == "threads":
        yield {"client": None, "threads": config.workers}
        return
    from distributed import Client

    deadline = time.monotonic() + config.start_seconds
    with ExitStack() as stack:
        try:
            cluster = config.address if config.kind == "address" else stack.enter_context(_cluster(config))
            client = stack.enter_context(Client(cluster, timeout=min(_CONNECT_SECONDS, config.start_seconds)))
            client.wait_for_workers(1, timeout=max(1, round(deadline - time.monotonic())))
        except DviError:
            raise
        except Exception as error:  # those of the operator's libraries have no base in common
            reason = str(error).rstrip(".")
            raise ClusterError(
                f"The cluster of kind {config.kind!r} is not there: {reason}. Try again; cluster.start_seconds = "
                f"{config.start_seconds:g} says how long its scheduler and its first worker may take."
            ) from error
        yield {"client": client, "threads": None}


def _cluster(config: ClusterConfig) -> Any:
    if config.kind == "local":
        from distributed import LocalCluster

        return LocalCluster(n_workers=config.workers, threads_per_worker=1, dashboard_address=":0")
    assert config.manifest is not None
    return kube_cluster(config.manifest, config.start_seconds)
