"""One process at a time in a folder of runs, also after one was killed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dvi.data.store import Target
from dvi.errors import DviError, StoreExistsError
from dvi.persistence.leases import HEARTBEAT_SECONDS, STALE_SECONDS, Lease, take

logger = logging.getLogger(__name__)

_ASK_SECONDS = 2.0


def take_over(target: Target) -> Lease:
    """Take the lease of a place, also that of a process that was killed.

    The system takes back a lock on a folder; in another store, only time tells a killed process from one that is alive.

    Raises
    ------
    StoreExistsError
        If a process that is alive has it.
    """
    deadline = time.monotonic() + (0.0 if target.path is not None else STALE_SECONDS + _ASK_SECONDS)
    while True:
        try:
            return take(target)
        except StoreExistsError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_ASK_SECONDS)


@contextmanager
def held(lease: Lease) -> Iterator[Lease]:
    """A lease that is renewed in a thread until it is released at the end."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            try:
                lease.renew()
            except (
                DviError
            ) as error:  # it may be there again the next time; a lease that is lost is seen before promotion
                logger.warning("the lease of the folder of runs was not renewed: %s", error)

    thread = threading.Thread(target=renew, name="dvi-retrain-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        lease.release()
