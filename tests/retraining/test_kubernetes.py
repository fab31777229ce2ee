"""Clusters of the Dask operator: what is reached, what is not, and what becomes of them."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Scheduler, Worker
from distributed.utils import LoopRunner, sync

import dvi
from dvi.errors import ArgumentError, ClusterError
from dvi.retraining import kubernetes
from dvi.retraining.computing import computing
from dvi.retraining.config import ClusterConfig
from tests.retraining.api_server import NAME, READY, Operator, serving
from tests.retraining.models import config_of, deliver, delivery

pytestmark = [  # kr8s leaves connections to the garbage collector: sockets, and what asyncio has around them
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <function _SelectorTransport:pytest.PytestUnraisableExceptionWarning"
    ),
]
MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/overlays/cluster/daskcluster.yaml"
PENDING = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "message": "0/3 nodes are available"}]}
PULLING = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}


@contextmanager
def scheduler(workers: int = 1) -> Iterator[int]:
    """The port of a scheduler without a cluster manager, as in a pod."""

    async def begin() -> list[Any]:
        found: list[Any] = [await Scheduler(host="127.0.0.1", port=0, dashboard_address=":0")]
        for _ in range(workers):
            found.append(await Worker(found[0].address, nthreads=1, dashboard_address=":0"))
        return found

    async def end() -> None:
        for server in reversed(servers):
            await server.close()

    runner = LoopRunner()
    runner.start()
    try:
        servers = sync(runner.loop, begin)
        yield int(servers[0].port)
        sync(runner.loop, end)
    finally:
        runner.stop()


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    found = Operator()
    with serving(found, tmp_path) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield found
    gc.collect()  # here, where that is known, and not in the tests of others


def config(manifest: Path = MANIFEST, seconds: float = 60.0) -> ClusterConfig:
    return ClusterConfig(kind="kubernetes", manifest=str(manifest), start_seconds=seconds)


def manifest() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    return found


@pytest.mark.parametrize("left", [False, True])
def test_a_cluster_is_there_when_it_is_reached_whatever_its_status_says(left: bool, operator: Operator) -> None:
    """Also one that a killed run has left."""
    if left:
        operator.clusters[NAME] = manifest() | {"status": {"phase": "Pending"}}
    with scheduler() as operator.port:
        operator.pod = READY
        with computing(config()) as where:
            assert operator.clusters[NAME]["status"] == {"phase": "Pending"}
            assert where["client"].submit(sum, [1, 2]).result() == 3
    assert operator.asked.count("POST daskclusters") == (not left)
    assert operator.clusters == {}


@pytest.mark.parametrize(
    ("pod", "told"),
    [
        (None, "it has no pod, as if no Dask operator were running"),
        (PENDING, "its pod is Pending, 0/3 nodes are available"),
        (PULLING, "its pod is Pending, ImagePullBackOff"),
        (READY, "its pod is Running"),  # and nothing listens
    ],
)
def test_a_scheduler_is_waited_for_as_long_as_the_configuration_says(
    pod: dict[str, Any] | None, told: str, operator: Operator, tmp_path: Path
) -> None:
    operator.pod = pod
    deliver(tmp_path / "rows.zarr", delivery(0))
    cluster = {"kind": "kubernetes", "manifest": str(MANIFEST), "start_seconds": 1.0}
    with pytest.raises(ClusterError, match=rf"its scheduler was not reached in 1 s; {told}\. Try again") as caught:
        dvi.retrain(config_of(str(tmp_path)) | {"cluster": cluster})
    assert "cluster.start_seconds = 1 says how long" in str(caught.value)
    assert operator.clusters == {}


def test_a_run_that_is_told_to_end_while_it_waits_deletes_its_cluster(operator: Operator, tmp_path: Path) -> None:
    def end() -> None:
        assert operator.made.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)

    deliver(tmp_path / "rows.zarr", delivery(0))
    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(SystemExit) as caught:
        dvi.retrain(config_of(str(tmp_path)) | {"cluster": {"kind": "kubernetes", "manifest": str(MANIFEST)}})
    thread.join()
    assert caught.value.code == 143
    assert operator.clusters == {}


def test_the_first_worker_is_waited_for_in_the_same_time(operator: Operator) -> None:
    with scheduler(workers=0) as operator.port:
        operator.pod = READY
        with pytest.raises(ClusterError, match="Only 0/1 workers arrived"), computing(config(seconds=5.0)):
            pass
    assert operator.clusters == {}


def test_an_api_server_that_hangs_is_waited_for_no_longer(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kubernetes, "_ASK_SECONDS", 0.5)
    monkeypatch.setattr(kubernetes, "_CLOSE_SECONDS", 0.5)
    operator.goes_on.clear()
    with pytest.raises(ClusterError, match="nor does the API server say why"), computing(config(seconds=0.5)):
        pass
    operator.goes_on.set()
    with scheduler() as operator.port:
        operator.pod = READY
        with computing(config()):
            operator.goes_on.clear()
    assert "the cluster may not be gone yet" in caplog.text
    operator.goes_on.set()


def test_a_cluster_is_not_waited_for_long_that_does_not_go(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kubernetes, "_CLOSE_SECONDS", 0.5)
    operator.deletes = False
    with scheduler() as operator.port:
        operator.pod = READY
        with computing(config()):
            pass
    assert "DELETE dvi-retrain" in operator.asked
    assert "the cluster may not be gone yet: Timed out deleting cluster resource" in caplog.text


def test_a_scheduler_may_be_started_by_its_command(operator: Operator, tmp_path: Path) -> None:
    found = manifest()
    container = found["spec"]["scheduler"]["spec"]["containers"][0]
    container["command"] = container.pop("args")
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(found))
    with scheduler() as operator.port:
        operator.pod = READY
        with computing(config(path)) as where:
            assert where["client"].submit(sum, [1, 2]).result() == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is not a file"),
        ("a: b: c", "is not valid"),
        ("metadata: {}", "is not valid"),
        (yaml.safe_dump_all([manifest(), manifest()]), "is not valid"),
        (yaml.safe_dump(manifest() | {"kind": "DaskJob"}), "is a DaskJob"),
    ],
)
def test_a_manifest_is_that_of_one_cluster(text: str | None, told: str, operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArgumentError, match=f"{told}.*: give the path of"), computing(config(path)):
        pass
    assert not [asked for asked in operator.asked if not asked.startswith("GET")]
