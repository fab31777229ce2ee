"""How much of some work a thread does itself, and how much it leaves to others, which have to be woken first."""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY = 0.9  # part of an estimate that a step keeps
_TRIES = 3  # steps in a row, since the first has to look up where rows lie
_WORTH = 0.9  # part of the time that another share must take, as rows have to be looked up again for it
_TRY_EVERY = 512  # steps after which what has been slower is tried again; sooner at first: 8, 16, 32 and so on


@dataclass(slots=True)
class Sharing:
    """Seconds that work took alone and with others, learned from step to step.

    Who does which changes nothing but the time, so that it may depend on the time. Waking a thread and having its
    answer takes some 0.1 to 0.3 ms, in which many small kernels are done; and threads that often need the GIL get into
    each other's way.

    Parameters
    ----------
    alone, together : float
        Seconds that an item takes, all of them done by one thread or by several at once; 0 before it is known.
    item, delay : float
        With others: seconds of an item for a thread, and by which others begin and answer late.
    given : int
        Items that were done oneself when others helped last; 0 before.
    steps : int

    Examples
    --------
    >>> sharing = Sharing()
    >>> sharing.own(8, 2)
    4
    >>> sharing.saw(8, 8e-4, 1e-4, 4e-4)
    >>> sharing.own(8, 2)  # alone, to compare
    8
    >>> sharing.saw(8, 8e-4)
    >>> sharing.own(8, 2)  # others begin late
    6
    """

    alone: float = 0.0
    together: float = 0.0
    item: float = 0.0
    delay: float = 0.0
    given: int = 0
    steps: int = 0

    def own(self, n_items: int, threads: int) -> int:
        """How many items to do oneself: all, or as many as take as long as the others take for the rest."""
        if threads < 2 or n_items < 2 or self.keep():
            return n_items
        if not self.together:
            self.given = -(-n_items // threads)
            return self.given

        def seconds(own: int) -> float:
            return max(own * self.item, self.delay - (own - n_items) // (threads - 1) * self.item)

        best = min(range(1, n_items), key=seconds)
        if not 0 < self.given < n_items or seconds(best) < _WORTH * seconds(self.given):
            self.given = best
        return self.given

    def keep(self) -> bool:
        """Whether to do all items of the next step oneself: that is quicker, or to be tried."""
        self.steps += 1
        if not (self.alone and self.together):
            return bool(self.together)
        return (self.alone < self.together) != self._trying

    @property
    def _trying(self) -> bool:
        """Whether it is time for what has been slower, which may have waited for its first rows."""
        return self.steps >= 8 and self.steps % min(_TRY_EVERY, 1 << self.steps.bit_length() - 1) < _TRIES

    def saw(self, n_items: int, elapsed: float, item: float | None = None, delay: float = 0.0) -> None:
        """Learn from a step: seconds that it took, and where others helped, those of an item and of their delay."""
        if item is None:
            self.alone = _blend(self.alone, elapsed / max(1, n_items))
            return
        self.together = _blend(self.together, elapsed / n_items)
        self.item, self.delay = _blend(self.item, item), _blend(self.delay, delay)


def _blend(old: float, new: float) -> float:
    """The estimate after another step. It falls at once and rises slowly: what takes longer once is not the work."""
    return _MEMORY * old + (1.0 - _MEMORY) * min(new, 2.0 * old) if 0.0 < old < new else new
