"""A normal distribution with any covariance, by its Cholesky factor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dtrsv
from scipy.special import expit

from dvi.approximations.meanfield import MeanFieldFamily, softplus
from dvi.types import FloatArray

_LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True, slots=True)
class FullRankFamily:
    r"""Normal distribution :math:`N(\mu, L L^T)`, :math:`z = \mu + L \epsilon` with :math:`L` lower triangular.

    ``theta`` holds ``mu (d,)`` and then ``L_tril (d (d + 1) / 2,)``, PyMC's parameters: the lower triangle row by row,
    the order of ``np.tril_indices``. As in PyMC, the entries of ``L_tril`` on the diagonal are :math:`\rho` with
    :math:`L_{ii} = \log(1 + e^{\rho_i})`, above 0 for every ``theta``; the others are those of :math:`L`. So

    .. math:: \log q(z) = -\tfrac12 \epsilon^T \epsilon - \sum_i \log L_{ii} - \tfrac d2 \log 2\pi, \qquad
       \nabla_z \log q(z) = -L^{-T} \epsilon.

    Each verb costs of order :math:`S d^2`, except ``cov``, of order :math:`d^3`. The bits of a draw, of its density and
    of its score do not depend on the other draws of a call, and only ``score``, a triangular solve for each draw, uses
    BLAS.

    Parameters
    ----------
    ndim : int
        Unconstrained dimensions of the model, ``d``.

    References
    ----------
    Kucukelbir et al., *Automatic differentiation variational inference*, arXiv:1603.00788.

    Examples
    --------
    >>> family = FullRankFamily(2)
    >>> theta = family.initial(np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    >>> theta[3] = 0.5  # below the diagonal
    >>> family.draw(theta, np.array([[0.0, 0.0], [1.0, -1.0]])).round(6).tolist()
    [[1.0, 2.0], [1.1, 2.3]]
    """

    ndim: int

    def __post_init__(self) -> None:
        MeanFieldFamily(self.ndim)  # refuses what is not a number of dimensions

    @property
    def noise_dim(self) -> int:
        return self.ndim

    @property
    def size(self) -> int:
        return self.ndim * (self.ndim + 3) // 2

    def initial(self, start: FloatArray, sigma: FloatArray) -> FloatArray:
        diagonal = MeanFieldFamily(self.ndim).initial(start, sigma)
        theta = np.zeros(self.size)
        theta[: self.ndim] = diagonal[: self.ndim]
        theta[self._diagonal()] = diagonal[self.ndim :]
        return theta

    def unpack(self, theta: FloatArray) -> dict[str, FloatArray]:
        return {"mu": theta[: self.ndim], "L_tril": theta[self.ndim :]}

    def draw(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        # not a BLAS product, whose bits depend on its threads and on the number of draws
        out: FloatArray = np.einsum("sj,ij->si", eps, self._factor(theta))
        out += theta[: self.ndim]
        return out

    def pullback(self, theta: FloatArray, eps: FloatArray, v: FloatArray) -> FloatArray:
        d = self.ndim
        diagonal = self._diagonal()
        out = np.empty(self.size)
        np.add.reduce(v, axis=0, out=out[:d])
        out[d:] = np.einsum("si,sj->ij", v, eps)[_lower(d)]
        out[diagonal] *= expit(theta[diagonal])  # d L_ii / d rho_i
        out /= len(v)
        return out

    def log_q(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        out: FloatArray = np.einsum("sd,sd->s", eps, eps)
        out *= -0.5
        out -= self._log_det(theta) + 0.5 * self.ndim * _LOG_2PI
        return out

    def score(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        upper = self._factor(theta).T  # in the order of Fortran, so BLAS reads it in place
        out = np.empty_like(eps)
        for s, one in enumerate(eps):  # one solve a draw: those of many at once round by their number
            out[s] = dtrsv(upper, one)
        return np.negative(out, out=out)

    def entropy(self, theta: FloatArray) -> float:
        return self._log_det(theta) + 0.5 * self.ndim * (1.0 + _LOG_2PI)

    def entropy_gradient(self, theta: FloatArray) -> FloatArray:
        diagonal = self._diagonal()
        rho = theta[diagonal]
        out = np.zeros(self.size)
        out[diagonal] = expit(rho) / softplus(rho)
        return out

    def mean(self, theta: FloatArray) -> FloatArray:
        return theta[: self.ndim].copy()

    def std(self, theta: FloatArray) -> FloatArray:
        factor = self._factor(theta)
        out: FloatArray = np.einsum("ij,ij->i", factor, factor)
        return np.sqrt(out, out=out)

    def cov(self, theta: FloatArray) -> FloatArray:
        factor = self._factor(theta)
        out: FloatArray = np.einsum("ik,jk->ij", factor, factor)
        return out

    def _diagonal(self) -> NDArray[np.int_]:
        """Where ``theta`` holds the diagonal: ``(d,)``."""
        i = np.arange(self.ndim)
        return self.ndim + i * (i + 3) // 2

    def _factor(self, theta: FloatArray) -> FloatArray:
        """Matrix ``L (d, d)``."""
        d = self.ndim
        out = np.zeros((d, d))
        out[_lower(d)] = theta[d:]
        out.flat[:: d + 1] = softplus(theta[self._diagonal()])
        return out

    def _log_det(self, theta: FloatArray) -> float:
        """Log determinant of ``L``, half that of the covariance."""
        scale = softplus(theta[self._diagonal()])
        return float(np.add.reduce(np.log(scale, out=scale)))


@lru_cache(maxsize=8)
def _lower(d: int) -> NDArray[np.bool_]:
    """Which entries of a matrix ``(d, d)`` are on or below the diagonal: as a mask, they come row by row."""
    out = np.tri(d, dtype=np.bool_)
    out.flags.writeable = False
    return out
