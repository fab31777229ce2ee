"""Seconds that threads spend on one thing, added up."""

from __future__ import annotations

from threading import Lock


class Stopwatch:
    """Seconds that any number of threads add to.

    Examples
    --------
    >>> waiting = Stopwatch()
    >>> waiting.add(1.5)
    >>> waiting.add(0.25)
    >>> waiting.take(), waiting.take()
    (1.75, 0.0)
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._lock = Lock()

    def add(self, seconds: float) -> None:
        """Add some seconds."""
        with self._lock:
            self._seconds += seconds

    def take(self) -> float:
        """The seconds since they were last taken."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds
