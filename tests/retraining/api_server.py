"""As much of an API server of Kubernetes as a run asks for, with an operator and a node that do what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

NAME = "dvi-retrain"
ABOUT = {
    "version": {"gitVersion": "v1.33.0"},
    "api": {"versions": ["v1"]},
    "api/v1": {"resources": [{"name": "pods", "kind": "Pod", "singularName": "pod", "namespaced": True}]},
    "apis": {"groups": []},
}
READY = {"phase": "Running", "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]}


@dataclass(slots=True)
class Operator:
    """Makes a scheduler for each cluster, and never says that one is running.

    Parameters
    ----------
    port : int
        Of the scheduler that its service leads to.
    pod : dict, optional
        Status of its pod; none by default.
    deletes : bool
        Whether clusters that are to go do so.
    goes_on : Event
        While it is not set the API server does not answer.
    made : Event
        Set as soon as a cluster is to be made.
    """

    port: int = 1
    pod: dict[str, Any] | None = None
    deletes: bool = True
    goes_on: threading.Event = field(default_factory=threading.Event)
    made: threading.Event = field(default_factory=threading.Event)
    clusters: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.goes_on.set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.goes_on.wait()
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked.append(f"{method} {path.rpartition('/')[2]}")
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        found = self._answer(method, path, environ["QUERY_STRING"], body)
        status = HTTPStatus.NOT_FOUND if found is None else HTTPStatus.OK
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "application/json")])
        return [json.dumps({"message": "there is none"} if found is None else found).encode()]

    def _answer(self, method: str, path: str, query: str, body: bytes) -> dict[str, Any] | None:
        if about := ABOUT.get(path.strip("/")):
            return about
        kind, _, name = path.partition("/namespaces/default/")[2].partition("/")
        if method == "POST":
            made = json.loads(body) | {"status": {"phase": "Pending"}}
            self.clusters[made["metadata"]["name"]] = made
            self.made.set()
            return made
        if method == "DELETE":
            return self.clusters.pop(name, None) if self.deletes else self.clusters.get(name)
        items = {item["metadata"]["name"]: item for item in self._items(kind)}
        if name:
            return items.get(name)
        wanted = [item for item in items.values() if "phase%3DRunning" not in query or running(item)]
        return {"items": wanted}

    def _items(self, kind: str) -> list[dict[str, Any]]:
        if kind == "daskclusters":
            return list(self.clusters.values())
        if not self.clusters or self.pod is None:
            return []
        about = {"metadata": {"name": f"{NAME}-scheduler", "namespace": "default"}}
        ports = [{"name": name, "port": self.port} for name in ("tcp-comm", "http-dashboard")]
        service = {"spec": {"type": "LoadBalancer", "ports": ports, "selector": {}},
                   "status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}}  # fmt: skip
        return {"pods": [about | {"status": self.pod}], "services": [about | service]}.get(kind, [])


def running(item: dict[str, Any]) -> bool:
    return bool(item["status"].get("phase") == "Running")


class _Silent(WSGIRequestHandler):
    def log(self, *arguments: Any, **_: Any) -> None:
        pass


@contextmanager
def serving(operator: Operator, folder: Path) -> Iterator[Path]:
    """The kubeconfig of an API server."""
    server = make_server("127.0.0.1", 0, operator, threaded=True, request_handler=_Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    path = folder / "kubeconfig"
    path.write_text(kubeconfig(f"http://127.0.0.1:{server.server_port}"))
    try:
        yield path
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def kubeconfig(address: str) -> str:
    """A kubeconfig, in JSON, which is YAML."""
    found = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }  # fmt: skip
    return json.dumps(found)
