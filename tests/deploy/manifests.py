"""Manifests as ``kubectl kustomize`` renders them, and the schemas that they are checked against."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy/kubernetes"
OVERLAYS = ("cluster", "one-machine")


def rendered(folder: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization. Without a program that renders it the test is skipped."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build"]
    else:
        pytest.skip("needs kubectl or kustomize: apt-get install kubernetes-client")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def is_builtin(item: dict[str, Any]) -> bool:
    group = item["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


def dask_schema() -> dict[str, Any]:
    """The schema of a DaskCluster, as the operator installs it, closed to keys that it does not name."""
    crds = "dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds"
    found = distribution("dask-kubernetes").locate_file(f"{crds}/daskcluster.yaml")
    definition = yaml.safe_load(Path(str(found)).read_text())
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"] |= {"apiVersion": {"const": "kubernetes.dask.org/v1"}, "kind": {"const": "DaskCluster"}}
    _close(schema)
    return schema


def _close(schema: dict[str, Any]) -> None:
    properties = schema.get("properties", {})
    if properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema["additionalProperties"] = False
    for inner in [*properties.values(), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(inner, dict):
            _close(inner)


def pods(item: Any) -> Iterator[dict[str, Any]]:
    """The specifications of pods anywhere in an object."""
    if isinstance(item, dict):
        if "containers" in item:
            yield item
        for value in item.values():
            yield from pods(value)
    elif isinstance(item, list):
        for value in item:
            yield from pods(value)


def values(item: Any, key: str) -> Iterator[Any]:
    """All values that a key has anywhere in an object."""
    if isinstance(item, dict):
        for name, value in item.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(item, list):
        for value in item:
            yield from values(value, key)
