r"""The ELBO with fixed draws, and its curvature.

With noise :math:`\epsilon_1, \dots, \epsilon_S` drawn once, :math:`f(\theta) = -\frac1S \sum_s \log p(x, T(\theta,
\epsilon_s)) - H(\theta)` is a smooth function like any other: it has a Hessian, and a minimum that one
knows to have found. Second derivatives of the log density are central differences of its scores, so nothing but values
and scores is ever asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dvi.inference.elbo import Elbo
from dvi.randomness import keyed_generator
from dvi.types import FloatArray, GaussianFamily

type Evaluate = Callable[[FloatArray], tuple[FloatArray, FloatArray]]  # draws (S, d) -> log densities, scores

MOST_DENSE = 256  # dimensions of which the whole Hessian of the log density is made
_DIFFERENCE = 1e-3  # of a standard deviation: errors of rounding and of truncation are both about 1e-8
_UNEXPLAINED = 0.1


def fixed_noise(seed: int, draws: int, width: int) -> FloatArray:
    """Standard normal noise ``(draws, width)`` in antithetic pairs, with the moments of the normal distribution.

    Means are 0 and variances 1 exactly, and so are covariances 0 within runs of as many dimensions as there are pairs.
    For a normal posterior of so few dimensions, means and standard deviations come out without any error.

    Parameters
    ----------
    seed : int
    draws : int
        Even.
    width : int

    Examples
    --------
    >>> eps = fixed_noise(1, 8, 3)
    >>> bool(np.allclose(eps.T @ eps / 8, np.eye(3))), bool(np.array_equal(eps[4:], -eps[:4]))
    (True, True)
    """
    pairs = draws // 2
    half = keyed_generator(seed, "noise", 0, 1).standard_normal((pairs, width))
    for start in range(0, width, pairs):
        q, r = np.linalg.qr(half[:, start : start + pairs])
        half[:, start : start + pairs] = math.sqrt(pairs) * q * np.sign(np.diag(r))
    return np.concatenate([half, -half])


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """The objective at one place.

    Parameters
    ----------
    theta : array, shape (p,)
    loss : float
    gradient : array, shape (p,)
        Of the loss.
    Z, score : array, shape (S, d)
        Draws, and the scores of the log joint density there.
    """

    theta: FloatArray
    loss: float
    gradient: FloatArray
    Z: FloatArray
    score: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class FixedDraws:
    """The negative ELBO of a family at fixed noise.

    Parameters
    ----------
    family : GaussianFamily
    eps : array, shape (S, noise_dim)
    evaluate : callable
        Log joint densities ``(S,)`` and scores ``(S, d)`` of the full data at draws ``(S, d)``.

    References
    ----------
    Giordano, Ingram and Broderick, *Black box variational inference with a deterministic objective: faster, more
    accurate, and even more black box*, arXiv:2304.05527.

    Examples
    --------
    >>> from dvi.approximations.meanfield import MeanFieldFamily
    >>> objective = FixedDraws(MeanFieldFamily(1), fixed_noise(0, 4, 1), lambda Z: (-0.5 * (Z**2).sum(1), -Z))
    >>> point = objective.at(MeanFieldFamily(1).initial(np.array([3.0]), np.array([1.0])))
    >>> point.gradient.round(6).tolist()
    [3.0, 0.0]
    """

    family: GaussianFamily
    eps: FloatArray
    evaluate: Evaluate

    def at(self, theta: FloatArray) -> Point:
        """Loss and gradient at parameters ``theta (p,)``."""
        Z = self.family.draw(theta, self.eps)
        logp, score = self.evaluate(Z)
        value, gradient = Elbo("entropy").gradient(self.family, theta, self.eps, logp, score)
        return Point(theta, -value, -gradient, Z, score)

    def model(self, point: Point, hessians: FloatArray) -> LocalModel:
        """The second order of the objective about a point, with Hessians of the log density ``(1 or S, d, d)``."""
        return LocalModel(self.family, self.eps, point, hessians)

    def product(self, theta: FloatArray, direction: FloatArray) -> FloatArray:
        """Hessian of the objective times a direction ``(p,)``, from scores on either side: one evaluation."""
        step = _DIFFERENCE / float(np.linalg.norm(direction / self.units(theta)))
        places = [theta + step * direction, theta - step * direction]
        score = self.evaluate(np.concatenate([self.family.draw(place, self.eps) for place in places]))[1]
        sides = [
            self.family.pullback(place, self.eps, part) + self.family.entropy_gradient(place)
            for place, part in zip(places, np.split(score, 2), strict=True)
        ]
        return (sides[1] - sides[0]) / (2.0 * step)

    def units(self, theta: FloatArray) -> FloatArray:
        """Sizes ``(p,)`` of equally bold steps of the parameters."""
        return self.family.units(theta, self.family.std(theta))


def hessians(evaluate: Evaluate, points: FloatArray, sizes: FloatArray) -> FloatArray:
    """Hessians ``(K, d, d)`` of a log density at points ``(K, d)``, by central differences of its scores.

    Parameters
    ----------
    evaluate : callable
    points : array, shape (K, d)
    sizes : array, shape (d,)
        Standard deviations, of which the differences are a thousandth.

    Examples
    --------
    >>> A = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> H = hessians(lambda Z: (np.zeros(len(Z)), -Z @ A), np.zeros((1, 2)), np.ones(2))
    >>> H.round(6).tolist()
    [[[-2.0, -1.0], [-1.0, -3.0]]]
    """
    n, d = points.shape
    steps = _DIFFERENCE * sizes
    sides = np.stack([points[:, None] + np.diag(steps), points[:, None] - np.diag(steps)])  # (2, K, d, d)
    up, down = evaluate(sides.reshape(-1, d))[1].reshape(2, n, d, d)
    found = (up - down) / (2.0 * steps)[:, None]
    out: FloatArray = 0.5 * (found + found.transpose(0, 2, 1))
    return out


def curvature(objective: FixedDraws, point: Point) -> FloatArray:
    """Hessian of the log density at the mean ``(1, d, d)``, where scores are linear in the draws; else at each draw.

    The rule: one Hessian will do if it explains nine tenths of how scores differ between draws.
    """
    mean, std = objective.family.mean(point.theta), objective.family.std(point.theta)
    found = hessians(objective.evaluate, mean[None], std)
    differ = (point.score - point.score.mean(axis=0)) * std
    left = differ - ((point.Z - point.Z.mean(axis=0)) @ found[0]) * std
    if float(np.sum(left**2)) <= _UNEXPLAINED * float(np.sum(differ**2)):
        return found
    return hessians(objective.evaluate, point.Z, std)


@dataclass(frozen=True, slots=True, eq=False)
class LocalModel:
    """The objective about a point, were the log density quadratic about each draw: products that read no row.

    Parameters
    ----------
    family : GaussianFamily
    eps : array, shape (S, noise_dim)
    point : Point
    hessians : array, shape (S, d, d) or (1, d, d)
        Of the log joint density at each draw, for the exact Hessian; or one for all of them.
    """

    family: GaussianFamily
    eps: FloatArray
    point: Point
    hessians: FloatArray

    def product(self, direction: FloatArray) -> FloatArray:
        """Hessian of the objective times a direction ``(p,)``."""
        units = self.family.units(self.point.theta, self.family.std(self.point.theta))
        length = float(np.linalg.norm(direction / units))
        if length == 0.0:
            return np.zeros_like(direction)
        step = _DIFFERENCE / length
        up, down = (self._gradient(self.point.theta + sign * step * direction) for sign in (1.0, -1.0))
        return (up - down) / (2.0 * step)

    def matrix(self) -> FloatArray:
        """Hessian of the objective ``(p, p)``."""
        columns = [self.product(unit) for unit in np.eye(self.family.size)]
        found = np.array(columns)
        out: FloatArray = 0.5 * (found + found.T)
        return out

    def _gradient(self, theta: FloatArray) -> FloatArray:
        moved = self.family.draw(theta, self.eps) - self.point.Z
        if len(self.hessians) == 1:
            change = moved @ self.hessians[0]
        else:
            change = np.einsum("sij,sj->si", self.hessians, moved)
        pulled = self.family.pullback(theta, self.eps, self.point.score + change)
        return -(pulled + self.family.entropy_gradient(theta))
