r"""What antithetic pairs of draws tell of the curvature of a log density, and steps that make it the same everywhere.

With a pair :math:`z_\pm = \mu \pm \delta`, half the difference of their scores, which see the same rows, is
:math:`c = H \delta` to second order, :math:`H` being the Hessian: a Hessian-vector product for nothing. Their
regression on :math:`\delta` is exact for a Gaussian posterior. On minibatches, and where the posterior is not Gaussian,
products have noise, but little along directions of next to no curvature. The regression does not use that :math:`H` is
symmetric; a mean of the two halves of its matrix, weighted by how exact they are, does, and keeps flat directions flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dvi.types import FloatArray, Optimizer

type Sums = tuple[FloatArray, ...]  # of delta delta^T, c delta^T and c c^T, each (d, d)

MOST_DIMENSIONS = 200  # beyond, matrices cost more than they save
_FLATTEST = 1e-8  # of the largest curvature: flatter directions, and those that curve upwards, count as this flat
_EXACT = 1e-16  # of the mean square of the products: noise that is no more than rounding
_PAIRS = 2  # at least, for each dimension


def empty_sums(d: int) -> Sums:
    """Sums over no pair."""
    return np.zeros((d, d)), np.zeros((d, d)), np.zeros((d, d))


def with_pairs(sums: Sums, Z: FloatArray, score: FloatArray) -> Sums:
    """Sums with antithetic draws ``Z (S, d)``, the second half those of the first mirrored, and scores ``(S, d)``."""
    half = len(Z) // 2
    step = 0.5 * (Z[:half] - Z[half:])
    change = 0.5 * (score[:half] - score[half:])
    products = ((step, step), (change, step), (change, change))
    return tuple(known + np.einsum("si,sj->ij", *new) for known, new in zip(sums, products, strict=True))


def whitening(sums: Sums, n_pairs: int, std: FloatArray, left: FloatArray) -> FloatArray | None:
    r"""Directions of equally bold steps of the mean, as the columns of a matrix ``(d, d)``, or None.

    In units of the standard deviations let :math:`-H = V \Lambda V^T`. The columns are those of
    :math:`V \Lambda^{-1/2}`: along each the log density has the same curvature. No curvature counts as less than its
    standard error. Columns along which there is more left to go than their length are made as long as that.

    Parameters
    ----------
    sums : three (d, d) arrays
    n_pairs : int
        In the sums; too few for the dimensions, or none with a finite difference, give None.
    std : (d,) array
        Of the approximation, above 0.
    left : (d,) array
        What the mean may still have to move.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> hessian = -np.array([[100.0, 99.0], [99.0, 100.0]])  # nearly flat along (1, -1)
    >>> step = rng.normal(size=(50, 2))
    >>> sums = with_pairs(empty_sums(2), np.concatenate([step, -step]), np.concatenate([step, -step]) @ hessian)
    >>> B = whitening(sums, 50, np.ones(2), np.zeros(2))
    >>> (B.T @ -hessian @ B).round(6).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    d = len(std)
    if n_pairs < _PAIRS * d:
        return None
    unit = np.outer(std, std)
    inner, outer, square = sums[0] / unit, sums[1] * np.outer(std, 1.0 / std), sums[2] * unit
    if not all(np.isfinite(sum_).all() for sum_ in (inner, outer, square)):
        return None
    reach = np.linalg.eigvalsh(inner)
    if reach[0] <= d * np.finfo(np.float64).eps * reach[-1]:  # steps that were skipped add nothing
        return None
    hessian, axes, variance = _symmetric_fit(inner, outer, square, n_pairs)
    values, vectors = np.linalg.eigh(-hessian)
    if values[-1] <= 0:
        return None
    part = np.einsum("ik,ij->kj", axes, vectors) ** 2
    error = np.sqrt(np.einsum("ik,ij,jk->k", part, variance, part))
    roots = np.sqrt(np.maximum(values, np.maximum(error, _FLATTEST * values[-1])))
    far = np.abs(vectors.T @ (left / std)) * roots
    out: FloatArray = np.ascontiguousarray(std[:, None] * vectors * (np.maximum(1.0, far) / roots))
    return out


def _symmetric_fit(
    inner: FloatArray, outer: FloatArray, square: FloatArray, n: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    r"""The Hessian, and on which axes its elements have independent errors of which variance, all ``(d, d)``.

    On the principal axes of the noise, with variances :math:`r`, the regression of ``n`` products on equally long steps
    gives :math:`H_{ij}` twice, with the variances :math:`r_i / n` and :math:`r_j / n`. The variances that are returned
    are doubled, so that their sum, weighted by :math:`v_i^2 v_j^2`, is the variance of :math:`v^T H v`.
    """
    slope = np.linalg.solve(inner, outer.T).T
    residual = (square - slope @ outer.T) / (n - len(inner))
    noise, axes = np.linalg.eigh(0.5 * (residual + residual.T))
    noise = np.maximum(noise, max(_EXACT * float(np.trace(square)) / n, np.finfo(np.float64).tiny))
    slope = axes.T @ slope @ axes
    both = noise[:, None] + noise
    hessian = axes @ ((slope * noise + slope.T * noise[:, None]) / both) @ axes.T
    return hessian, axes, 2.0 / n * noise[:, None] * (noise / both)


@dataclass(frozen=True, slots=True, eq=False)
class Whitened:
    r"""An optimizer of :math:`B^{-1} \mu`, where :math:`\mu` is the first ``d`` parameters; the others stay.

    Parameters
    ----------
    optimizer : Optimizer
    basis : array, shape (d, d)
        :math:`B`.
    """

    optimizer: Optimizer
    basis: FloatArray

    @property
    def learning_rate(self) -> Any:
        """That of the optimizer, in units of the columns."""
        return getattr(self.optimizer, "learning_rate", None)

    def init(self, theta: FloatArray) -> tuple[FloatArray, ...]:
        """State for parameters ``theta (p,)``."""
        return self.optimizer.init(theta)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: tuple[FloatArray, ...], scale: float = 1.0
    ) -> tuple[FloatArray, tuple[FloatArray, ...]]:
        """Parameters and state after a step. No argument is written to."""
        d = len(self.basis)
        inside, slope = theta.copy(), gradient.copy()
        inside[:d] = 0.0  # only its change counts, so that a small one is not lost beside a large value
        slope[:d] = np.einsum("i,ij->j", gradient[:d], self.basis)
        out, slots = self.optimizer.update(step, inside, slope, state, scale)
        out[:d] = theta[:d] + np.einsum("ij,j->i", self.basis, out[:d])
        return out, slots
