"""Checkpoints written beside the fit: the latest one, one at a time, and no failure ends the fit."""

from __future__ import annotations

import logging
import threading
import time
import warnings

from dvi.data.store import Target
from dvi.errors import DviWarning, StoreError, StoreExistsError
from dvi.persistence.checkpoints import Checkpoint
from dvi.persistence.leases import Lease, take
from dvi.persistence.places import explained, label_of
from dvi.persistence.versions import add

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes the latest of the checkpoints that it was given, in a thread of its own.

    Parameters
    ----------
    target : Target
    every : float
        Seconds between two checkpoints.
    keep : int
        Checkpoints to keep.

    Attributes
    ----------
    n_written : int
        Checkpoints that were written.

    Raises
    ------
    StoreExistsError
        If another run writes there.
    """

    def __init__(self, target: Target, every: float, keep: int) -> None:
        self._target, self._every, self._keep = target, every, keep
        self.n_written = 0
        self._last = time.monotonic()
        self._changed = threading.Condition()
        self._next: Checkpoint | None = None
        self._closing = self._lost = self._warned = False
        self._trouble: str | None = None
        self._lease: Lease | None = None
        try:
            self._take()
        except StoreExistsError:
            raise
        except StoreError as error:
            self._trouble = str(error)
        self._thread = threading.Thread(target=self._run, name="dvi-checkpoint", daemon=True)
        self._thread.start()

    @property
    def label(self) -> str:
        """Where the checkpoints go, for people."""
        return label_of(self._target)

    def is_due(self) -> bool:
        """Whether it is time for the next one. Tells of what went wrong with those before."""
        self._report()
        return time.monotonic() - self._last >= self._every

    def put(self, checkpoint: Checkpoint) -> None:
        """Have a checkpoint written soon, in the place of one that still waits."""
        self._last = time.monotonic()
        with self._changed:
            self._next = checkpoint
            self._changed.notify()

    def close(self, last: Checkpoint | None) -> None:
        """Write the last one, wait until that is done, and let others have the place."""
        with self._changed:
            self._next, self._closing = last or self._next, True
            self._changed.notify()
        try:
            self._thread.join()
        except KeyboardInterrupt:  # the first one does not cost the checkpoint
            self._thread.join()
            raise
        finally:
            self._report()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._closing)
                checkpoint, self._next = self._next, None
            try:
                self._release() if checkpoint is None else self._work(checkpoint)
            except StoreExistsError as error:
                self._lost, self._trouble = True, str(error)
            except StoreError as error:
                self._trouble = str(error)
            if checkpoint is None:
                return

    def _work(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, unless another run has the place."""
        if self._lost:
            return
        self._take()
        with explained(self._target, "was given what cannot be written", "Change it."):
            contents = checkpoint.contents()
        add(self._target, contents, self._keep)
        self.n_written += 1

    def _take(self) -> None:
        with explained(self._target, "cannot be written", "Choose a place that you may write to."):
            if self._lease is None:
                self._lease = take(self._target)
            else:
                self._lease.renew()

    def _release(self) -> None:
        with explained(self._target, "cannot be written", "Choose a place that you may write to."):
            if self._lease is not None:
                self._lease.release()

    def _report(self) -> None:
        """A warning for the first failure, a line in the log for each later one."""
        trouble, self._trouble = self._trouble, None
        if trouble is None:
            return
        message = f"no checkpoint was written: {trouble}"
        if self._warned:
            logger.warning(message)
        else:
            self._warned = True
            warnings.warn(f"{message} The fit goes on; later failures are logged.", DviWarning, stacklevel=2)
