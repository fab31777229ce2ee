"""One run at a time writes to a place: a lock beside a folder, an object with a heartbeat in any other store."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import filelock
from zarr.storage import FsspecStore

from dvi.data.store import Target
from dvi.errors import StoreExistsError
from dvi.persistence.objects import Objects
from dvi.persistence.places import label_of

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0  # between two renewals
SILENT_SECONDS = 20.0  # in which a lease was seen not to change, so that its run was killed
STALE_SECONDS = 120.0  # of age by the clocks of two machines, which need not agree, with the same meaning

_ASK_SECONDS = 1.0
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
    """Take the right to write to a place, also that of a process that was killed.

    The system takes back a lock on a folder. In another store, the heartbeat tells a process that is alive, which is
    seen at its next renewal, from one that was killed, which is seen after ``SILENT_SECONDS`` without one.

    Raises
    ------
    StoreExistsError
        If a process that is alive has it.
    """
    return StoreLease.take(target) if target.path is None else FileLease.take(target)


def clear(target: Target) -> None:
    """Free a place of a lease that was left in it, for who knows that nobody who is alive has it."""
    if target.path is None:
        Objects(target.store).delete(_KEY)


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
        path = target.path.with_name(f".{target.path.name}.lock")
        path.touch()  # or the error that says why not: filelock takes some of them for a lock that another has
        lock = filelock.FileLock(path, blocking=False)
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
    """An object that names its owner, and when that last wrote it: a thread does so until the release.

    Parameters
    ----------
    target : Target
    owner : str
    """

    target: Target
    owner: str
    _ended: threading.Event = field(default_factory=threading.Event, repr=False)
    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def take(cls, target: Target) -> StoreLease:
        """See :func:`take`.

        Of several that write at once the last one has it, which all of them see after a second. Only an object store
        of obstore can be asked to write where there is nothing, so that there is no need to wait.
        """
        lease = cls(target, uuid.uuid4().hex)
        found, certain = lease._found(), not isinstance(target.store, FsspecStore)
        if not found:  # some services overwrite what is there, whatever they are asked
            lease._objects.create(_KEY, lease._record())
            found = lease._found()
        if found.get("owner") != lease.owner and lease._is_free(found):
            lease._objects.write(_KEY, lease._record())
            found, certain = lease._found(), False
        if found.get("owner") == lease.owner and not certain:
            time.sleep(_SETTLE_SECONDS)
            found = lease._found()
        if found.get("owner") != lease.owner:
            raise _taken(target, f" by process {found.get('pid')} on {found.get('host')}")
        threading.Thread(target=lease._beat, name="dvi-lease", daemon=True).start()
        return lease

    @property
    def _objects(self) -> Objects:
        return Objects(self.target.store)

    def _record(self) -> bytes:
        record = {"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        return json.dumps(record).encode()

    def _found(self) -> dict[str, Any]:
        """The lease that is there, nothing where there is none; one that cannot be read is nobody's."""
        text = self._objects.read(_KEY)
        if text is None:
            return {}
        with suppress(ValueError):
            found = json.loads(text)
            if isinstance(found, dict):
                return found
        return {"owner": None}

    def _is_free(self, found: dict[str, Any]) -> bool:
        """Whether the owner of a lease is gone: at once where that is known, else once it was silent for long enough.

        What is silent is seen by the clock of this machine alone.
        """
        deadline = time.monotonic() + SILENT_SECONDS
        while not _is_stale(found) and time.monotonic() < deadline:
            time.sleep(_ASK_SECONDS)
            before, found = found, self._found()
            if found and found != before:
                return False
        return True

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self.renew()
            except StoreExistsError:  # whoever writes next is told
                return
            except Exception as error:  # of any store; it may be there again the next time
                logger.warning("the lease of %s was not renewed: %s", label_of(self.target), error)

    def renew(self) -> None:
        """See :class:`Lease`."""
        with self._writing:
            if self._ended.is_set():
                return
            found = self._found()
            if not found or found.get("owner") not in (None, self.owner):
                raise StoreExistsError(
                    f"another run has taken {label_of(self.target)}, as this one was silent for long"
                )
            self._objects.write(_KEY, self._record())

    def release(self) -> None:
        """See :class:`Lease`."""
        self._ended.set()
        with self._writing:
            if self._found().get("owner") == self.owner:
                self._objects.delete(_KEY)


def _is_stale(found: dict[str, Any]) -> bool:
    """Whether it is known at once that an owner is gone: a process of this machine that ended, or silent for long."""
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
        f"place; what a killed run has left is free after {SILENT_SECONDS:.0f} s."
    )
