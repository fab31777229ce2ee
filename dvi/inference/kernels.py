"""The bandwidth of a Gaussian kernel over particles: half the median squared distance, in units of log(n + 1)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from dvi.types import FloatArray

_EXACT = 2048  # particles whose pairs are all looked at: 2.1 million distances, 17 MB
_SAMPLE = 4096  # of numbers of which one of a rank is looked for
_BLOCK = 64  # rows of distances computed at once
_SMALLEST = 1e-200  # square of a length; what divides by it stays finite


def centred(Z: FloatArray) -> FloatArray:
    """Particles ``(n, d)`` less their median in each dimension, which a few particles far away do not move.

    Distances come from norms and inner products, which lose digits where all particles share a large offset.

    Examples
    --------
    >>> centred(np.array([[1e8], [1e8 + 1], [1e8 + 7]])).tolist()
    [[-1.0], [0.0], [6.0]]
    """
    out: FloatArray = Z - np.median(Z, axis=0)
    return out


def median_bandwidth(X: FloatArray) -> float:
    r"""Squared length scale :math:`h` of the kernel :math:`k(x, y) = \exp(-\|x - y\|^2 / 2h)` over particles.

    The rule of PyMC: :math:`h = \tfrac12 \, \text{med}_{ij} \|x_i - x_j\|^2 / \log(n + 1)`, where the median is over
    all :math:`n^2` ordered pairs, each particle with itself included. It is exact up to 2048 particles. Above, about
    two million pairs are looked at, in which every particle occurs equally often, which comes within 1 % of it.

    Where the median is 0, because most particles coincide, the mean takes its place, and 1 where that is 0 too.

    Parameters
    ----------
    X : (n, d) array
        Particles, near the origin: see :func:`centred`.

    Returns
    -------
    float
        Above 0.

    References
    ----------
    Liu and Wang, *Stein variational gradient descent*, arXiv:1608.04471, section 5, for the median.

    Examples
    --------
    >>> round(median_bandwidth(np.array([[0.0], [1.0], [3.0]])), 6)  # the median is 1
    0.360674
    """
    n = len(X)
    ones, norms = np.ones(n), np.einsum("nd,nd->n", X, X)
    left, right = np.column_stack([-2.0 * X, norms, ones]), np.column_stack([X, ones, norms])
    if n <= _EXACT:
        pairs = _all_pairs(left, right)
        scale = _median_of_ordered(pairs, n)
    else:
        pairs = _balanced_pairs(left, right)
        scale = _mean_of_ranks(pairs, round((0.5 * n - 1.0) / (n - 1.0) * (pairs.size - 1)))
    if scale < _SMALLEST and pairs.size:
        scale = float(np.add.reduce(np.maximum(pairs, 0.0, out=pairs))) / pairs.size
    return 0.5 * (scale if scale >= _SMALLEST else 1.0) / math.log(n + 1.0)


def _median_of_ordered(pairs: FloatArray, n: int) -> float:
    """Median of n zeros and of each of the ``n (n - 1) / 2`` distances twice."""
    low, high = ((rank - n) // 2 for rank in ((n * n - 1) // 2, n * n // 2))
    return _mean_of_ranks(pairs, low, high)


def _mean_of_ranks(pairs: FloatArray, *ranks: int) -> float:
    """Mean of the numbers of some ranks in ascending order, where that below rank 0 is 0, and no number less than 0."""
    found = order_statistics(pairs, [rank for rank in ranks if rank >= 0])
    return float(np.add.reduce(np.maximum(found, 0.0))) / len(ranks)


def order_statistics(values: FloatArray, ranks: list[int]) -> FloatArray:
    """Numbers of some ranks, which ascend, in ascending order.

    Few of many numbers lie between two of a sorted sample which have the ranks between them; only these are looked at
    more than once. Where the sample misleads, as it may where numbers repeat, all of them are.

    References
    ----------
    Floyd and Rivest, *Expected time bounds for selection*, doi:10.1145/360680.360691.

    Examples
    --------
    >>> order_statistics(np.array([3.0, 1.0, 2.0]), [0, 2]).tolist()
    [1.0, 3.0]
    """
    if not ranks:
        return np.empty(0)
    sample = np.sort(values[:: max(1, values.size // _SAMPLE)])
    share, margin = sample.size / values.size, 1.5 * math.sqrt(sample.size) + 2.0
    first, last = math.floor(ranks[0] * share - margin), math.ceil(ranks[-1] * share + margin)
    low = sample[first] if first >= 0 else -np.inf
    high = sample[last] if last < sample.size else np.inf
    below, among = int(np.count_nonzero(values < low)), values[(values >= low) & (values <= high)]
    if not below <= ranks[0] <= ranks[-1] < below + among.size:
        below, among = 0, values.copy()
    at = [rank - below for rank in ranks]
    among.partition(at)
    return among[at]


def _all_pairs(left: FloatArray, right: FloatArray) -> FloatArray:
    """Squared distances ``(n (n - 1) / 2,)`` between particles, in any order. Rounding can leave some below 0."""
    n = len(left)
    out = np.empty(n * (n - 1) // 2)
    filled = 0
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        rows = stop - start
        within = (left[start:stop] @ right[start:stop].T)[_above_diagonal(rows)]
        out[filled : filled + within.size] = within
        filled += within.size
        beyond = out[filled : filled + rows * (n - stop)].reshape(rows, n - stop)
        np.matmul(left[start:stop], right[stop:].T, out=beyond)
        filled += beyond.size
    return out


@lru_cache(maxsize=4)
def _above_diagonal(n: int) -> Any:
    return np.triu_indices(n, 1)


def _balanced_pairs(left: FloatArray, right: FloatArray) -> FloatArray:
    """Squared distances of a part of the pairs: each block of particles at even spacing with as many other blocks.

    That every particle occurs equally often removes most of the error that a sample of particles would have.
    """
    n_blocks = len(left) // _BLOCK
    n_shifts = min(max(1, _EXACT * _EXACT // (2 * _BLOCK * len(left))), (n_blocks - 1) // 2)
    shifts = [1 + k * ((n_blocks - 1) // 2) // n_shifts for k in range(n_shifts)]
    parts = [
        (left[block::n_blocks] @ right[(block + shift) % n_blocks :: n_blocks].T).ravel()
        for shift in shifts
        for block in range(n_blocks)
    ]
    return np.concatenate(parts)
