"""Sums over a fixed binary tree, so that who computed which leaf does not change a bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dvi.types import NO_TIME, Evaluation, FloatArray, Times

type Node = tuple[int, int]  # level, index: covers leaves index * 2**level up to (index + 1) * 2**level


def combine(nodes: Mapping[Node, Evaluation], n_leaves: int) -> dict[Node, Evaluation]:
    """Add siblings until none is left: the largest complete subtrees that can be made of some nodes.

    A node whose sibling lies beyond the last leaf passes through unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> one = Evaluation(np.ones(1), np.ones((1, 2)), 1)
    >>> sorted(combine({(0, 0): one, (0, 1): one, (0, 2): one}, n_leaves=4))
    [(0, 2), (1, 0)]
    >>> combine({(0, 0): one, (0, 1): one, (0, 2): one}, n_leaves=3)[2, 0].n_rows
    3
    """
    complete = dict(nodes)
    for level in range(height(n_leaves)):
        for node in sorted(n for n in complete if n[0] == level and n[1] % 2 == 0):
            index = node[1]
            has_sibling = (index + 1) << level < n_leaves
            if not has_sibling:
                complete[level + 1, index // 2] = complete.pop(node)
            elif (level, index + 1) in complete:
                complete[level + 1, index // 2] = complete.pop(node) + complete.pop((level, index + 1))
    return complete


def height(n_leaves: int) -> int:
    """Level of the root."""
    return max(0, (n_leaves - 1).bit_length())


def assign(n_leaves: int, capacities: Sequence[int]) -> list[range]:
    """Split leaves into one contiguous run for each host, in proportion to capacities, so that subtrees are large.

    Examples
    --------
    >>> assign(8, [1, 1])
    [range(0, 4), range(4, 8)]
    """
    total = sum(capacities)
    ends, taken = [], 0
    for capacity in capacities:
        taken += capacity
        ends.append(round(n_leaves * taken / total))
    return [range(start, end) for start, end in pairwise([0, *ends])]


@dataclass(frozen=True, slots=True)
class Message:
    """Evaluations of several nodes of the tree as one array."""

    nodes: tuple[Node, ...]
    n_rows: tuple[int, ...]
    packed: FloatArray  # (nodes, S, 1 + d)
    times: Times = NO_TIME  # of the host

    @classmethod
    def pack(cls, evaluations: Mapping[Node, Evaluation], times: Times = NO_TIME) -> Message:
        """Put evaluations into one array."""
        packed = np.stack([np.column_stack([e.loglik, e.score]) for e in evaluations.values()])
        return cls(tuple(evaluations), tuple(e.n_rows for e in evaluations.values()), packed, times)

    def unpack(self) -> dict[Node, Evaluation]:
        """Views of the array as evaluations."""
        packed = aligned(self.packed)
        return {
            node: Evaluation(packed[i, :, 0], packed[i, :, 1:], n)
            for i, (node, n) in enumerate(zip(self.nodes, self.n_rows, strict=True))
        }


def aligned(array: FloatArray) -> FloatArray:
    """The array itself, or a copy where it came off the wire at an odd address: sums run in another order there."""
    return np.require(array, requirements=["C", "A"])
