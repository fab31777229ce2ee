"""What Kubernetes would accept, and what it would accept and not do."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from dvi.cli.retraining import DO_NOT_RETRY, REJECTED
from dvi.retraining.config import read_config
from tests.deploy.manifests import KUBERNETES, OVERLAYS, dask_schema, is_builtin, pods, rendered, values

VERSION = "1.33"
ALLOWED = {
    "accessModes": {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"},
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "fsGroupChangePolicy": {"Always", "OnRootMismatch"},
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "policyTypes": {"Ingress", "Egress"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "action": {"FailJob", "FailIndex", "Ignore", "Count"},
    "operator": {"In", "NotIn"},
    "verbs": {"get", "list", "watch", "create", "patch", "delete"},
}


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return rendered(KUBERNETES / "overlays" / request.param)


@pytest.fixture(scope="module")
def everything() -> list[dict[str, Any]]:
    found = [item for name in OVERLAYS for item in rendered(KUBERNETES / "overlays" / name)]
    return [*found, dask_cluster()]


def dask_cluster() -> dict[str, Any]:
    text = (KUBERNETES / "overlays/cluster/daskcluster.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def of_kind(items: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [item for item in items if item["kind"] == kind]
    return found


def files_of(items: list[dict[str, Any]]) -> dict[str, str]:
    files: dict[str, str] = of_kind(items, "ConfigMap")["data"]
    return files


def test_builtin_kinds_have_their_schema(overlay: list[dict[str, Any]]) -> None:
    assert all(is_builtin(item) for item in overlay)
    for item in overlay:
        kubernetes_validate.validate(item, VERSION, strict=True)


def test_a_dask_cluster_has_the_schema_of_the_operator() -> None:
    jsonschema.validate(dask_cluster(), dask_schema())
    wrong = dask_cluster()
    wrong["spec"]["worker"]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(wrong, dask_schema())


def test_pods_of_a_dask_cluster_are_pods() -> None:
    for role in ("worker", "scheduler"):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": role},
            "spec": dask_cluster()["spec"][role]["spec"],
        }
        kubernetes_validate.validate(pod, VERSION, strict=True)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"},
               "spec": dask_cluster()["spec"]["scheduler"]["service"]}  # fmt: skip
    kubernetes_validate.validate(service, VERSION, strict=True)


@pytest.mark.parametrize("key", ALLOWED)
def test_words_are_among_those_allowed(everything: list[dict[str, Any]], key: str) -> None:
    found = {word for value in values(everything, key) for word in (value if isinstance(value, list) else [value])}
    assert found <= ALLOWED[key]


def test_schedules_are_cron_strings(everything: list[dict[str, Any]]) -> None:
    schedules = list(values(everything, "schedule"))
    assert schedules
    for schedule in schedules:
        for field, (least, most) in zip(schedule.split(), [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)], strict=True):
            assert re.fullmatch(r"(\*|\d+(-\d+)?)(/\d+)?(,\d+(-\d+)?)*", field)
            assert all(least <= int(number) <= most for number in re.findall(r"(?<!/)\b\d+", field))


def test_no_pod_can_do_what_it_need_not(everything: list[dict[str, Any]]) -> None:
    found = list(pods(everything))
    assert len(found) == 4
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True and context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_only_a_run_that_makes_a_cluster_has_a_token() -> None:
    tokens = {
        name: [pod["automountServiceAccountToken"] for pod in pods(rendered(KUBERNETES / "overlays" / name))]
        for name in OVERLAYS
    }
    assert tokens == {"cluster": [True], "one-machine": [False]}
    assert [pod["automountServiceAccountToken"] for pod in pods(dask_cluster())] == [False, False]


def test_what_a_pod_refers_to_is_there(overlay: list[dict[str, Any]]) -> None:
    names = {(item["kind"], item["metadata"]["name"]) for item in overlay}
    (pod,) = pods(overlay)
    assert ("ServiceAccount", pod["serviceAccountName"]) in names
    for volume in pod["volumes"]:
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in names
        if "persistentVolumeClaim" in volume:
            assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_objects_are_in_one_namespace(overlay: list[dict[str, Any]]) -> None:
    namespace = of_kind(overlay, "Namespace")["metadata"]["name"]
    assert {item["metadata"].get("namespace") for item in overlay if item["kind"] != "Namespace"} == {namespace}
    subjects = [subject for found in values(overlay, "subjects") for subject in found]
    assert all(subject["namespace"] == namespace for subject in subjects)


def test_a_job_is_not_tried_again_in_vain(overlay: list[dict[str, Any]]) -> None:
    job = of_kind(overlay, "CronJob")["spec"]["jobTemplate"]["spec"]
    (rule,) = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert sorted(rule["onExitCodes"]["values"]) == [REJECTED, DO_NOT_RETRY]
    assert rule["onExitCodes"]["containerName"] in [c["name"] for pod in pods(job) for c in pod["containers"]]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # or the policy is refused
    config = read_config(tomllib.loads(files_of(overlay)["retrain.toml"]))
    assert config.fit.max_seconds is not None
    assert config.cluster.start_seconds + config.fit.max_seconds < job["activeDeadlineSeconds"]


def test_the_configuration_is_one(overlay: list[dict[str, Any]], tmp_path: Path) -> None:
    files = files_of(overlay)
    config = read_config(tomllib.loads(files["retrain.toml"]))
    (pod,) = pods(overlay)
    (container,) = pod["containers"]
    assert config.metrics.port == container["ports"][0]["containerPort"]
    assert container["args"][:3] == ["dvi", "retrain", "/etc/dvi/retrain.toml"]
    module, function = config.model.function.split(":")
    assert f"def {function}(data" in files[f"{module}.py"]
    if config.cluster.manifest is not None:
        assert Path(config.cluster.manifest).name in files


def test_metrics_are_found_by_their_port() -> None:
    monitor = yaml.safe_load((KUBERNETES / "components/metrics/podmonitor.yaml").read_text())
    (pod,) = pods(rendered(KUBERNETES / "base"))
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in pod["containers"][0]["ports"]]
    job = of_kind(rendered(KUBERNETES / "base"), "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= job["labels"].items()
