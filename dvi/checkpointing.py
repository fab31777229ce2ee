"""Checkpoints around a run: who may write them, and that one is written however the run ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dvi.persistence.checkpoints import Checkpoint, check_new
from dvi.persistence.places import place_of
from dvi.persistence.writing import CheckpointWriter
from dvi.settings import Settings
from dvi.signals import terminable


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
    target = place_of(settings.checkpoint, settings.storage_options)
    if fresh:
        check_new(target)
    with terminable():
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
