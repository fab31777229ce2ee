"""One run at a time writes to a place: a lock beside a folder, an object with a heartbeat in any other store."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import filelock
from zarr.storage import FsspecStore

from dvi.data.store import Target
from dvi.errors import StoreExistsError
from dvi.persistence.objects import Objects
from dvi.persistence.places import label_of

HEARTBEAT_SECONDS = 20.0  # between two renewals
STALE_SECONDS = 120.0  # without one, after which a lease is that of a run which was killed

_SETTLE_SECONDS = 1.0  # in which a write that has begun is done
_KEY = "dvi-lease.json"


class Lease(Protocol):
    """The right to write to a place."""

    def renew(self) -> None:
        """Show that the run goes on.

        Raises
        ------
        StoreExistsError
            If another run has taken the place.
        """
        ...

    def release(self) -> None:
        """Let others have the place."""
        ...


def take(target: Target) -> Lease:
    """Take the right to write to a place.

    Raises
    ------
    StoreExistsError
        If another run has it.
    """
    return StoreLease.take(target) if target.path is None else FileLease.take(target)


@dataclass(frozen=True, slots=True)
class FileLease:
    """A lock that the system takes back when the process ends.

    Parameters
    ----------
    lock : filelock.BaseFileLock
    """

    lock: filelock.BaseFileLock

    @classmethod
    def take(cls, target: Target) -> FileLease:
        """See :func:`take`."""
        assert target.path is not None
        target.path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(target.path.with_name(f".{target.path.name}.lock"), blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise _taken(target) from None
        return cls(lock)

    def renew(self) -> None:
        """Nothing: the system knows whether the process runs."""

    def release(self) -> None:
        """Delete the file and give up the lock; in this order nobody can take the lock of a deleted file."""
        with suppress(OSError):
            os.unlink(self.lock.lock_file)  # noqa: PTH108  a str
        self.lock.release()


@dataclass(frozen=True, slots=True)
class StoreLease:
    """An object that names its owner, and when that last wrote it.

    Parameters
    ----------
    target : Target
    owner : str
    """

    target: Target
    owner: str

    @classmethod
    def take(cls, target: Target) -> StoreLease:
        """See :func:`take`.

        Of several that write at once the last one has it, which all of them see after a second. Only an object store
        of obstore can be asked to write where there is nothing, so that there is no need to wait.
        """
        lease = cls(target, uuid.uuid4().hex)
        lease._objects.create(_KEY, lease._record())
        found, certain = lease._found(), not isinstance(target.store, FsspecStore)
        if found.get("owner") != lease.owner and _is_stale(found):
            lease._objects.write(_KEY, lease._record())
            found, certain = lease._found(), False
        if found.get("owner") == lease.owner and not certain:
            time.sleep(_SETTLE_SECONDS)
            found = lease._found()
        if found.get("owner") != lease.owner:
            raise _taken(target, f" by process {found.get('pid')} on {found.get('host')}")
        return lease

    @property
    def _objects(self) -> Objects:
        return Objects(self.target.store)

    def _record(self) -> bytes:
        record = {"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        return json.dumps(record).encode()

    def _found(self) -> dict[str, Any]:
        """The lease that is there; nothing of one that cannot be read."""
        with suppress(ValueError):
            found = json.loads(self._objects.read(_KEY) or b"{}")
            if isinstance(found, dict):
                return found
        return {}

    def renew(self) -> None:
        """See :class:`Lease`."""
        if self._found().get("owner") != self.owner:
            raise StoreExistsError(f"another run has taken {label_of(self.target)}, as this one was silent for long")
        self._objects.write(_KEY, self._record())

    def release(self) -> None:
        """See :class:`Lease`."""
        if self._found().get("owner") == self.owner:
            self._objects.delete(_KEY)


def _is_stale(found: dict[str, Any]) -> bool:
    """Whether the owner of a lease is gone: it is a process of this machine that ended, or it was silent for long."""
    written, host, pid = found.get("time"), found.get("host"), found.get("pid")
    if not isinstance(written, int | float) or time.time() - written > STALE_SECONDS:
        return True
    return host == socket.gethostname() and isinstance(pid, int) and not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of someone else
        return True
    return True


def _taken(target: Target, owner: str = "") -> StoreExistsError:
    return StoreExistsError(
        f"Another run writes its checkpoints to {label_of(target)}{owner}. Wait for it, end it, or choose another "
        f"place; what a killed run has left is free after {STALE_SECONDS:.0f} s at the latest."
    )
