r"""What scores at the draws of an approximation say: where its means and scales would go, and what it leaves out.

Draws :math:`z` of :math:`q`, with mean :math:`m`, standard deviations :math:`\sigma` and covariance :math:`\Sigma`, are
known together with :math:`s_p = \nabla \log p(x, z)` and :math:`s_q = \nabla \log q(z)`. Whatever the family, its ELBO
:math:`L` changes with a shift of the mean and with the log scale :math:`t_i` of dimension :math:`i` by

.. math:: \nabla_m L = E_q[s_p - s_q], \qquad \partial L / \partial t_i = E_q[(z_i - m_i) (s_p - s_q)_i],

both 0 at the optimum. To tell how far that is, the scores are regressed on the draws, :math:`s_p \approx a - \Lambda
(z - m)`: for a normal posterior that holds without error, :math:`\Lambda` is its precision, :math:`m + \Lambda^{-1} a`
its mean, and the optimal independent scales are :math:`\Lambda_{ii}^{-1/2}`. For any other posterior and a normal
:math:`q`, :math:`-\Lambda` estimates the mean of the Hessian, and both become steps of Newton's method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dvi.types import FloatArray

_DRAWS_PER_DIMENSION = 5  # below which each dimension is regressed on itself alone
_SMALLEST = 1e-8  # curvature, relative to that of q


@dataclass(frozen=True, slots=True)
class ScoreFit:
    """Distances from the optimum of the ELBO, and the normal distribution that the scores suggest.

    Parameters
    ----------
    shift, shift_error : array, shape (d,)
        Way from the mean to where it would go, and its standard error, in posterior standard deviations.
    scale, scale_error : array, shape (d,)
        Factor on the standard deviations that the ELBO asks for, and the standard error of its logarithm.
    sd : array, shape (d,)
        Posterior standard deviations, in units of those of the approximation. Where ``joint`` is False, ``scale``.
    correlation : array, shape (d, d), or None
        Of the posterior; None where ``joint`` is False.
    narrowest, widest : float
        Posterior standard deviation over that of the approximation, in the directions where it is least and greatest.
    nonlinear : array, shape (d,)
        Part of the variance of the posterior's scores that is neither in the scores of the approximation nor linear,
        so that no change of its means and covariance explains it; NaN if not ``joint``.
    snr : float
        Length of the mean gradient in the means over the standard deviation of that of one draw.
    improvement : float
        Nats by which the ELBO would rise if means and scales went where they should.
    joint : bool
        Whether there were draws enough to regress each score on all dimensions.
    """

    shift: FloatArray
    shift_error: FloatArray
    scale: FloatArray
    scale_error: FloatArray
    sd: FloatArray
    correlation: FloatArray | None
    narrowest: float
    widest: float
    nonlinear: FloatArray
    snr: float
    improvement: float
    joint: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """Draws and scores in units of the standard deviations of the approximation.

    Parameters
    ----------
    u : array, shape (S, d)
        Draws less the mean of the approximation.
    posterior, gap : array, shape (S, d)
        Scores of the log joint density, and what is left of them when those of the approximation are taken away.
    cov : array, shape (d, d), or None
        Correlation matrix of the approximation; None for the identity.
    """

    u: FloatArray
    posterior: FloatArray
    gap: FloatArray
    cov: FloatArray | None


def fit_scores(scores: Scores) -> ScoreFit:
    """Regress scores on draws.

    Parameters
    ----------
    scores : Scores

    References
    ----------
    Opper and Archambeau, *The variational Gaussian approximation revisited*, doi:10.1162/neco.2008.08-07-592, for the
    gradients as means of scores and Hessians.
    Roeder, Wu and Duvenaud, *Sticking the landing*, arXiv:1703.09194, for gradients that are 0 for every draw at q = p.
    Modi et al., *Variational inference with Gaussian score matching*, arXiv:2307.07849, for the normal distribution
    that scores suggest.

    Examples
    --------
    >>> u = np.random.default_rng(0).normal(size=(100, 1))
    >>> fit = fit_scores(Scores(u, (1.0 - u) / 4.0, (1.0 - u) / 4.0 + u, None))  # N(1, 2) seen from N(0, 1)
    >>> fit.shift.round(6).tolist(), fit.scale.round(6).tolist()  # half a posterior sd away, half as wide
    ([0.5], [2.0])
    """
    n, d = scores.u.shape
    return _joint(scores) if n >= _DRAWS_PER_DIMENSION * (d + 1) else _separate(scores)


def _joint(scores: Scores) -> ScoreFit:
    n, d = scores.u.shape
    design = np.column_stack([np.ones(n), scores.u])
    coefficients = np.linalg.lstsq(design, np.hstack([scores.gap, scores.posterior]), rcond=None)[0]
    residual = scores.gap - design @ coefficients[:, :d]
    a, gap = coefficients[0, :d], coefficients[1:, :d].T
    error = np.sqrt(np.einsum("sd,sd->d", residual, residual) / (n - d - 1) / n)
    precision = -0.5 * (coefficients[1:, d:] + coefficients[1:, d:].T)
    values, vectors = _resolved(precision, float(np.sqrt(np.mean(error**2))))
    covariance = np.einsum("ik,k,jk->ij", vectors, 1.0 / values, vectors)
    sd = np.sqrt(np.diag(covariance))
    shift = covariance @ a
    moved = residual @ covariance
    shift_error = np.sqrt(np.einsum("sd,sd->d", moved, moved) / (n - d - 1) / n)
    excess = np.diag(gap) if scores.cov is None else np.einsum("ij,ji->i", gap, scores.cov)
    scale, scale_error = _scales(excess, error)
    ratios = _ratios(covariance, scores.cov)
    spread = np.einsum("sd,sd->d", residual, residual) / np.maximum(_variance(scores.posterior) * n, 1e-300)
    return ScoreFit(
        shift / sd, shift_error / sd, scale, scale_error, sd, covariance / np.outer(sd, sd), float(ratios[0]),
        float(ratios[-1]), np.minimum(spread, 1.0), _snr(scores.gap, a), _improvement(a, shift, excess), joint=True,
    )  # fmt: skip


def _separate(scores: Scores) -> ScoreFit:
    n, d = scores.u.shape
    centred = scores.u - scores.u.mean(axis=0)
    variance = np.maximum(_variance(scores.u), 1e-300)
    slope = np.einsum("sd,sd->d", centred, scores.gap) / n / variance
    a = scores.gap.mean(axis=0) - slope * scores.u.mean(axis=0)
    residual = scores.gap - a - slope * scores.u
    error = np.sqrt(np.einsum("sd,sd->d", residual, residual) / max(n - 2, 1) / n)
    scale, scale_error = _scales(slope, error)
    shift = a if scores.cov is None else scores.cov @ a
    moved = residual if scores.cov is None else residual @ scores.cov
    shift_error = np.sqrt(np.einsum("sd,sd->d", moved, moved) / max(n - 2, 1) / n)
    noise = 0.5 * float(np.sum(error * shift_error) + np.sum(error**2))
    improvement = max(0.0, _improvement(a, shift, slope) - noise)
    return ScoreFit(
        shift, shift_error, scale, scale_error, scale, None, float(scale.min()), float(scale.max()), np.full(d, np.nan),
        _snr(scores.gap, a), improvement, joint=False,
    )  # fmt: skip


def _resolved(precision: FloatArray, noise: float) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues ``(d,)`` and vectors ``(d, d)``, none less than what noise lets one tell from 0."""
    values, vectors = np.linalg.eigh(precision)
    return np.maximum(values, max(_SMALLEST, 2.0 * noise)), vectors


