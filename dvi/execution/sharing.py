"""How many leaves a thread evaluates itself, and how many it leaves to others, which have to be woken first."""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY = 0.9  # part of the estimates that a step keeps
_TRY_EVERY = 1000  # steps for which a thread that does all itself does so, before it tries again


@dataclass(slots=True)
class Sharing:
    """Seconds that a leaf takes and that others take to begin, learned from step to step.

    Who evaluates which leaf changes nothing but the time, so that it may depend on the time. Waking a thread and having
    its answer takes some 0.1 to 0.3 ms, in which many small kernels are done.

    Parameters
    ----------
    leaf : float
        Seconds that a leaf takes.
    delay : float
        Seconds by which others begin and answer late.
    alone : int
        Steps in a row of which the thread has done all leaves itself.

    Examples
    --------
    >>> Sharing(leaf=1e-4, delay=2e-4).own(8, 2), Sharing(leaf=1e-5, delay=2e-4).own(8, 2)
    (5, 8)
    """

    leaf: float = 0.0
    delay: float = 0.0
    alone: int = 0

    def own(self, n_leaves: int, threads: int) -> int:
        """How many leaves to do oneself: as many as make the slower of oneself and the others quickest."""
        if threads < 2 or n_leaves < 2:
            return n_leaves

        def seconds(own: int) -> float:
            others = -(-(n_leaves - own) // (threads - 1))
            return max(own * self.leaf, self.delay + others * self.leaf if others else 0.0)

        best = min(range(1, n_leaves + 1), key=seconds) if self.leaf else -(-n_leaves // threads)
        self.alone = self.alone + 1 if best == n_leaves else 0
        return n_leaves - 1 if self.alone and self.alone % _TRY_EVERY == 0 else best

    def saw(self, leaf: float, delay: float | None = None) -> None:
        """Learn from a step: seconds of a leaf, and the delay of others where there were any."""
        self.leaf = _blend(self.leaf, leaf)
        if delay is not None:
            self.delay = _blend(self.delay, delay)


def _blend(old: float, new: float) -> float:
    return _MEMORY * old + (1.0 - _MEMORY) * new if old else new
