"""The manifests given to a real API server, which checks more than schemas do, and to the Dask operator behind it."""

from __future__ import annotations

import copy
import importlib.metadata
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import dvi
from tests.deploy.api_server import ApiServer, api_server
from tests.deploy.manifests import KUBERNETES, OVERLAYS, pods, rendered
from tests.deploy.node import inside, node
from tests.retraining.models import config_of, deliver, delivery, to_toml

PATIENCE = 60.0  # seconds, for what controllers do in one
NAMESPACE = "dvi"
IMAGE = "registry.example.com/dvi:0.1.0"
NAMES = f"dvi-retrain-scheduler.{NAMESPACE} dvi-retrain-scheduler.{NAMESPACE}.svc.cluster.local"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("kubernetes")) as found:
        yield found


@pytest.fixture(params=OVERLAYS)
def applied(server: ApiServer, request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """The objects of an overlay, as they were accepted, and gone again at the end."""
    sent = [as_of_1_20(item) for item in rendered(KUBERNETES / "overlays" / request.param)]
    for item in sent:
        server.kubectl("apply", "--validate=true", "--filename", "-", given=item)
    yield sent
    server.kubectl("delete", "namespace", NAMESPACE)


def as_of_1_20(item: dict[str, Any]) -> dict[str, Any]:
    """What the server knows of an object: a CronJob by its older name, and without what came later."""
    item = copy.deepcopy(item)
    if item["kind"] == "CronJob":
        item["apiVersion"] = "batch/v1beta1"
        assert item["spec"].pop("timeZone") == "Etc/UTC"
        assert len(item["spec"]["jobTemplate"]["spec"].pop("podFailurePolicy")["rules"]) == 2
    return item


def missing(sent: Any, stored: Any, path: str = "") -> list[str]:
    """Where an object is not what was sent; what the server added is no difference."""
    if isinstance(sent, dict) and isinstance(stored, dict):
        return [found for key in sent for found in missing(sent[key], stored.get(key), f"{path}.{key}")]
    if isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        pairs = enumerate(zip(sent, stored, strict=True))
        return [found for i, (one, other) in pairs for found in missing(one, other, f"{path}[{i}]")]
    return [] if sent == stored else [f"{path}: {sent!r} became {stored!r}"]


def awaited(look: Callable[[], Any], what: str) -> Any:
    """What a look finds, once it finds something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.2)
    pytest.fail(f"{what} did not come within {PATIENCE:.0f} s")


def test_every_object_is_accepted_and_kept_whole(server: ApiServer, applied: list[dict[str, Any]]) -> None:
    for item in applied:
        stored = server.get("--namespace", NAMESPACE, item["kind"], item["metadata"]["name"])
        stored["apiVersion"] = item["apiVersion"]
        assert missing(item, stored) == []


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        (("spec", "schedule"), "17 25 * * *", "above maximum"),
        (("spec", "concurrencyPolicy"), "Forbidden", "supported values"),
        (("spec", "jobTemplate", "spec", "template", "spec", "restartPolicy"), "Always", "valid values"),
        (("spec", "jobTemplate", "spec", "template", "spec", "volumes"), [], "Not found"),
    ],
)
def test_what_is_wrong_is_refused(server: ApiServer, where: tuple[str, ...], value: object, told: str) -> None:
    (wrong,) = [as_of_1_20(item) for item in rendered(KUBERNETES / "base") if item["kind"] == "CronJob"]
    inner = wrong
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    done = server.tried("create", "--dry-run=server", "--filename", "-", given=wrong)
    assert done.returncode != 0 and told in done.stderr


def test_a_job_of_the_schedule_gets_its_pod(server: ApiServer, applied: list[dict[str, Any]]) -> None:
    here = ("--namespace", NAMESPACE)
    (schedule,) = [item for item in applied if item["kind"] == "CronJob"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "first"}, **schedule["spec"]["jobTemplate"]}
    server.kubectl(*here, "create", "--filename", "-", given=job)  # as `create job --from` does, which wants batch/v1
    (pod,) = awaited(lambda: server.get(*here, "pods", "--selector=job-name=first")["items"], "the pod")
    (sent,) = pods(schedule)
    given_by_server = {"volumes", "containers"}  # which get those of a token
    assert missing({key: value for key, value in sent.items() if key not in given_by_server}, pod["spec"]) == []
    mounted = {mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    wanted = {mount["mountPath"] for mount in sent["containers"][0]["volumeMounts"]}
    token = {"/var/run/secrets/kubernetes.io/serviceaccount"} if sent["automountServiceAccountToken"] else set()
    assert mounted == wanted | token
    assert pod["spec"]["containers"][0]["image"] == IMAGE


@pytest.fixture(scope="module")
def operator(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The Dask operator, in a process of this machine."""
    files = importlib.metadata.distribution("dask-kubernetes").locate_file(
        "dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds"
    )
    for path in sorted(Path(str(files)).glob("*.yaml")):
        server.kubectl("create", "--filename", str(path))
    server.kubectl("wait", "--for=condition=established", "--timeout=60s", "customresourcedefinition", "--all")
    folder = tmp_path_factory.mktemp("operator")
    command = [sys.executable, "-m", "kopf", "run", "-m", "dask_kubernetes.operator.controller", "--all-namespaces"]
    if os.geteuid() == 0:
        command = inside(folder, NAMES, *command)
    with (folder / "log").open("wb") as file:
        environment = os.environ | {"KUBECONFIG": str(server.config)}
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("applied", ["cluster"], indirect=True)
@pytest.mark.usefixtures("applied", "operator")
def test_a_dask_cluster_is_kept_whole_and_gets_its_pods(server: ApiServer, tmp_path: Path) -> None:
    manifest = KUBERNETES / "overlays/cluster/daskcluster.yaml"
    account = ApiServer(server.config_of("dvi-retrain", NAMESPACE, tmp_path), server.address)
    account.kubectl("create", "--filename", str(manifest))

    sent = yaml.safe_load(manifest.read_text())
    stored = account.get("daskcluster", "dvi-retrain")
    assert missing(sent, stored) == []

    def made() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = account.get("pods", "--selector=dask.org/cluster-name=dvi-retrain")["items"]
        return found if len(found) == 1 + sent["spec"]["worker"]["replicas"] else []

    roles = [pod["metadata"]["labels"]["dask.org/component"] for pod in awaited(made, "the pods")]
    assert sorted(roles) == ["scheduler"] + ["worker"] * 4
    ports = account.get("service", "dvi-retrain-scheduler")["spec"]["ports"]
    assert [port["name"] for port in ports] == ["tcp-comm", "http-dashboard"]
    account.kubectl("delete", "daskcluster", "dvi-retrain")


@pytest.mark.parametrize("applied", ["cluster"], indirect=True)
@pytest.mark.usefixtures("applied", "operator")
def test_an_account_may_do_no_more_than_it_needs(server: ApiServer, tmp_path: Path) -> None:
    account = ApiServer(server.config_of("dvi-retrain", NAMESPACE, tmp_path), server.address)
    for verb, kind in [("get", "secrets"), ("create", "pods"), ("create", "pods/exec"), ("list", "nodes")]:
        assert account.tried("auth", "can-i", verb, kind).stdout.strip() == "no"
    for verb, kind in [("create", "daskclusters.kubernetes.dask.org"), ("list", "pods"), ("watch", "services")]:
        assert account.tried("auth", "can-i", verb, kind).stdout.strip() == "yes"


@pytest.mark.parametrize("applied", ["cluster"], indirect=True)
@pytest.mark.usefixtures("applied", "operator")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give processes names of services")
def test_a_run_makes_its_cluster_fits_on_it_and_deletes_it(server: ApiServer, tmp_path: Path) -> None:
    """With the rights of its account alone: processes stand in for pods, all else is real."""
    deliver(tmp_path / "rows.zarr", delivery(0))
    manifest = KUBERNETES / "overlays/cluster/daskcluster.yaml"
    threads, cluster = config_of(str(tmp_path)), {"kind": "kubernetes", "manifest": str(manifest)}
    there = threads | {"cluster": cluster, "runs": {"folder": str(tmp_path / "cluster")}}
    path = to_toml(there, tmp_path / "retrain.toml")
    environment = os.environ | {
        "KUBECONFIG": str(server.config_of("dvi-retrain", NAMESPACE, tmp_path)),
        "PYTHONPATH": str(Path.cwd()),
    }
    run = "from dvi.cli import main; main()"
    with node(server, NAMESPACE, tmp_path, NAMES):
        command = inside(tmp_path, NAMES, sys.executable, "-c", run, "retrain", str(path), "--log-format", "json")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    awaited(lambda: server.get("--namespace", NAMESPACE, "daskclusters")["items"] == [], "the end of the cluster")
    assert dvi.retrain(threads).kind == "promoted"
    (one,), (other,) = ((tmp_path / name).glob("0*/approximation.zarr") for name in ("cluster", "runs"))
    assert dvi.load(one).theta.tobytes() == dvi.load(other).theta.tobytes()
