"""moto's S3 service behind a gate that can refuse requests."""

from __future__ import annotations

import datetime as dt
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from dvi.data import locations

KEY, SECRET = "AKIALOOPBACK", "a-secret-of-the-tests"


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter pauses between the requests for what may pass."""
    pauses = {"init_backoff": dt.timedelta(seconds=0.1), "max_backoff": dt.timedelta(seconds=1), "base": 3}
    monkeypatch.setitem(locations._RETRY, "backoff", pauses)


@dataclass(slots=True)
class Gate:
    """Does something else with the next ``refusals`` requests whose path ends as asked, and passes all others on."""

    application: Any
    fault: str = "503 Slow Down"
    refusals: int = 0
    suffix: str = ""
    refused: int = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.refused < self.refusals and environ["PATH_INFO"].endswith(self.suffix):
            self.refused += 1
            return self._refuse(environ, start_response)
        return self.application(environ, start_response)

    def _refuse(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.fault == "slow":
            time.sleep(1.0)
            return self.application(environ, start_response)
        if self.fault == "truncated":
            body = b"".join(self.application(environ, start_response))
            return [body[: len(body) // 2]]  # of the length that the header says
        if self.fault == "reset":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        start_response(self.fault, [("Content-Length", "0")])
        return [b""]


@dataclass(frozen=True, slots=True)
class Service:
    """A running service with one bucket."""

    endpoint: str
    gate: Gate
    bucket: str = "data"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def client(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )  # fmt: skip

    def url(self, name: str) -> str:
        """A URL under a prefix that no other test has."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex[:8]}/{name}"

    def keys(self, url: str) -> list[str]:
        """Keys below a URL."""
        prefix = url.removeprefix(f"s3://{self.bucket}/").rstrip("/") + "/"
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def put(self, url: str, body: bytes) -> None:
        self.client().put_object(Bucket=self.bucket, Key=url.removeprefix(f"s3://{self.bucket}/"), Body=body)

    def delete(self, url: str) -> None:
        self.client().delete_object(Bucket=self.bucket, Key=url.removeprefix(f"s3://{self.bucket}/"))


class _Silent(WSGIRequestHandler):
    def log(self, *arguments: Any, **_: Any) -> None:
        pass


def _serve(application: Any, port: int) -> tuple[Any, threading.Thread]:
    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=_Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return server, thread


def _stop(server: Any, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def served(application: Any) -> Iterator[int]:
    """The port of an application that is served in threads of this process."""
    server, thread = _serve(application, 0)
    try:
        yield server.server_port
    finally:
        _stop(server, thread)


@contextmanager
def running() -> Iterator[Service]:
    """A service on a free port, in threads of this process."""
    gate = Gate(DomainDispatcherApplication(create_backend_app))
    with served(gate) as port:
        service = Service(f"http://127.0.0.1:{port}", gate)
        service.client().create_bucket(Bucket=service.bucket)
        yield service


@contextmanager
def coming_back(service: Service, seconds: float) -> Iterator[None]:
    """A service that has ended, with all its data, and that is there again after a while."""
    found: list[tuple[Any, threading.Thread]] = []
    port = int(service.endpoint.rpartition(":")[2])
    timer = threading.Timer(seconds, lambda: found.append(_serve(service.gate, port)))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        _stop(*found[0])
