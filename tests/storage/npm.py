"""Services that npm has, installed by name once into a folder of temporary files."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import filelock
import pytest

_INSTALL_SECONDS, _START_SECONDS = 180.0, 60.0


def command_of(package: str, version: str, command: str) -> Path:
    """The path of a command of a package; the test is skipped where it cannot be installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip(f"needs {package} of npm, and there is no node or no npm: apt-get install npm")
    folder = Path(tempfile.gettempdir()) / f"dvi-tests-{package}-{version}"
    found = folder / "node_modules" / ".bin" / command
    with filelock.FileLock(f"{folder}.lock"):
        if not found.exists():
            install = [
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--fetch-retries=1",
                "--prefix",
                str(folder),
                f"{package}@{version}",
            ]
            try:
                subprocess.run(install, check=True, capture_output=True, timeout=_INSTALL_SECONDS)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                pytest.skip(f"npm could not install {package}: {str(error.stderr)[-300:]}")
    return found


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def started(arguments: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on a port; it is killed at the end."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(arguments, **quiet)  # type: ignore[call-overload]
    try:
        _await(process, port)
        yield process
    finally:
        process.kill()
        process.wait()


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"{process.args} does not listen on port {port}; it ended with {process.poll()}")
