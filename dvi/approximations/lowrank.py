"""A normal distribution whose covariance is a diagonal plus a matrix of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtri
from scipy.special import expit

from dvi.approximations.meanfield import MeanFieldFamily, softplus, softplus_inverse
from dvi.errors import ArgumentError
from dvi.randomness import keyed_generator
from dvi.types import FloatArray

_LOG_2PI = math.log(2.0 * math.pi)
_START_SHARE = 0.1  # of each standard deviation, in the length of its row of B. At 0, B would have no gradient


@dataclass(frozen=True, slots=True)
class LowRankFamily:
    r"""Normal distribution :math:`N(\mu, \mathrm{diag}(\sigma^2) + B B^T)` with :math:`\sigma = \log(1 + e^\rho)`.

    ``theta`` holds ``mu (d,)``, ``rho (d,)`` and ``B (d, rank)``, row by row. The noise has width ``d + rank``, and
    :math:`z = \mu + \sigma \odot \epsilon_1 + B \epsilon_2` with its first ``d`` and last ``rank`` entries.

    With :math:`A = B / \sigma` and :math:`C = I + A^T A`, of shape ``(rank, rank)``, the determinant lemma and the
    identity of Woodbury give the determinant and the inverse of the covariance :math:`\Sigma`,

    .. math:: \log \det \Sigma = 2 \sum_i \log \sigma_i + \log \det C, \qquad
       \Sigma^{-1} = \sigma^{-1} (I - A C^{-1} A^T) \sigma^{-1}.

    Put :math:`u = C^{-1} (\epsilon_2 - A^T \epsilon_1)`. At a draw that product collapses into sums without
    cancellation, however long :math:`B` is beside :math:`\sigma`:

    .. math:: -2 \log q(z) = |\epsilon_1 + A u|^2 + |\epsilon_2 - u|^2 + \log \det \Sigma + d \log 2\pi, \qquad
       \nabla_z \log q(z) = -(\epsilon_1 + A u) / \sigma.

    The entropy is :math:`\tfrac12 \log \det \Sigma` and a constant, and its gradient is :math:`\Sigma^{-1} B` in
    :math:`B` and :math:`\sigma_i (\Sigma^{-1})_{ii}` in :math:`\sigma_i`. Only ``cov`` makes an array ``(d, d)``: each
    other verb costs of order :math:`d\, \mathrm{rank}\, (S + \mathrm{rank})`. The bits of a draw, of its density and of
    its score do not depend on the other draws of a call, and LAPACK sees matrices ``(rank, rank)`` only. Where
    :math:`C` has no Cholesky factor, because a parameter is not finite, results are NaN.

    Parameters
    ----------
    ndim : int
        Unconstrained dimensions of the model, ``d``.
    rank : int
        Columns of ``B``, from 1 to ``ndim``.

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
    >>> theta[4:] = [1.0, -1.0]  # B
    >>> family.draw(theta, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
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
        theta = np.empty(self.size)
        theta[: 2 * self.ndim] = MeanFieldFamily(self.ndim).initial(start, sigma)
        parts = self.unpack(theta)
        parts["rho"][:] = softplus_inverse(sigma * math.sqrt(1.0 - _START_SHARE**2))
        rows = keyed_generator(0, "start").standard_normal((self.ndim, self.rank))
        rows *= (_START_SHARE * sigma / np.sqrt(np.einsum("dr,dr->d", rows, rows)))[:, None]
        parts["B"][:] = rows
        return theta

    def unpack(self, theta: FloatArray) -> dict[str, FloatArray]:
        d = self.ndim
        return {"mu": theta[:d], "rho": theta[d : 2 * d], "B": theta[2 * d :].reshape(d, self.rank)}

    def draw(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        d = self.ndim
        # not a BLAS product, whose bits depend on its threads and on the number of draws
        out: FloatArray = np.einsum("sr,dr->sd", eps[:, d:], theta[2 * d :].reshape(d, self.rank))
        out += eps[:, :d] * softplus(theta[d : 2 * d])
        out += theta[:d]
        return out

    def pullback(self, theta: FloatArray, eps: FloatArray, v: FloatArray) -> FloatArray:
        d = self.ndim
        out = np.empty(self.size)
        np.add.reduce(v, axis=0, out=out[:d])
        np.einsum("sd,sd->d", v, eps[:, :d], out=out[d : 2 * d])
        out[d : 2 * d] *= expit(theta[d : 2 * d])  # d sigma / d rho
        np.einsum("sd,sr->dr", v, eps[:, d:], out=out[2 * d :].reshape(d, self.rank))
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
        sigma, scaled = self._scales(theta)
        inverse = _inverse_cholesky(scaled)
        half = np.einsum("dr,kr->dk", scaled, inverse)  # A K^-T, so that A C^-1 A^T = half half^T
        out = np.zeros(self.size)
        parts = self.unpack(out)
        parts["rho"][:] = (1.0 - np.einsum("dk,dk->d", half, half)) * expit(self.unpack(theta)["rho"]) / sigma
        parts["B"][:] = np.einsum("dk,kr->dr", half, inverse) / sigma[:, None]
        return out

    def mean(self, theta: FloatArray) -> FloatArray:
        return theta[: self.ndim].copy()

    def std(self, theta: FloatArray) -> FloatArray:
        parts = self.unpack(theta)
        out = softplus(parts["rho"])
        out *= out
        out += np.einsum("dr,dr->d", parts["B"], parts["B"])
        return np.sqrt(out, out=out)

    def cov(self, theta: FloatArray) -> FloatArray:
        parts = self.unpack(theta)
        out: FloatArray = np.einsum("ir,jr->ij", parts["B"], parts["B"])
        out.flat[:: self.ndim + 1] += softplus(parts["rho"]) ** 2
        return out

    def _scales(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Standard deviations ``sigma (d,)`` and ``A = B / sigma (d, rank)``."""
        parts = self.unpack(theta)
        sigma = softplus(parts["rho"])
        return sigma, parts["B"] / sigma[:, None]

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
