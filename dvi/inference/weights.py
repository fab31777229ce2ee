"""Weights of particles that have found several modes of a density, but not how much mass each of them has."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from dvi.errors import ArgumentError
from dvi.types import FloatArray

_NEIGHBOURS = 15
_PROMINENCE = 3.0  # a mode stands 20 times higher than the pass that leads to a higher one

_BRIDGE = np.linspace(0.1, 0.9, 9)  # where the density is looked up between two groups of particles

type IntArray = NDArray[np.intp]
type LogDensity = Callable[[FloatArray], FloatArray]


def importance_log_weights(Z: FloatArray, logp: FloatArray, density: LogDensity | None = None) -> FloatArray:
    r"""Log weights that give each mode of a density its mass, and the particles of one mode equal shares of it.

    Particles that follow a gradient stay in the mode in whose basin they began, so that their numbers tell nothing of
    its mass. Mode :math:`m`, with particles :math:`x_i` of covariance :math:`C_m`, weighs

    .. math::

        \exp\left(\frac{1}{n_m} \sum_{i \in m} \log p(x_i) + \tfrac12 \log\det 2 \pi e C_m\right),

    its evidence lower bound with the entropy of a normal distribution. That is exact for a normal mode whose covariance
    the particles have; a mode of another shape weighs too much, by the factor :math:`e^J` of its negentropy :math:`J`.
    A covariance has to come from :math:`d (d + 3) / 2` particles at least, where its entropy is low by half a nat;
    where a mode has fewer, and where there is one mode, all weights are equal.

    A mode is a peak of the log density over the graph that joins each particle with its 15 nearest, from which every
    path to a higher peak leads down by more than 3: the modes of persistence-based clustering, with the density known.
    Particles that have converged lie in tight groups, which their nearest do not leave. Where the graph falls apart,
    groups are joined to the nearest by a straight line, along which the density tells how deep the way leads.

    Parameters
    ----------
    Z : (n, d) array
        Particles, at the end of their way.
    logp : (n,) array
        Log density there, up to a constant.
    density : callable, optional
        The log density ``(S,)`` at ``(S, d)`` points, with the same constant. Groups are not joined without it.

    Returns
    -------
    (n,) array
        Log weights; the weights sum to 1.

    References
    ----------
    Chazal, Guibas, Oudot and Skraba, *Persistence-based clustering in Riemannian manifolds*, doi:10.1145/2535927.

    Examples
    --------
    Two modes of equal mass and shape, of which one was found by twice as many particles:

    >>> rng = np.random.default_rng(0)
    >>> Z = np.concatenate([rng.normal(0.0, 1.0, (200, 1)), rng.normal(50.0, 1.0, (100, 1))])
    >>> logp = -0.5 * np.minimum(Z**2, (Z - 50.0) ** 2).ravel()
    >>> weights = np.exp(importance_log_weights(Z, logp))
    >>> round(float(weights[:200].sum()), 1)
    0.5
    """
    if logp.shape != Z.shape[:1]:
        raise ArgumentError(f"logp has the shape {logp.shape}. Pass one log density for each of {len(Z)} particles.")
    n, d = Z.shape
    equal = np.full(n, -math.log(n))
    mode = _modes(Z, logp, density)
    sizes = np.bincount(mode)
    if len(sizes) == 1 or sizes.min() < max(0.5 * d * (d + 3), 2):
        return equal
    mass = np.array([_log_mass(Z[mode == m], logp[mode == m]) for m in range(len(sizes))])
    if not np.isfinite(mass).all():
        return equal
    mass -= np.logaddexp.reduce(mass)
    out: FloatArray = (mass - np.log(sizes))[mode]
    return out


def _log_mass(Z: FloatArray, logp: FloatArray) -> float:
    n, d = Z.shape
    deviations = Z - Z.mean(axis=0)
    _, log_det = np.linalg.slogdet(deviations.T @ deviations / n)
    return float(logp.mean() + 0.5 * (log_det + d * math.log(2.0 * math.pi * math.e)))


def _modes(Z: FloatArray, logp: FloatArray, density: LogDensity | None) -> IntArray:
    """Number ``(n,)`` of the mode of each particle, from 0."""
    order = np.argsort(-logp, kind="stable")
    height = logp[order]
    # Particles go by their rank from here on. A tree of parents leads to the root, which is the peak.
    edges, passes = _graph(Z[order], height, density)
    parent = list(range(len(Z)))

    def peak(rank: int) -> int:
        while parent[rank] != rank:
            parent[rank] = parent[parent[rank]]
            rank = parent[rank]
        return rank

    for i in np.argsort(-passes, kind="stable").tolist():
        one, other = sorted((peak(edges[i, 0]), peak(edges[i, 1])))
        if height[other] - passes[i] < _PROMINENCE:
            parent[other] = one
    out = np.empty(len(Z), np.intp)
    out[order] = np.unique([peak(rank) for rank in range(len(Z))], return_inverse=True)[1]
    return out


def _graph(Z: FloatArray, height: FloatArray, density: LogDensity | None) -> tuple[IntArray, FloatArray]:
    """Edges ``(e, 2)`` between near particles, and the lowest log density ``(e,)`` on the way."""
    spread = Z.std(axis=0)
    X = (Z - np.median(Z, axis=0)) / np.where(spread > 0, spread, 1.0)
    edges = _neighbours(X)
    passes = height[edges].min(axis=1)
    if density is not None:
        bridges = _bridges(X, edges)
        if len(bridges):
            one, other = Z[bridges[:, 0], None], Z[bridges[:, 1], None]
            on_the_way = density((one + _BRIDGE[:, None] * (other - one)).reshape(-1, Z.shape[1]))
            lowest = np.minimum(on_the_way.reshape(len(bridges), -1).min(axis=1), height[bridges].min(axis=1))
            edges, passes = np.concatenate([edges, bridges]), np.concatenate([passes, lowest])
    return edges, passes


def _neighbours(X: FloatArray) -> IntArray:
    """Pairs ``(e, 2)`` of near particles."""
    n = len(X)
    k = min(_NEIGHBOURS + 1, n)
    _, near = KDTree(X).query(X, k)
    pairs = np.column_stack([np.repeat(np.arange(n), k), near.reshape(-1)])
    pairs.sort(axis=1)
    out: IntArray = np.unique(pairs[:, ::-1], axis=0)
    return out


def _bridges(X: FloatArray, edges: IntArray) -> IntArray:
    """Pairs ``(b, 2)`` that join each group to the nearest other, and what is joined again, until one is left."""
    n, found = len(X), np.empty((0, 2), np.intp)
    while True:
        joined = np.concatenate([edges, found])
        n_groups, group = connected_components(coo_array((np.ones(len(joined)), joined.T), (n, n)), directed=False)
        if n_groups == 1:
            return found
        found = np.concatenate([found, *(_nearest_pair(X, group == g) for g in range(n_groups))])


def _nearest_pair(X: FloatArray, inside: NDArray[np.bool_]) -> IntArray:
    """The particle in a group and that outside it, ``(1, 2)``, that are nearest to each other."""
    here, there = np.flatnonzero(inside), np.flatnonzero(~inside)
    distance, near = KDTree(X[there]).query(X[here])
    at = int(np.argmin(distance))
    return np.array([[here[at], there[near[at]]]])
