"""Where the rows of steps lie, for lanes whose rows stay in memory: made for many steps at once."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvi.data.stream import Stream
from dvi.model.compile import CompiledKernel, Pieces
from dvi.types import Slab

type _Numbers = NDArray[np.int64]

_GROUPS = 64  # of lanes that are known


class Table(NamedTuple):
    """What a kernel is given of some steps.

    Parameters
    ----------
    steps : range
        All there are, where they take the same rows: then one is there for all of them.
    rows : array of int64, shape (P, 1 + arrays)
        As those of :class:`dvi.model.compile.Pieces`, those of one step after those of another.
    ends : array of int64, shape (steps, lanes + 1)
        Pieces before each lane of each step, and after its last.
    slabs : list of Slab
        What the addresses point into, which has to stay as long as they are used.
    """

    steps: range
    rows: _Numbers
    ends: _Numbers
    slabs: list[Slab]

    def at(self, step: int) -> Pieces:
        """The pieces of one of the steps."""
        return Pieces(self.rows, self.ends[min(step - self.steps.start, len(self.ends) - 1)])


@dataclass(eq=False)
class Tables:
    """Tables of groups of lanes.

    Looking up where every lane has its rows takes longer than a small kernel. What is looked up for many steps at once
    takes a tenth of that.

    Parameters
    ----------
    stream : Stream
    kernel : CompiledKernel
    """

    stream: Stream
    kernel: CompiledKernel
    _known: dict[tuple[int, ...], Table] = field(default_factory=dict)

    def of(self, lanes: tuple[int, ...], step: int) -> Table | None:
        """A table that has a step of some lanes; None where rows are not kept."""
        known = self._known.get(lanes)
        if known is None or step not in known.steps:
            kept = [self.stream.kept(lane) for lane in lanes]
            if any(slabs is None for slabs in kept):
                return None
            known = self._make(lanes, step, [slabs for slabs in kept if slabs is not None])
            if len(self._known) >= _GROUPS:
                self._known.clear()
            self._known[lanes] = known
        return known

    def _make(self, lanes: tuple[int, ...], step: int, kept: list[list[Slab]]) -> Table:
        plan = self.stream.plan
        if any(plan.shuffled(lane) for lane in lanes):
            steps = covered = min((plan.steps_around(step, lane) for lane in lanes), key=len)
        else:
            steps, covered = range(1), range(sys.maxsize)
        parts, numbers = [], []
        for i, (lane, slabs) in enumerate(zip(lanes, kept, strict=True)):
            pieces = plan.pieces(steps, lane)
            for slab in slabs:
                self.kernel.check(slab)
            places = np.array([slab.places for slab in slabs])  # (pools, arrays, 2)
            addresses = places[pieces.pool, :, 0] + pieces.start[:, None] * places[pieces.pool, :, 1]
            counts = pieces.stop - pieces.start
            parts.append(np.column_stack([counts, addresses]))
            numbers.append((pieces.step - steps.start) * len(lanes) + i)
        number = np.concatenate(numbers)
        order = np.argsort(number, kind="stable")
        firsts = len(lanes) * np.arange(len(steps))[:, None] + np.arange(len(lanes) + 1)
        ends = np.searchsorted(number[order], firsts)
        return Table(covered, np.concatenate(parts)[order], ends, [slab for slabs in kept for slab in slabs])
