"""A real API server on the loopback interface, with the controllers that make Jobs and pods. No pod of it is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.storage.npm import free_port, started

PROGRAMS = Path(os.environ.get("DVI_KUBERNETES", "/nowhere")) / "bin"
_TOKEN = "administrator"  # of a server that nobody else reaches, and that ends with the tests
_READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ApiServer:
    """What a client needs.

    Parameters
    ----------
    config : Path
        A kubeconfig of the administrator.
    address : str
    """

    config: Path
    address: str

    def kubectl(self, *arguments: str, given: object = None) -> str:
        """What kubectl prints. What it refuses fails the test, in its words."""
        done = self.tried(*arguments, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tried(self, *arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
        """Kubectl, with an object as its standard input."""
        text = None if given is None else json.dumps(given)
        command = ["kubectl", "--kubeconfig", str(self.config), *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    def get(self, *arguments: str) -> Any:
        """An object, or a list of them."""
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def config_of(self, account: str, namespace: str, folder: Path) -> Path:
        """A kubeconfig of a service account."""
        token = self.kubectl("--namespace", namespace, "create", "token", account).strip()
        return _write_config(folder / f"{account}.json", self.address, token, namespace)


@contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """Etcd, the API server and the controllers. The test is skipped where they have not been built."""
    for program in ("kube-apiserver", "kube-controller-manager"):
        if not (PROGRAMS / program).exists():
            pytest.skip(f"there is no {program}; `make test-api-server` builds it, and says where it is")
    if not shutil.which("etcd") or not shutil.which("kubectl"):
        pytest.skip("needs etcd and kubectl: apt-get install etcd-server kubernetes-client")
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f'{_TOKEN},administrator,administrator,"system:masters"\n')
    store, peers, port, other = (free_port() for _ in range(4))
    address = f"https://127.0.0.1:{port}"
    config = _write_config(folder / "administrator.json", address, _TOKEN, "default")
    with ExitStack() as stack:
        stack.enter_context(started(_etcd(folder, store, peers), store))
        stack.enter_context(started(_server(folder, key, store, port), port))
        server = ApiServer(config, address)
        _await_ready(server)
        stack.enter_context(started(_controllers(config, key, other), other))
        yield server


def _etcd(folder: Path, port: int, peers: int) -> list[str]:
    here = f"http://127.0.0.1:{port}"
    return ["etcd", f"--data-dir={folder}/etcd", f"--listen-client-urls={here}", f"--advertise-client-urls={here}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}"]  # fmt: skip


def _server(folder: Path, key: Path, store: int, port: int) -> list[str]:
    return [
        str(PROGRAMS / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{store}", "--bind-address=127.0.0.1",
        f"--secure-port={port}", f"--cert-dir={folder}/certificates", f"--token-auth-file={folder}/tokens.csv",
        "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/24", "--endpoint-reconciler-type=none",
        "--service-account-issuer=https://localhost", f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
    ]  # fmt: skip


def _controllers(config: Path, key: Path, port: int) -> list[str]:
    return [
        str(PROGRAMS / "kube-controller-manager"), f"--kubeconfig={config}", "--bind-address=127.0.0.1",
        f"--secure-port={port}", "--port=0", "--leader-elect=false", "--use-service-account-credentials=false",
        f"--service-account-private-key-file={key}",
    ]  # fmt: skip


def _write_config(path: Path, address: str, token: str, namespace: str) -> Path:
    """A kubeconfig, in JSON, which is YAML."""
    named = {"name": "tests"}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "tests",
                "clusters": [named | {"cluster": {"server": address, "insecure-skip-tls-verify": True}}],
                "users": [named | {"user": {"token": token}}],
                "contexts": [named | {"context": {"cluster": "tests", "user": "tests", "namespace": namespace}}],
            }
        )
    )
    return path


def _await_ready(server: ApiServer) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while (done := server.tried("get", "--raw", "/readyz")).stdout != "ok":
        if time.monotonic() > deadline:
            pytest.fail(f"the API server is not ready: {done.stdout}{done.stderr}")
        time.sleep(0.1)
