"""What is kept of how a fit went: a few hundred moments of it, whatever its length."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

_MOST = 256  # moments; when there are more, every second is dropped


class Moment(NamedTuple):
    """Counts since the start of a fit, at one time."""

    seconds: float
    steps: int
    rows: int
    hosts: int
    learning_rate: float | None
    read: float = 0.0  # seconds, as those of Times
    compute: float = 0.0
    wait: float = 0.0


@dataclass(slots=True)
class Course:
    """Moments of a fit, at most 256 of them and evenly thinned.

    Examples
    --------
    >>> course = Course()
    >>> for i in range(1_000):
    ...     course.add(Moment(0.5 * i, i, 100 * i, 1, 0.05))
    >>> 128 <= len(course.moments) <= 256, course.moments[0][:5], course.to_json()["steps"][-1]
    (True, (0.0, 0, 0, 1, 0.05), 999)
    """

    moments: list[Moment] = field(default_factory=list)
    last: Moment | None = None
    _seen: int = 0
    _every: int = 1

    def add(self, moment: Moment) -> None:
        """Keep a moment, or every second, fourth, ... where there are many."""
        if self._seen % self._every == 0:
            self.moments.append(moment)
        if len(self.moments) > _MOST:
            self.moments, self._every = self.moments[::2], 2 * self._every
        self._seen += 1
        self.last = moment

    def to_json(self) -> dict[str, list[Any]]:
        """A list for each field of :class:`Moment`, the last moment always among them."""
        kept = self.moments if not self.moments or self.moments[-1] is self.last else [*self.moments, self.last]
        return {name: [getattr(moment, name) for moment in kept] for name in Moment._fields}
