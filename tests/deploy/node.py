"""The node that the API server of the tests does not have: pods of Dask as processes of this machine, on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.deploy.api_server import ApiServer

_ASK_SECONDS = 0.5


def inside(folder: Path, names: str, *command: str) -> list[str]:
    """A command for which names of services are those of the loopback interface. Needs root."""
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {names}\n")
    return ["unshare", "--mount", "sh", "-c", f'mount --bind "{hosts}" /etc/hosts && exec "$@"', "sh", *command]


@dataclass(frozen=True, slots=True)
class Node:
    """Runs the pods of a namespace that belong to a Dask cluster.

    Parameters
    ----------
    server : ApiServer
    namespace : str
    folder : Path
        Where their logs go.
    names : str
        Of services, separated by spaces.
    """

    server: ApiServer
    namespace: str
    folder: Path
    names: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def look(self) -> None:
        """Start pods that are new, and end those that are gone."""
        listed = self.server.get("--namespace", self.namespace, "pods", "--selector=dask.org/cluster-name")["items"]
        pods = {pod["metadata"]["name"]: pod for pod in listed}
        for name in pods.keys() - self.processes.keys():
            self.processes[name] = self._run(name, pods[name])
        for name in self.processes.keys() - pods.keys():
            self.end(name)

    def _run(self, name: str, pod: dict[str, Any]) -> subprocess.Popen[bytes]:
        (container,) = pod["spec"]["containers"]
        environment = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        arguments = [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], text) for text in container["args"]]
        arguments = [*("127.0.0.1" + text if text.startswith(":") else text for text in arguments), "--host=127.0.0.1"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = inside(self.folder, self.names, *arguments)
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=os.environ | environment | {"PATH": path}, cwd=self.folder, stdout=log, stderr=log
            )
        status = {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "conditions": [{"type": name, "status": "True"} for name in ("ContainersReady", "Ready")],
        }
        self.server.kubectl(
            "--namespace", self.namespace, "patch", "pod", name, "--subresource=status", "--type=merge", "--patch",
            json.dumps({"status": status}),
        )  # fmt: skip
        return process

    def end(self, name: str) -> None:
        """End a pod."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()


@contextmanager
def node(server: ApiServer, namespace: str, folder: Path, names: str) -> Iterator[None]:
    """A node for as long as this lasts."""
    found, ended = Node(server, namespace, folder, names), threading.Event()

    def watch() -> None:
        while not ended.wait(_ASK_SECONDS):
            found.look()

    thread = threading.Thread(target=watch, name="node", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for name in list(found.processes):
            found.end(name)
