"""An S3 service in a process of its own that can be killed, and started again with its data or without."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.storage.npm import command_of, free_port, started

BUCKET = "data"


@dataclass(slots=True)
class Mortal:
    """s3rver, which keeps its objects in files.

    Parameters
    ----------
    command : path
    folder : path
    port : int
    """

    command: Path
    folder: Path
    port: int
    _life: ExitStack = field(default_factory=ExitStack, repr=False)
    lives: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """What ``storage_options`` takes."""
        keys = {"access_key_id": "S3RVER", "secret_access_key": "S3RVER"}  # the only ones that it knows
        return {"endpoint": f"http://127.0.0.1:{self.port}", "region": "us-east-1", **keys}

    def start(self) -> None:
        """Start it, with whatever is in its folder."""
        where = ["--directory", str(self.folder), "--address", "127.0.0.1", "--port", str(self.port)]
        arguments = [str(self.command), *where, "--silent", "--no-vhost-buckets", "--configure-bucket", BUCKET]
        self._life.enter_context(started(arguments, self.port))
        self.lives += 1

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._life.close()

    def forget(self) -> None:
        """Delete all objects."""
        shutil.rmtree(self.folder)


@contextmanager
def mortal(folder: Path) -> Iterator[Mortal]:
    """A service that runs; it is ended with the block."""
    service = Mortal(command_of("s3rver", "3.7.1", "s3rver"), folder / "objects", free_port())
    service.start()
    try:
        yield service
    finally:
        service.kill()
