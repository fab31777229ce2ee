"""A cluster of the Dask operator, for as long as a run lasts.

Whether it is there is judged by what can be reached, its scheduler and its workers, and not by its status: the operator
may put that back from Running to Pending, in a race of its own, and leave it so. A KubeCluster waits for Running where
it makes a cluster, and looks at the scheduler alone where it finds one, so that the cluster is made here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dvi.errors import ArgumentError

logger = logging.getLogger(__name__)

_CLOSE_SECONDS, _ASK_SECONDS = 60.0, 10.0


@contextmanager
def kube_cluster(manifest: str, seconds: float) -> Iterator[str]:
    """A cluster, by the address of its scheduler. The operator is told to delete it, and need not have done so.

    Parameters
    ----------
    manifest : str
        Path of a DaskCluster.
    seconds : float
        In which its scheduler has to be reached.

    Raises
    ------
    ArgumentError
        If the manifest is none, or the library of the operator is not installed.
    TimeoutError
        That says how far the scheduler has come.
    """
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise ArgumentError(
            "cluster.kind = 'kubernetes' needs dask-kubernetes, which is not installed: pip install "
            "'dask-vi[kubernetes]'."
        ) from error
    from distributed.utils import LoopRunner, sync

    if not Path(manifest).is_file():
        raise ArgumentError(f"cluster.manifest = {manifest!r} is not a file: give the path of a DaskCluster.")

    async def begin() -> Any:  # in the loop, as elsewhere it would wait for the cluster at once, and without a limit
        return KubeCluster(
            custom_cluster_spec=manifest, shutdown_on_close=False, quiet=True, asynchronous=True, loop=runner.loop
        )

    with ExitStack() as stack:
        runner = LoopRunner()
        runner.start()
        stack.callback(runner.stop)
        try:
            cluster = sync(runner.loop, begin)
        except Exception as error:  # of any library; so far the file was read, and nobody asked
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ArgumentError(
                f"cluster.manifest = {manifest!r} is not valid ({reason}): give the path of one DaskCluster."
            ) from error
        stack.callback(_close, cluster)
        try:
            sync(runner.loop, _reach, cluster, manifest, callback_timeout=seconds)
        except TimeoutError:
            raise TimeoutError(f"its scheduler was not reached in {seconds:g} s; {_state(cluster)}") from None
        yield cluster.scheduler_address


async def _reach(cluster: Any, manifest: str) -> None:
    """Make a cluster, unless it is there, and connect to its scheduler as soon as that listens."""
    from kr8s.asyncio.objects import objects_from_files

    (resource,) = await objects_from_files(manifest)
    if resource.kind != "DaskCluster":
        raise ArgumentError(f"cluster.manifest = {manifest!r} is a {resource.kind}: give the path of one DaskCluster.")
    cluster.shutdown_on_close = True
    cluster.namespace = cluster.namespace or resource.namespace
    resource.namespace = cluster.namespace
    if not await resource.exists():
        # KubeCluster looks among the arguments of a scheduler that it finds, which may be in its command
        resource.spec.scheduler.spec.containers[0].setdefault("args", [])
        await resource.create()
    await cluster


def _state(cluster: Any) -> str:
    """How far a scheduler has come that cannot be reached."""
    from distributed.utils import sync

    try:
        return str(sync(cluster.loop, _pod_state, cluster, callback_timeout=_ASK_SECONDS))
    except Exception as error:  # of any library
        return f"nor does the API server say why ({type(error).__name__})"


async def _pod_state(cluster: Any) -> str:
    from kr8s.asyncio.objects import Pod

    selector = f"dask.org/cluster-name={cluster.name},dask.org/component=scheduler"
    pods: list[Any] = [pod async for pod in Pod.list(namespace=cluster.namespace, label_selector=selector)]
    if not pods:
        return "it has no pod, as if no Dask operator were running"
    status = pods[0].status
    waiting = [container.state.get("waiting", {}).get("reason") for container in status.get("containerStatuses", [])]
    reasons = [*waiting, *(condition.get("message") for condition in status.get("conditions", []))]
    return ", ".join([f"its pod is {status.phase}", *filter(None, reasons)])


def _close(cluster: Any) -> None:
    """Delete a cluster, or say that it may still be there; when it has been idle it goes by itself."""
    from distributed.utils import sync

    try:
        sync(cluster.loop, cluster.close, timeout=_CLOSE_SECONDS, callback_timeout=_CLOSE_SECONDS + _ASK_SECONDS)
    except Exception as error:  # those of the operator's libraries have no base in common
        logger.warning("the cluster may not be gone yet: %s", str(error) or type(error).__name__)
