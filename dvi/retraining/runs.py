"""The folder of runs: a run in a folder of its own, and one small object that names the promoted one.

::

    <folder>/promoted.json                       which run is promoted, and since when
    <folder>/<run>/plan.json                     before anything else
    <folder>/<run>/checkpoint                    while it is fitted
    <folder>/<run>/approximation.zarr            for dvi.load
    <folder>/<run>/verdict.json                  before it is promoted
    <folder>/<run>/report.html
    <folder>/<run>/run.json                      the record: it is there if the run is finished
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvi.data.locations import Options, open_store
from dvi.data.store import Target
from dvi.errors import ArgumentError, StoreError
from dvi.persistence.leases import Lease, take
from dvi.persistence.objects import Objects
from dvi.persistence.places import explained, label_of, place_of
from dvi.persistence.versions import store_of
from dvi.retraining.planning import History, Plan

_NAME = re.compile(r"[0-9]{6}-[0-9a-f]{12}")
_POINTER = "promoted.json"
_HOPELESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True, slots=True)
class Runs:
    """A folder of runs, local or in an object store.

    Parameters
    ----------
    folder : str
        Path or URL.
    storage_options : mapping
    """

    folder: str
    storage_options: Options = field(default_factory=dict, repr=False)

    @property
    def target(self) -> Target:
        """The folder itself."""
        return place_of(open_store(self.folder, self.storage_options))

    def take(self) -> Lease:
        """The right to write to the folder. See :func:`dvi.persistence.leases.take`.

        Raises
        ------
        ArgumentError
            If nothing can be written there, now or later.
        """
        target = self.target
        try:
            with self._explained("cannot be written"):
                if target.path is not None and target.path.exists():
                    with tempfile.TemporaryFile(dir=target.path):
                        pass
                return take(target)
        except StoreError as error:
            if target.path is None or not _is_hopeless(error.__cause__):
                raise
            raise ArgumentError(
                f"runs.folder = {self.folder!r} cannot be written to ({error.__cause__}). Give a folder in which, and "
                "beside which, files can be written, or the URL of an object store."
            ) from error

    def place(self, run: str, name: str) -> Any:
        """The path or store of a group of a run."""
        if "://" not in self.folder:
            return Path(os.path.expanduser(self.folder)) / run / name  # noqa: PTH111  which knows no user is no error
        return open_store(f"{self.folder.rstrip('/')}/{run}/{name}", self.storage_options)

    def read(self, key: str) -> dict[str, Any] | None:
        """A JSON object, None where there is none."""
        with self._explained("cannot be read"):
            found = self._objects.read(key)
            return None if found is None else dict(json.loads(found))

    def write(self, key: str, value: Mapping[str, Any] | bytes) -> None:
        """Write a JSON object, or bytes, in the place of what may be there."""
        text = value if isinstance(value, bytes) else json.dumps(value, indent=2, sort_keys=True).encode()
        with self._explained("cannot be written"):
            self._objects.write(key, text)

    def has(self, key: str) -> bool:
        """Whether there is an object."""
        with self._explained("cannot be read"):
            return self._objects.read(key) is not None

    def names(self) -> list[str]:
        """All runs, finished or not, oldest first."""
        with self._explained("cannot be read"):
            return [name for name in self._objects.names() if _NAME.fullmatch(name)]

    def delete(self, name: str) -> None:
        """Delete a run, or a group of one."""
        with self._explained("cannot be written"):
            self._objects.delete_below(name)

    def finished(self) -> list[str]:
        """Finished runs, oldest first."""
        return [name for name in self.names() if self.has(f"{name}/run.json")]

    def plan(self, run: str) -> Plan | None:
        """The plan of a run, None if it was never made."""
        found = self.read(f"{run}/plan.json")
        return None if found is None else Plan.from_json(found)

    def promoted(self) -> str | None:
        """The name of the promoted run."""
        found = self.read(_POINTER)
        return None if found is None else str(found["run"])

    def promoted_at(self) -> float:
        """When that was, in seconds since 1970: 0 if there is none, NaN if who put its name there did not say."""
        found = self.read(_POINTER)
        if found is None:
            return 0.0
        at = found.get("time")
        return float(at) if isinstance(at, int | float) else math.nan

    def promote(self, run: str) -> None:
        """Make a run the promoted one, by one write that is whole or absent."""
        self.write(_POINTER, {"run": run, "approximation": f"{run}/approximation.zarr", "time": time.time()})

    def history(self) -> History:
        """What a new run is planned from.

        Raises
        ------
        StoreError
            If the promoted run is not there.
        """
        finished, promoted = self.finished(), self.promoted()
        base = None if promoted is None else self.plan(promoted)
        if promoted is not None and base is None:
            raise StoreError(f"{label_of(self.target)} names {promoted} as promoted, which is not there. Restore it.")
        newest = self.plan(finished[-1]) if finished else None
        return History(finished, 0 if newest is None else newest.end, base)

    def prune(self, keep: int) -> None:
        """Delete all but the promoted run and the last ``keep`` finished ones; unfinished ones too."""
        kept = {self.promoted(), *self.finished()[-keep:]}
        for name in self.names():
            if name not in kept:
                self.delete(name)

    @property
    def _objects(self) -> Objects:
        return Objects(store_of(self.target))

    def _explained(self, what: str) -> Any:
        return explained(self.target, what, "Check runs.folder, and that it may be read and written.")


def _is_hopeless(error: BaseException | None) -> bool:
    """The rule for errors of local folders: whether the next try would fail in the same way.

    It would on a read-only disk, without permission, among the files of the kernel, and below what is no folder. It may
    not where the disk is full, or away.
    """
    return isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in _HOPELESS)
