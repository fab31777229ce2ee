"""Importance weights of draws from an approximation, smoothed by a Pareto tail."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dvi.types import FloatArray

_ROUNDING = 1e-12  # relative error of a log density that is a long sum
_EQUAL = 1e-9  # spread of log weights that are equal but for rounding


@dataclass(frozen=True, slots=True)
class Weights:
    r"""Smoothed importance weights and what they say.

    Parameters
    ----------
    log_weights : array, shape (S,)
        Normalised: the weights sum to 1.
    khat : float
        Shape :math:`\hat k` of the Pareto distribution fitted to the largest weights; -inf where all are equal.
    threshold : float
        Above which neither weights nor :math:`\hat k` can be trusted with so many draws.
    ess : float
        Draws of equal weight that would be as good.
    """

    log_weights: FloatArray
    khat: float
    threshold: float
    ess: float


def smoothed_weights(logp: FloatArray, log_q: FloatArray) -> Weights:
    r"""Smooth the weights :math:`p(x, z_s) / q(z_s)` of draws by the method of Vehtari et al.

    Parameters
    ----------
    logp, log_q : array, shape (S,)
        Log joint density, and log density of the approximation, at its draws.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry, *Pareto smoothed importance sampling*, arXiv:1507.02646.
    Yao, Vehtari, Simpson and Gelman, *Yes, but did it work? Evaluating variational inference*, arXiv:1802.02538.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=2000)
    >>> weights = smoothed_weights(-0.5 * z**2 / 4.0, -0.5 * z**2)  # a posterior twice as wide
    >>> weights.khat > weights.threshold
    True
    """
    ratios = logp - log_q
    n = len(ratios)
    if np.ptp(ratios) <= _EQUAL + _ROUNDING * np.abs(logp).max():
        return Weights(np.full(n, -math.log(n)), -math.inf, khat_threshold(n), float(n))
    from arviz_stats.base.array import array_stats

    with np.errstate(all="ignore"):
        log_weights, khat = array_stats.psislw(-ratios)  # type: ignore[no-untyped-call]
    if np.isnan(khat) or np.isnan(log_weights).any():  # weights too far apart for a tail to be fitted
        log_weights, khat = ratios - np.logaddexp.reduce(ratios), math.inf
    ess = 1.0 / float(np.sum(np.exp(2.0 * log_weights)))
    return Weights(np.asarray(log_weights), float(khat), khat_threshold(n), ess)


def khat_threshold(draws: int) -> float:
    r"""The rule for the largest :math:`\hat k` that a number of draws can bear: :math:`\min(1 - 1/\log_{10} S, 0.7)`.

    Examples
    --------
    >>> round(khat_threshold(1000), 3), khat_threshold(10_000)
    (0.667, 0.7)
    """
    return min(1.0 - 1.0 / math.log10(draws), 0.7)


def weighted_moments(Z: FloatArray, log_weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Means and standard deviations ``(d,)`` of weighted draws ``Z (S, d)``.

    Parameters
    ----------
    Z : array, shape (S, d)
    log_weights : array, shape (S,)
        Of weights that sum to 1.
    """
    w = np.exp(log_weights)
    mean: FloatArray = np.einsum("s,sd->d", w, Z)
    variance: FloatArray = np.einsum("s,sd,sd->d", w, Z - mean, Z - mean)
    return mean, np.sqrt(variance)