def _scales(excess: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Factors, and the errors of their logarithms, from the gradients in the log scales: ``(1 - gradient)^-1/2``."""
    curvature = np.maximum(1.0 - excess, np.maximum(_SMALLEST, 2.0 * error))
    return 1.0 / np.sqrt(curvature), 0.5 * error / curvature


def _ratios(covariance: FloatArray, cov: FloatArray | None) -> FloatArray:
    """Standard deviations under one covariance over those under another, in their principal directions, ascending."""
    if cov is None:
        return np.sqrt(np.linalg.eigvalsh(covariance))
    inverse = np.linalg.inv(np.linalg.cholesky(cov))
    return np.sqrt(np.linalg.eigvalsh(inverse @ covariance @ inverse.T))


def _variance(values: FloatArray) -> FloatArray:
    out: FloatArray = values.var(axis=0)
    return out


def _snr(gap: FloatArray, a: FloatArray) -> float:
    noise = math.sqrt(float(np.sum(gap.var(axis=0))))
    return float(np.linalg.norm(a)) / max(noise, 1e-300)


def _improvement(a: FloatArray, shift: FloatArray, excess: FloatArray) -> float:
    """Exact for a normal posterior and independent normal distributions."""
    curvature = np.maximum(1.0 - excess, _SMALLEST)
    return 0.5 * float(a @ shift) + 0.5 * float(np.sum(curvature - 1.0 - np.log(curvature)))


def standardised(
    Z: FloatArray,
    posterior: FloatArray,
    own: FloatArray | None,
    mean: FloatArray,
    std: FloatArray,
    cov: FloatArray | None,
) -> Scores:
    """Draws and scores in units of standard deviations.

    Parameters
    ----------
    Z, posterior : array, shape (S, d)
        Draws, and the scores of the log joint density there.
    own : array, shape (S, d), or None
        Scores of the approximation; None for particles, in whose place comes a normal distribution: under the posterior
        itself the mean of ``posterior`` is 0 and that of ``(z - mean) * posterior`` is -1, the identity of Stein.
    mean, std : array, shape (d,)
    cov : array, shape (d, d), or None
        None for independent dimensions.
    """
    u = (Z - mean) / std
    scaled = posterior * std
    gap = scaled + u if own is None else scaled - own * std
    return Scores(u, scaled, gap, None if cov is None or own is None else cov / np.outer(std, std))
