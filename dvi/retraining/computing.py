"""Where a run computes, for as long as it lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvi.errors import ArgumentError, ClusterError, DviError

if TYPE_CHECKING:
    from dvi.retraining.config import ClusterConfig

logger = logging.getLogger(__name__)

_CONNECT_SECONDS, _WORKER_SECONDS, _CLOSE_SECONDS = 60, 600, 60


@contextmanager
def computing(config: ClusterConfig) -> Iterator[Mapping[str, Any]]:
    """Keywords ``client`` and ``threads`` of :func:`dvi.fit` and its like.

    Raises
    ------
    ClusterError
        If there is no such cluster, or it does not start.
    """
    if config.kind == "threads":
        yield {"client": None, "threads": config.workers}
        return
    from distributed import Client

    with ExitStack() as stack:
        try:
            cluster = config.address if config.kind == "address" else stack.enter_context(_cluster(config))
            client = stack.enter_context(Client(cluster, timeout=_CONNECT_SECONDS))
            client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except DviError:
            raise
        except Exception as error:  # those of the operator's libraries have no base in common
            raise ClusterError(f"The cluster of kind {config.kind!r} is not there: {error}. Try again.") from error
        yield {"client": client, "threads": None}


def _cluster(config: ClusterConfig) -> Any:
    if config.kind == "local":
        from distributed import LocalCluster

        return LocalCluster(n_workers=config.workers, threads_per_worker=1, dashboard_address=":0")
    assert config.manifest is not None
    return _kubernetes(config.manifest)


@contextmanager
def _kubernetes(manifest: str) -> Iterator[Any]:
    """A cluster of the Dask operator, which is told to delete it at the end, and need not have done so."""
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise ArgumentError(
            "cluster.kind = 'kubernetes' needs dask-kubernetes, which is not installed: pip install "
            "'dask-vi[kubernetes]'."
        ) from error
    if not Path(manifest).is_file():
        raise ArgumentError(f"cluster.manifest = {manifest!r} is not a file: give the path of a DaskCluster.")
    cluster = KubeCluster(custom_cluster_spec=manifest, shutdown_on_close=True)
    try:
        yield cluster
    finally:
        try:
            cluster.close(timeout=_CLOSE_SECONDS)
        except Exception as error:  # of the same libraries; an idle cluster goes by itself
            logger.warning("the cluster may not be gone yet: %s", error)
