r"""What antithetic pairs of draws tell of the curvature of a log density, and steps that make it the same everywhere.

With a pair :math:`z_\pm = \mu \pm \delta`, half the difference of their scores, which see the same rows, is
:math:`H \delta` to second order, :math:`H` being the Hessian: a Hessian-vector product for nothing. Their regression on
:math:`\delta` is exact for a Gaussian posterior, and on minibatches its noise is a part of each product, so that
directions of next to no curvature come out as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dvi.types import FloatArray, Optimizer

type Sums = tuple[FloatArray, FloatArray]  # of delta delta^T and of (H delta) delta^T, both (d, d)

MOST_DIMENSIONS = 200  # beyond, matrices cost more than they save
_FLATTEST = 1e-8  # of the largest curvature: flatter directions, and those that curve upwards, count as this flat
_PAIRS = 2  # at least, for each dimension


def empty_sums(d: int) -> Sums:
    """Sums over no pair."""
    return np.zeros((d, d)), np.zeros((d, d))


def with_pairs(sums: Sums, Z: FloatArray, score: FloatArray) -> Sums:
    """Sums with antithetic draws ``Z (S, d)``, the second half those of the first mirrored, and scores ``(S, d)``."""
    half = len(Z) // 2
    step = 0.5 * (Z[:half] - Z[half:])
    change = 0.5 * (score[:half] - score[half:])
    return sums[0] + np.einsum("si,sj->ij", step, step), sums[1] + np.einsum("si,sj->ij", change, step)


def whitening(sums: Sums, n_pairs: int, std: FloatArray, left: FloatArray) -> FloatArray | None:
    r"""Directions of equally bold steps of the mean, as the columns of a matrix ``(d, d)``, or None.

    In units of the standard deviations let :math:`-H = V \Lambda V^T`. The columns are those of
    :math:`V \Lambda^{-1/2}`: along each the log density has the same curvature. Those along which there is more left
    to go than its length are made as long as that.

    Parameters
    ----------
    sums : (d, d) arrays
    n_pairs : int
        In the sums; too few for the dimensions give None.
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
    inner, outer = sums[0] / np.outer(std, std), sums[1] * np.outer(std, 1.0 / std)
    if not (np.isfinite(inner).all() and np.isfinite(outer).all()):
        return None
    minus_hessian = -np.linalg.solve(inner, outer.T)
    values, vectors = np.linalg.eigh(0.5 * (minus_hessian + minus_hessian.T))
    if values[-1] <= 0:
        return None
    roots = np.sqrt(np.maximum(values, _FLATTEST * values[-1]))
    far = np.abs(vectors.T @ (left / std)) * roots
    out: FloatArray = np.ascontiguousarray(std[:, None] * vectors * (np.maximum(1.0, far) / roots))
    return out


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
