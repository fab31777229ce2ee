"""SIGTERM and Ctrl-C as one thing: a KeyboardInterrupt that is remembered."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from dvi.signals import is_main_thread

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class Interruption:
    """Whether the process was asked to end.

    Parameters
    ----------
    signal : int or None
        The signal that asked for it.
    """

    signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt again if a fit ended because of it.

        A fit takes it as the wish to stop there, and returns what it has.
        """
        if self.signal is not None:
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Note signals that ask this process to end. Outside the main thread, which alone gets them, nothing is noted."""
    interruption = Interruption()
    if not is_main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
