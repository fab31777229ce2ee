"""A normal distribution whose covariance is a diagonal plus a matrix of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtri
from scipy.special import expit

from dvi.approximations.meanfield import MeanFieldFamily, softplus, softplus_inverse
from dvi.approximations.rows import stretch, stretch_inverse, stretch_pullback
from dvi.errors import ArgumentError
from dvi.randomness import keyed_generator
from dvi.types import FloatArray

_LOG_2PI = math.log(2.0 * math.pi)
_START_SHARE = 0.1  # of each standard deviation, in the length of its row of B. At 0, B would have no gradient


@dataclass(frozen=True, slots=True)
class LowRankFamily:
    r"""Normal distribution :math:`N(\mu, \Sigma)`, :math:`\Sigma = D (I + A A^T) D`, with :math:`D` diagonal.

    The noise has width ``d + rank``, and :math:`z = \mu + \sigma \odot (\epsilon_1 + A \epsilon_2)` with its first
    ``d`` and last ``rank`` entries, where :math:`\sigma = \log(1 + e^\rho)` is the diagonal of :math:`D` and :math:`A`
    has the shape ``(d, rank)``.

    ``theta`` holds ``mu (d,)``, ``rho (d,)`` and then ``(d, rank)`` entries, row by row. Its row :math:`i`, divided by
    :math:`\sqrt{\mathrm{rank}}`, is that of :math:`A` in logarithmic length, see :mod:`dvi.approximations.rows`: a step
    of an optimizer that moves every entry as far as any other makes sense whatever the scales of the posterior are.
    ``unpack`` and ``pack`` speak of ``mu``, ``rho`` and ``B (d, rank)``, :math:`B = D A`, so that
    :math:`\Sigma = D^2 + B B^T`.

    With :math:`C = I + A^T A`, of shape ``(rank, rank)``, the determinant lemma and the identity of Woodbury give

    .. math:: \log \det \Sigma = 2 \sum_i \log \sigma_i + \log \det C, \qquad
       \Sigma^{-1} = D^{-1} (I - A C^{-1} A^T) D^{-1}.

    Put :math:`u = C^{-1} (\epsilon_2 - A^T \epsilon_1)`. At a draw that product collapses into sums without
    cancellation, however long :math:`A` is:

    .. math:: -2 \log q(z) = |\epsilon_1 + A u|^2 + |\epsilon_2 - u|^2 + \log \det \Sigma + d \log 2\pi, \qquad
       \nabla_z \log q(z) = -(\epsilon_1 + A u) / \sigma.

    The entropy is :math:`\tfrac12 \log \det \Sigma` and a constant, and its gradient is :math:`A C^{-1}` in :math:`A`
    and :math:`1 / \sigma` in :math:`\sigma`. Only ``cov`` makes an array ``(d, d)``: each other verb costs of order
    :math:`d\, \mathrm{rank}\, (S + \mathrm{rank})`. The bits of a draw, of its density and of its score do not depend
    on the other draws of a call, and LAPACK sees matrices ``(rank, rank)`` only. Where :math:`C` has no Cholesky
    factor, because a parameter is not finite, results are NaN.

    Parameters
    ----------
    ndim : int
        Unconstrained dimensions of the model, ``d``.
    rank : int
        Columns of ``A``, from 1 to ``ndim``.

    References
    ----------
    Ong, Nott and Smith, *Gaussian variational approximation with a factor covariance structure*, arXiv:1701.03208.
    Miller, Foti and Adams, *Variational boosting: iteratively refining posterior approximations*, arXiv:1611.06585.

    Examples
    --------
    >>> family = LowRankFamily(2, rank=1)
    >>> theta = family.initial(np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    >>> family.std(theta).round(6).tolist()
    [0.1, 0.2]
    >>> theta = family.pack({"mu": theta[:2], "rho": theta[2:4], "B": np.array([[1.0], [-1.0]])})
    >>> family.draw(theta, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])).round(6).tolist()
    [[1.0, 2.0], [2.0, 1.0]]
    """

    ndim: int
    rank: int

    def __post_init__(self) -> None:
        MeanFieldFamily(self.ndim)  # refuses what is not a number of dimensions
        if not 1 <= self.rank <= self.ndim:
            raise ArgumentError(f"rank = {self.rank!r} is not allowed. Pass from 1 to {self.ndim}, the dimensions.")

    @property
    def noise_dim(self) -> int:
        return self.ndim + self.rank

    @property
    def size(self) -> int:
        return self.ndim * (2 + self.rank)

    def initial(self, start: FloatArray, sigma: FloatArray) -> FloatArray:
        d = self.ndim
        theta = np.empty(self.size)
        theta[: 2 * d] = MeanFieldFamily(d).initial(start, sigma)
        theta[d : 2 * d] = softplus_inverse(sigma * math.sqrt(1.0 - _START_SHARE**2))
        rows = keyed_generator(0, "start").standard_normal((d, self.rank))
        length = _START_SHARE / math.sqrt(1.0 - _START_SHARE**2)  # of a row of A
        rows *= (length / np.sqrt(np.einsum("dr,dr->d", rows, rows)))[:, None]
        theta[2 * d :] = self._flat(stretch_inverse(rows))
        return theta

    def unpack(self, theta: FloatArray) -> dict[str, FloatArray]:
        d = self.ndim
        sigma, rows = self._scales(theta)
        return {"mu": theta[:d], "rho": theta[d : 2 * d], "B": sigma[:, None] * rows}

    def pack(self, params: Mapping[str, FloatArray]) -> FloatArray:
        rows = stretch_inverse(params["B"] / softplus(params["rho"])[:, None])
        return np.concatenate([params["mu"], params["rho"], self._flat(rows)])

    def units(self, theta: FloatArray, spread: FloatArray) -> FloatArray:
        out = np.ones(self.size)
        out[: 2 * self.ndim] = MeanFieldFamily(self.ndim).units(theta[: 2 * self.ndim], spread)
        return out

    def draw(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        sigma, rows = self._scales(theta)
        out = self._residual(rows, eps[:, self.ndim :], eps)
        out *= sigma
        out += theta[: self.ndim]
        return out

    def pullback(self, theta: FloatArray, eps: FloatArray, v: FloatArray) -> FloatArray:
        d = self.ndim
        sigma, rows = self._scales(theta)
        out = np.empty(self.size)
        np.add.reduce(v, axis=0, out=out[:d])
        np.einsum("sd,sd->d", v, self._residual(rows, eps[:, d:], eps), out=out[d : 2 * d])
        out[d : 2 * d] *= expit(theta[d : 2 * d])  # d sigma / d rho
        slope = np.einsum("sd,sr->dr", v, eps[:, d:]) * sigma[:, None]
        out[2 * d :] = self._rows_pullback(theta, slope)
        out /= len(v)
        return out

    def log_q(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        sigma, scaled = self._scales(theta)
        inverse = _inverse_cholesky(scaled)
        u = self._shift(scaled, inverse, eps)
        first, last = self._residual(scaled, u, eps), eps[:, self.ndim :] - u
        out: FloatArray = np.einsum("sd,sd->s", first, first)
        out += np.einsum("sr,sr->s", last, last)
        out *= -0.5
        out -= _half_log_det(sigma, inverse) + 0.5 * self.ndim * _LOG_2PI
        return out

    def score(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        sigma, scaled = self._scales(theta)
        out = self._residual(scaled, self._shift(scaled, _inverse_cholesky(scaled), eps), eps)
        out /= np.negative(sigma, out=sigma)
        return out

    def entropy(self, theta: FloatArray) -> float:
        sigma, scaled = self._scales(theta)
        return _half_log_det(sigma, _inverse_cholesky(scaled)) + 0.5 * self.ndim * (1.0 + _LOG_2PI)

    def entropy_gradient(self, theta: FloatArray) -> FloatArray:
        d = self.ndim
        sigma, scaled = self._scales(theta)
        inverse = _inverse_cholesky(scaled)
        half = np.einsum("dr,kr->dk", scaled, inverse)
        out = np.zeros(self.size)
        np.divide(expit(theta[d : 2 * d]), sigma, out=out[d : 2 * d])
        out[2 * d :] = self._rows_pullback(theta, np.einsum("dk,kr->dr", half, inverse))
        return out

    def mean(self, theta: FloatArray) -> FloatArray:
        return theta[: self.ndim].copy()

    def std(self, theta: FloatArray) -> FloatArray:
        sigma, scaled = self._scales(theta)
        out: FloatArray = np.einsum("dr,dr->d", scaled, scaled)
        out += 1.0
        np.sqrt(out, out=out)
        out *= sigma
        return out

    def cov(self, theta: FloatArray) -> FloatArray:
        sigma, scaled = self._scales(theta)
        scaled *= sigma[:, None]
        out: FloatArray = np.einsum("ir,jr->ij", scaled, scaled)
        out.flat[:: self.ndim + 1] += sigma**2
        return out

    def _scales(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Diagonal ``sigma (d,)`` and matrix ``A (d, rank)``."""
        return softplus(theta[self.ndim : 2 * self.ndim]), stretch(self._rows(theta))

    def _rows(self, theta: FloatArray) -> FloatArray:
        """Rows ``(d, rank)`` of ``theta`` in the units that are stretched."""
        out: FloatArray = theta[2 * self.ndim :].reshape(self.ndim, self.rank) / math.sqrt(self.rank)
        return out

    def _flat(self, rows: FloatArray) -> FloatArray:
        """The inverse of ``_rows``: the end of ``theta``."""
        out: FloatArray = rows.ravel() * math.sqrt(self.rank)
        return out

    def _rows_pullback(self, theta: FloatArray, slope: FloatArray) -> FloatArray:
        """Gradient in the end of ``theta`` of a function whose gradient in ``A`` is ``slope (d, rank)``."""
        out: FloatArray = stretch_pullback(self._rows(theta), slope).ravel()
        out /= math.sqrt(self.rank)
        return out

    def _shift(self, scaled: FloatArray, inverse: FloatArray, eps: FloatArray) -> FloatArray:
        """Vectors ``u (S, rank)`` of the class docstring."""
        gap = eps[:, self.ndim :] - np.einsum("sd,rd->sr", eps[:, : self.ndim], np.ascontiguousarray(scaled.T))
        half = np.einsum("sr,kr->sk", gap, inverse)
        out: FloatArray = np.einsum("sk,kr->sr", half, inverse)
        return out

    def _residual(self, scaled: FloatArray, u: FloatArray, eps: FloatArray) -> FloatArray:
        """Vectors ``eps_1 + A u (S, d)``."""
        out: FloatArray = np.einsum("sr,dr->sd", u, scaled)
        out += eps[:, : self.ndim]
        return out


def _inverse_cholesky(scaled: FloatArray) -> FloatArray:
    """Inverse ``(rank, rank)`` of the lower Cholesky factor ``K`` of ``C``, so that ``C^-1 = K^-T K^-1``."""
    rows = np.ascontiguousarray(scaled.T)
    c = np.einsum("rd,kd->rk", rows, rows)
    c.flat[:: len(c) + 1] += 1.0
    factor, failed = dpotrf(c, lower=1)  # zeros above the diagonal
    if failed:
        return np.full(c.shape, np.nan)
    return np.ascontiguousarray(dtrtri(factor, lower=1)[0])


def _half_log_det(sigma: FloatArray, inverse: FloatArray) -> float:
    """Half the log determinant of the covariance."""
    return float(np.add.reduce(np.log(sigma)) - np.add.reduce(np.log(np.diag(inverse))))
