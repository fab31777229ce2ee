"""Checkpoints around a run: who may write them, and that one is written however the run ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dvi.persistence.checkpoints import Checkpoint, check_new
from dvi.persistence.places import place_of
from dvi.persistence.writing import CheckpointWriter
from dvi.settings import Settings

TERMINATED = 143  # exit code: 128 and the number of SIGTERM, as shells have it


@contextmanager
def checkpointing(
    settings: Settings, latest: Callable[[], Checkpoint | None], *, fresh: bool
) -> Iterator[CheckpointWriter | None]:
    """A writer of checkpoints, or None where none are wanted. However the block ends, the last checkpoint is written.

    Parameters
    ----------
    settings : Settings
    latest : callable
        Returns the checkpoint of the last whole step, None before the first.
    fresh : bool
        Whether the checkpoints of another fit are in the way.

    Raises
    ------
    StoreExistsError
        If they are, or if another run is writing there.
    SystemExit
        With 143, once SIGTERM has ended the block.
    """
    if settings.checkpoint is None:
        yield None
        return
    target = place_of(settings.checkpoint)
    if fresh:
        check_new(target)
    with _terminable():
        writer = CheckpointWriter(target, settings.checkpoint_every, settings.keep)
        try:
            yield writer
        except BaseException as error:
            last = latest()
            writer.close(last)
            if last is not None and writer.n_written:
                error.add_note(
                    f"The fit so far is in {writer.label}; dvi.resume({writer.label!r}, model) goes on from there."
                )
            raise
        writer.close(latest())


@contextmanager
def _terminable() -> Iterator[None]:
    """A block that SIGTERM ends as Ctrl-C does, in the main thread and where nobody else handles it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
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
