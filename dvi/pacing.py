"""How many steps are done between two looks of the client, at which it gets the state."""

from __future__ import annotations

from dvi.types import Times

_SECONDS = 0.5  # of steps between two looks
_MOST_SECONDS = 5.0
_PART = 10.0  # how many times as long as a look the steps take at least, below that


def next_block(block: int, done: int, elapsed: float, times: Times) -> int:
    """Return the number of steps of the next block; this is the rule.

    They take about half a second, so that progress is seen and a lost server costs little. Where the state is large and
    has to travel, a look takes longer than what the steps took: then ten times that, and 5 seconds at most. A block is
    never more than twice as long as the one before, whose time it is judged by.

    Parameters
    ----------
    block : int
        Steps that were asked for.
    done : int
        Steps that were done.
    elapsed : float
        Seconds that it took, as the client sees it.
    times : Times
        Where those of the steps went.

    Examples
    --------
    >>> next_block(8, 8, 0.08, Times(compute=0.08)), next_block(64, 64, 0.64, Times(compute=0.64))
    (16, 50)
    >>> next_block(64, 64, 0.84, Times(compute=0.64))  # the state took 0.2 s
    128
    """
    if not done:
        return block
    steps = min(elapsed, times.read + times.compute + times.wait)
    seconds = min(_MOST_SECONDS, max(_SECONDS, _PART * (elapsed - steps)))
    return max(1, min(2 * block, int(seconds * done / max(steps, 1e-9))))
