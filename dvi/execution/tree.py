"""Sums over a fixed binary tree, so that who computed which leaf does not change a bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from dvi.compiled import compiled
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
        last = (n_leaves - 1) >> level
        for index in range(0, last + 1, 2):
            left, right = (level, index), (level, index + 1)
            if left not in complete or (index < last and right not in complete):
                continue
            total = complete.pop(left)
            complete[level + 1, index // 2] = total if index == last else total + complete.pop(right)
    return complete


def add_up(terms: FloatArray, weights: FloatArray) -> tuple[FloatArray, bool]:
    """Weighted sum over the first axis ``(n, ...)``, in the order of a complete subtree of so many leaves.

    Beside it, whether no element of it is infinite or NaN.

    Parameters
    ----------
    terms : array, shape (n, ...)
    weights : array, shape (n,)

    Examples
    --------
    >>> add_up(np.array([[1e16], [0.5], [-1e16]]), np.array([1.0, 2.0, 1.0]))  # (1e16 + 1) - 1e16
    (array([0.]), True)
    """
    out = np.empty(terms.shape[1:])
    return out, _add_up(terms.reshape(len(terms), -1), weights, out.reshape(-1))


@compiled
def _add_up(terms: FloatArray, weights: FloatArray, out: FloatArray) -> bool:
    """Put weighted sums over the first axis ``(n, m)`` into ``(m,)``; whether all are finite."""
    n, m = terms.shape
    finite = True
    part = np.empty((n, min(m, 2048)))
    for begin in range(0, m, 2048):
        width = min(2048, m - begin)
        for i in range(n):
            for j in range(width):
                part[i, j] = weights[i] * terms[i, begin + j]
        step = 1
        while step < n:
            for i in range(0, n - step, 2 * step):
                for j in range(width):
                    part[i, j] += part[i + step, j]
            step *= 2
        for j in range(width):
            out[begin + j] = part[0, j]
            finite &= part[0, j] - part[0, j] == 0.0
    return finite


def subtrees(leaves: range, n_leaves: int) -> dict[Node, range]:
    """The largest complete subtrees that some neighbouring leaves consist of, each with its leaves.

    Examples
    --------
    >>> subtrees(range(2, 7), 8)
    {(1, 1): range(2, 4), (1, 2): range(4, 6), (0, 6): range(6, 7)}
    >>> subtrees(range(3), 3)
    {(2, 0): range(0, 3)}
    """
    found, start = {}, leaves.start
    while start < leaves.stop:
        level = height(n_leaves)
        while start % 2**level or min(start + 2**level, n_leaves) > leaves.stop:
            level -= 1
        found[level, start >> level] = range(start, min(start + 2**level, n_leaves))
        start += 2**level
    return found


def height(n_leaves: int) -> int:
    """Level of the root."""
    return max(0, (n_leaves - 1).bit_length())


def assign(costs: Sequence[float], capacities: Sequence[int]) -> list[range]:
    """Split leaves into one contiguous run for each host, in proportion to capacities, so that subtrees are large.

    Of two cuts that are as good, to a hundredth of a leaf, the one that gives more to the later hosts: the last has the
    server beside it.

    Parameters
    ----------
    costs : sequence of float
        What each leaf takes.
    capacities : sequence of int
        What each host can do at once.

    Examples
    --------
    >>> assign([1.0] * 8, [1, 1])
    [range(0, 4), range(4, 8)]
    >>> assign([2.0, 2.0, 1.0, 1.0], [1, 1])
    [range(0, 1), range(1, 4)]
    """
    done, shares = [0.0, *accumulate(costs)], list(accumulate(capacities))
    leaf = sum(costs) / max(1, len(costs)) or 1.0

    def cut(share: float) -> int:
        return min(range(len(done)), key=lambda k: round(abs(done[k] - share * done[-1]) / leaf, 2))

    if not capacities:
        return []
    ends = [cut(share / shares[-1]) for share in shares[:-1]]
    return [range(start, end) for start, end in pairwise([0, *ends, len(costs)])]


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
        draws, d = next(iter(evaluations.values())).score.shape
        packed = np.empty((len(evaluations), draws, 1 + d))
        for row, evaluation in zip(packed, evaluations.values(), strict=True):
            row[:, 0], row[:, 1:] = evaluation.loglik, evaluation.score
        return cls(tuple(evaluations), tuple(e.n_rows for e in evaluations.values()), packed, times)

    def unpack(self) -> dict[Node, Evaluation]:
        """Views of the array as evaluations."""
        packed = aligned(self.packed)
        return {node: Evaluation.of(sums, n) for node, n, sums in zip(self.nodes, self.n_rows, packed, strict=True)}


def aligned(array: FloatArray) -> FloatArray:
    """The array itself, or a copy where it came off the wire at an odd address: sums run in another order there."""
    return np.require(array, requirements=["C", "A"])
