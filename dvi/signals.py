"""What a signal does to a fit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 143  # exit code: 128 and the number of SIGTERM, as shells have it


@contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """A block in which Ctrl-C raises KeyboardInterrupt also where dask-jobqueue was imported.

    Its import has Ctrl-C end the process (``dask_jobqueue.runner``, version 0.9). Any other handler is left alone.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not is_main_thread() or getattr(handler, "__module__", None) != "dask_jobqueue.runner":
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """A block that SIGTERM ends as Ctrl-C does, in the main thread and where nobody else handles it."""
    if not is_main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    received = False

    def interrupt(*_: Any) -> None:
        nonlocal received
        if not received:
            received = True
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if not received:
            raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if received:
        raise SystemExit(TERMINATED)


def is_main_thread() -> bool:
    """Whether this is the thread that signals reach."""
    return threading.current_thread() is threading.main_thread()
