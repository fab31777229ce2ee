r"""The direction in which moving particles decreases their divergence from a density fastest, in a kernel's space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dvi.inference.kernels import centred, median_bandwidth
from dvi.inference.settings import count, positive, settle
from dvi.types import Family, FloatArray, Work

_FAR = -500.0  # exp of less adds nothing to a sum, and becomes numbers so small that arithmetic with them is slow


@dataclass(frozen=True, slots=True)
class Stein:
    r"""Stein's variational gradient of particles, and minus their kernelised Stein discrepancy.

    With particles :math:`x_i`, scores :math:`s_i = \nabla \log p(x_i) / T` and the kernel
    :math:`k(x, y) = \exp(-\|x - y\|^2 / 2h)`, where :math:`h` is :func:`~dvi.inference.kernels.median_bandwidth`:

    .. math::

        \phi_i = \frac1n \sum_j \left[ k(x_j, x_i) s_j + \nabla_{x_j} k(x_j, x_i) \right]

    is the direction of particle :math:`i`, and the gradient in the parameters is
    :math:`\sum_i J_i^T \phi_i` with :math:`J_i = \partial x_i / \partial\theta`. Where the particles themselves are the
    parameters this is the step of SVGD, elsewhere that of amortised SVGD. The value is minus

    .. math::

        \frac{1}{n^2} \sum_{ij} \left[ k s_i^T s_j + s_i^T \nabla_{x_j} k + s_j^T \nabla_{x_i} k
        + \text{tr} \nabla_{x_i} \nabla_{x_j} k \right],

    the squared discrepancy, which is never negative, and is the rate at which the divergence from the density falls
    along :math:`\phi`.

    Parameters
    ----------
    temperature : float
        :math:`T`, above 0. Particles spread as under :math:`p^{1/T}`.
    block : int
        Particles whose directions are computed at once, at least 1. It fixes the order of sums, so it is part of a
        recorded run and does not depend on where the blocks are computed.

    References
    ----------
    Liu and Wang, *Stein variational gradient descent*, arXiv:1608.04471.
    Wang and Liu, *Learning to draw samples*, arXiv:1611.01722, for the amortised form.
    Liu, Lee and Jordan, *A kernelized Stein discrepancy for goodness-of-fit tests*, arXiv:1602.03253.

    Examples
    --------
    >>> Stein()
    Stein(temperature=1.0, block=64)
    """

    temperature: float = 1.0
    block: int = 64

    def __post_init__(self) -> None:
        settle(
            self,
            temperature=positive("temperature", self.temperature),
            block=count("block", self.block, least=1),
        )

    def work(self, Z: FloatArray, score: FloatArray) -> Work | None:
        """The blocks of particles ``Z (n, d)`` with scores ``(n, d)``; None for one block, which no one can share."""
        return self._blocks(Z, score) if len(Z) > self.block else None

    def gradient(
        self,
        family: Family,
        theta: FloatArray,
        eps: FloatArray,
        logp: FloatArray,
        score: FloatArray,
        results: Sequence[Any],
    ) -> tuple[float, FloatArray]:
        """Minus the squared discrepancy, and the gradient. No argument is written to.

        Parameters
        ----------
        family : Family
            The particles, or what draws them.
        theta : (p,) array
            Its parameters.
        eps : (n, noise_dim) array
            Noise, from which the particles were made.
        logp : (n,) array
            Log joint density at the particles; not used.
        score : (n, d) array
            Gradient of ``logp`` with respect to the particles.
        results : list of (phi (block, d), sum) pairs
            What :func:`stein_block` returned for each block, in their order; empty where there was no work to share.

        Returns
        -------
        value : float
        gradient : (p,) array
            Direction of ascent.
        """
        if not results:
            work = self._blocks(family.draw(theta, eps), score)
            results = [work.function(*work.shared, item) for item in work.items]
        n = len(score)
        value = -math.fsum(partial for _, partial in results) / n**2
        gradient = family.pullback(theta, eps, np.concatenate([phi for phi, _ in results]))
        gradient *= n
        return value, gradient

    def _blocks(self, Z: FloatArray, score: FloatArray) -> Work:
        n, d = Z.shape
        X = centred(Z)
        h = median_bandwidth(X)
        table = np.empty((n, 2 * d + 2))
        np.divide(score, self.temperature, out=table[:, :d])
        scaled = np.divide(X, math.sqrt(2.0 * h), out=table[:, d : 2 * d])
        table[:, 2 * d] = 1.0
        np.negative(np.einsum("nd,nd->n", scaled, scaled), out=table[:, 2 * d + 1])
        ranges = tuple((start, min(start + self.block, n)) for start in range(0, n, self.block))
        return Work(stein_block, (table, h), ranges)


def stein_block(table: FloatArray, h: float, rows: tuple[int, int]) -> tuple[FloatArray, float]:
    r"""Directions of a block of particles, and the part of their rows in the sum of the squared discrepancy.

    Parameters
    ----------
    table : (n, 2 d + 2) array
        Scores ``(n, d)``, scaled particles :math:`y = x / \sqrt{2h}` ``(n, d)``, ones, and :math:`-\|y\|^2`. The
        columns from ``d`` on give all exponents of the kernel as one matrix product, all of them all its sums.
    h : float
        Squared length scale of the kernel.
    rows : (int, int)
        First particle of the block, and the first one after it.

    Returns
    -------
    phi : (block, d) array
    partial : float

    Examples
    --------
    >>> table = np.array([[-1.0, 0.0, 1.0, 0.0]])  # one particle, which only follows its score
    >>> stein_block(table, 0.5, (0, 1))
    (array([[-1.]]), 3.0)
    """
    n, d = len(table), table.shape[1] // 2 - 1
    block = table[slice(*rows)]
    score, y = block[:, :d], block[:, d : 2 * d]
    minus_norm = block[:, 2 * d + 1]
    kernel = np.column_stack([2.0 * y, minus_norm, block[:, 2 * d]]) @ table[:, d:].T
    np.clip(kernel, _FAR, 0.0, out=kernel)  # rounding can leave a distance below 0
    np.exp(kernel, out=kernel)
    sums = kernel @ table
    attraction, sum_y, total = sums[:, :d], sums[:, d : 2 * d], sums[:, 2 * d]
    repulsion = y * total[:, None]
    repulsion -= sum_y
    # Of each particle with all others, the sum of k |x - y|^2 / 2h.
    moments = np.einsum("bd,bd->b", y, repulsion - sum_y) - sums[:, 2 * d + 1]
    repulsion *= math.sqrt(2.0 / h)
    phi = attraction + repulsion
    # The trace of the second derivative is k (d - |x - y|^2 / h) / h; the two mixed terms have equal sums.
    trace = float(np.add.reduce(d * total - 2.0 * moments)) / h
    partial = float(np.einsum("bd,bd->", score, phi + repulsion)) + trace
    phi /= n
    return phi, partial
