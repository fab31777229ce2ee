"""Independent normal distributions, one for each unconstrained dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from dvi.compiled import compiled
from dvi.errors import ArgumentError
from dvi.types import FloatArray

_LOG_2PI = math.log(2.0 * math.pi)
_EXP_MAX = 700.0  # exp overflows above 709; log(1 + exp(x)) equals x, to the last bit, from 37


def softplus(x: FloatArray) -> FloatArray:
    """Return ``log(1 + exp(x))`` without overflow or cancellation; eight times faster than ``np.logaddexp(0, x)``.

    Examples
    --------
    >>> softplus(np.array([-40.0, 0.0, 800.0])).tolist()
    [4.248354255291589e-18, 0.6931471805599453, 800.0]
    """
    return _scales(x).sigma


class Scales(NamedTuple):
    """Standard deviations ``log(1 + exp(rho))``, and ``exp(rho)``, of which their slopes are made, each ``(d,)``."""

    sigma: FloatArray
    power: FloatArray


_last: list[tuple[FloatArray, int, Scales]] = [(np.empty(0), 0, Scales(np.empty(0), np.empty(0)))]


def scales(theta: FloatArray, start: int) -> Scales:
    """Return the scales of ``rho = theta[start:]``, which a step needs four times, not to be written to.

    They are computed once for a vector that cannot change: one that is not writeable.
    """
    if theta.flags.writeable:
        return _scales(theta[start:])
    vector, known, found = _last[0]
    if vector is not theta or known != start:
        found = _scales(theta[start:])
        found.sigma.flags.writeable = found.power.flags.writeable = False
        _last[0] = (theta, start, found)
    return found


def _scales(rho: FloatArray) -> Scales:
    power = np.minimum(rho, _EXP_MAX)
    np.exp(power, out=power)
    sigma = np.log1p(power)
    np.maximum(sigma, rho, out=sigma)
    return Scales(sigma, power)


@compiled
def _pullback(v: FloatArray, eps: FloatArray, power: FloatArray) -> FloatArray:
    n, d = v.shape
    out = np.zeros(2 * d)
    for s in range(n):
        for i in range(d):
            out[i] += v[s, i]
            out[d + i] += v[s, i] * eps[s, i]
    for i in range(d):
        out[i] /= n
        out[d + i] *= power[i] / (1.0 + power[i]) / n
    return out


@compiled
def _path(
    sigma: FloatArray, power: FloatArray, eps: FloatArray, logp: FloatArray, score: FloatArray, constant: float
) -> tuple[float, FloatArray]:
    """The mean of log densities less what :func:`_log_normal` returns, and the pullback of scores less theirs."""
    n, d = eps.shape
    value, gradient = 0.0, np.zeros(2 * d)
    for s in range(n):
        squares = 0.0
        for i in range(d):
            v = score[s, i] + eps[s, i] / sigma[i]
            gradient[i] += v
            gradient[d + i] += v * eps[s, i]
            squares += eps[s, i] * eps[s, i]
        value += logp[s] - (-0.5 * squares - constant)
    for i in range(d):
        gradient[i] /= n
        gradient[d + i] *= power[i] / (1.0 + power[i]) / n
    return value / n, gradient


@compiled
def _draw(theta: FloatArray, sigma: FloatArray, eps: FloatArray) -> FloatArray:
    n, d = eps.shape
    out = np.empty((n, d))
    for s in range(n):
        for i in range(d):
            out[s, i] = eps[s, i] * sigma[i] + theta[i]
    return out


@compiled
def _log_normal(eps: FloatArray, constant: float) -> FloatArray:
    """Log densities ``(S,)``, in an order of sums that no number of threads changes, as it may in BLAS."""
    n, d = eps.shape
    out = np.empty(n)
    for s in range(n):
        squares = 0.0
        for i in range(d):
            squares += eps[s, i] * eps[s, i]
        out[s] = -0.5 * squares - constant
    return out


def softplus_inverse(y: FloatArray) -> FloatArray:
    """Return ``log(exp(y) - 1)`` for ``y`` above 0, without overflow or cancellation.

    Examples
    --------
    >>> softplus_inverse(np.array([1e-20, 1.0, 800.0])).round(6).tolist()
    [-46.051702, 0.541325, 800.0]
    """
    return y + np.log(-np.expm1(-y))


def relative_units(rho: FloatArray) -> FloatArray:
    """Sizes of steps of ``rho`` that change ``log(1 + exp(rho))`` by equal factors.

    Examples
    --------
    >>> relative_units(np.array([-20.0, 100.0])).round(6).tolist()
    [1.0, 100.0]
    """
    tiny = np.finfo(np.float64).tiny
    out: FloatArray = np.maximum(softplus(rho), tiny) / np.maximum(expit(rho), tiny)
    return out


@dataclass(frozen=True, slots=True)
class MeanFieldFamily:
    r"""Diagonal normal distribution, :math:`z = \mu + \sigma \odot \epsilon` with :math:`\sigma = \log(1 + e^\rho)`.

    ``theta`` holds ``mu (d,)`` and then ``rho (d,)``, PyMC's parameters. Both tails of ``rho`` are exact: from about
    -700, where :math:`\sigma` leaves the range of a float, to any size.

    Parameters
    ----------
    ndim : int
        Unconstrained dimensions of the model, ``d``.

    References
    ----------
    Kucukelbir et al., *Automatic differentiation variational inference*, arXiv:1603.00788.

    Examples
    --------
    >>> family = MeanFieldFamily(2)
    >>> theta = family.initial(np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    >>> family.draw(theta, np.array([[0.0, 0.0], [1.0, -1.0]])).round(6).tolist()
    [[1.0, 2.0], [1.1, 1.8]]
    """

    ndim: int

    def __post_init__(self) -> None:
        if self.ndim < 1:
            raise ArgumentError(f"ndim = {self.ndim!r} is not allowed. Pass at least 1.")

    @property
    def noise_dim(self) -> int:
        return self.ndim

    @property
    def size(self) -> int:
        return 2 * self.ndim

    def initial(self, start: FloatArray, sigma: FloatArray) -> FloatArray:
        self._check("start", start, np.isfinite(start), "finite")
        self._check("sigma", sigma, np.isfinite(sigma) & (sigma > 0), "finite and above 0")
        return np.concatenate([start, softplus_inverse(sigma)])

    def unpack(self, theta: FloatArray) -> dict[str, FloatArray]:
        return {"mu": theta[: self.ndim], "rho": theta[self.ndim :]}

    def pack(self, params: Mapping[str, FloatArray]) -> FloatArray:
        return np.concatenate([params["mu"], params["rho"]])

    def units(self, theta: FloatArray, spread: FloatArray) -> FloatArray:
        return np.concatenate([spread, relative_units(theta[self.ndim :])])

    def draw(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        return _draw(theta, self.std(theta), eps)

    def pullback(self, theta: FloatArray, eps: FloatArray, v: FloatArray) -> FloatArray:
        return _pullback(v, eps, scales(theta, self.ndim).power)

    def path_gradient(
        self, theta: FloatArray, eps: FloatArray, logp: FloatArray, score: FloatArray
    ) -> tuple[float, FloatArray]:
        sigma, power = scales(theta, self.ndim)
        return _path(sigma, power, eps, logp, score, self._log_scale(theta))

    def log_q(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        return _log_normal(eps, self._log_scale(theta))

    def score(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        out = eps / self.std(theta)
        np.negative(out, out=out)
        return out

    def entropy(self, theta: FloatArray) -> float:
        return self._log_det(theta) + 0.5 * self.ndim * (1.0 + _LOG_2PI)

    def entropy_gradient(self, theta: FloatArray) -> FloatArray:
        d = self.ndim
        out = np.zeros(2 * d)
        sigma, power = scales(theta, d)
        np.divide(power, (1.0 + power) * sigma, out=out[d:])
        return out

    def mean(self, theta: FloatArray) -> FloatArray:
        return theta[: self.ndim].copy()

    def std(self, theta: FloatArray) -> FloatArray:
        return scales(theta, self.ndim).sigma

    def cov(self, theta: FloatArray) -> FloatArray:
        return np.diag(self.std(theta) ** 2)

    def _log_det(self, theta: FloatArray) -> float:
        """Sum of the log standard deviations."""
        return float(np.add.reduce(np.log(self.std(theta))))

    def _log_scale(self, theta: FloatArray) -> float:
        """What a log density has besides the squares of its noise."""
        return self._log_det(theta) + 0.5 * self.ndim * _LOG_2PI

    def _check(self, name: str, value: FloatArray, good: NDArray[np.bool_], rule: str) -> None:
        if value.shape != (self.ndim,):
            raise ArgumentError(f"{name} has the shape {value.shape}. Pass an array of shape ({self.ndim},).")
        if not good.all():
            first = int(good.argmin())
            raise ArgumentError(f"{name}[{first}] = {value[first]} is not allowed. Pass values that are {rule}.")
