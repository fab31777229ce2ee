"""The hidden folder in which a store is made: one process at a time, and able to go on after being killed."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import filelock

from dvi.data.schema import Schema
from dvi.errors import StoreError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far the work has come; everything before it is on disk and is not done again.

    ``source_row`` is the first row of the source that was not taken yet, ``bucket_rows`` the rows in each bucket of
    the shuffle, ``written`` the rows in the new store.
    """

    identity: str  # digest of the source and the arguments
    schema: Schema | None = None
    source_row: int = 0
    bucket_rows: tuple[int, ...] = ()
    scattered: bool = False
    written: int = 0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        state = json.loads(text)
        schema = None if state["schema"] is None else Schema.from_json(state["schema"])
        return cls(**{**state, "schema": schema, "bucket_rows": tuple(state["bucket_rows"])})


@dataclass(frozen=True, slots=True)
class Workspace:
    """A locked folder with a checkpoint, files of the shuffle and, for a local target, the unfinished group."""

    folder: Path

    @property
    def group(self) -> Path:
        return self.folder / "group.zarr"

    @property
    def spill(self) -> Path:
        return self.folder / "spill"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def replaced(self) -> Path:
        return self.folder / "replaced.zarr"

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"

    def resume(self, identity: str) -> Checkpoint:
        """The checkpoint of an earlier call with the same source and arguments, else a new one in an empty folder."""
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            checkpoint = Checkpoint.from_json(self._state.read_text())
            if checkpoint.identity == identity:
                logger.info("continuing the ingest in %s after %d rows", self.folder, checkpoint.source_row)
                return checkpoint
            logger.info("the source or the arguments changed: starting again in %s", self.folder)
        return self.restart(identity)

    def restart(self, identity: str) -> Checkpoint:
        """A new checkpoint, with what earlier calls left deleted."""
        self._state.unlink(missing_ok=True)
        for folder in (self.group, self.spill):
            shutil.rmtree(folder, ignore_errors=True)
        return Checkpoint(identity)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint in one step."""
        new = self._state.with_suffix(".new")
        new.write_text(checkpoint.to_json())
        new.replace(self._state)

    def remove(self) -> None:
        """Delete everything, the lock file last of all where the system allows it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was done here that a later call could use."""
        return not self._state.exists()


@contextmanager
def locked(folder: Path, label: str) -> Iterator[Workspace]:
    """The workspace in ``folder``, for this process alone; it is removed afterwards if no checkpoint was saved.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    label : str
        The store that is being made, for messages.

    Raises
    ------
    StoreError
        If another process holds it, or if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock")
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise StoreError(
            f"Another dvi.ingest is writing {label}, in {folder}: wait for it, end it, or choose another store."
        ) from error
    except OSError as error:
        raise StoreError(f"{label} cannot be written: {error}. Choose a folder that you may write to.") from error
    work = Workspace(folder)
    try:
        yield work
    finally:
        shutil.rmtree(work.scratch, ignore_errors=True)
        if work.is_untouched:
            work.remove()
        lock.release()
        if os.name == "nt" and work.is_untouched:
            with suppress(OSError):  # an open lock file cannot be deleted there; rmdir fails unless all is gone
                folder.rmdir()
