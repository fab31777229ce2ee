"""Newton's method for the ELBO with fixed draws: it ends where the gradient is as good as zero, and says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy  # whose `optimize` takes a while to import, and does so when it is first used

from dvi.errors import NonFiniteError
from dvi.inference.fixed_draws import MOST_DENSE, FixedDraws, LocalModel, Point, curvature
from dvi.types import FloatArray

_SLOPE = 1e-5  # least length of the gradient, in units of the standard deviations
_ROUNDING = 16.0 * np.finfo(np.float64).eps  # of a sum over rows, relative
_RADIUS = 10.0  # standard deviations that the first step may move each parameter
_LARGEST_RADIUS = 1e5
_REJECTED = 8  # steps in a row after which no better point can be told from rounding
_RESCALE = 2.0  # factor of a change of scales after which new units are worth a new start
_START_PASSES = 3  # at most, to find the scales at the start


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where the minimisation has come to.

    Parameters
    ----------
    point : Point
    converged : bool
    reason : str
    slope : float
        Length of the gradient, in units of the standard deviations.
    """

    point: Point
    converged: bool
    reason: str
    slope: float


def minimise(objective: FixedDraws, theta: FloatArray, n: int, watch: Callable[[Point], bool]) -> Minimum:
    """Find the minimum by Newton's method in a region of trust, in units of the standard deviations.

    Up to 256 dimensions a step takes two evaluations: of the loss, and of the Hessian of the log density, see
    :func:`curvature`. Beyond, each product with the Hessian is an evaluation.

    Parameters
    ----------
    objective : FixedDraws
    theta : array, shape (p,)
        Where to start.
    n : int
        Steps at most.
    watch : callable
        Called with the point after every step; true to stop there.

    References
    ----------
    Gould, Lucidi, Roma and Toint, *Solving the trust-region subproblem using the Lanczos method*,
    doi:10.1137/S1052623497322735.

    Examples
    --------
    >>> from dvi.approximations.meanfield import MeanFieldFamily
    >>> from dvi.inference.fixed_draws import fixed_noise
    >>> family = MeanFieldFamily(1)  # of a normal distribution with the mean 5 and the standard deviation 2
    >>> objective = FixedDraws(family, fixed_noise(0, 4, 1), lambda Z: (-((Z[:, 0] - 5) ** 2) / 8, (5 - Z) / 4))
    >>> found = minimise(objective, family.initial(np.zeros(1), np.ones(1)), 20, lambda point: False)
    >>> family.mean(found.point.theta).round(6).tolist(), family.std(found.point.theta).round(6).tolist()
    ([5.0], [2.0])
    """
    search = _Search(objective, _scaled_start(objective, objective.at(theta)), n, watch)
    search.look()
    while search.outcome is None:
        search.run()
    return search.outcome


class _Search:
    """A minimisation in progress, as scipy's optimizer sees it: a function of steps in units of where they began."""

    def __init__(self, objective: FixedDraws, point: Point, n: int, watch: Callable[[Point], bool]) -> None:
        self.outcome: Minimum | None = None
        self._objective, self._point, self._left, self._watch = objective, point, n, watch
        self._begin()

    def _begin(self) -> None:
        """Units of the place that was found."""
        self._origin, self._scale = self._point, self._objective.units(self._point.theta)
        self._points = {np.zeros_like(self._scale).tobytes(): self._point}
        self._models: dict[bytes, LocalModel] = {}
        self._rejected = 0

    def run(self) -> None:
        """Steps until the end, or until other units are better."""
        self._begin()
        length = math.sqrt(len(self._scale))
        options = {
            "gtol": 0.0,
            "maxiter": self._left,
            "initial_trust_radius": _RADIUS * length,
            "max_trust_radius": _LARGEST_RADIUS * length,
        }
        found = scipy.optimize.minimize(
            self._value, np.zeros_like(self._scale), jac=True, hessp=self._product, method="trust-krylov",
            callback=self._after_step, options=options,
        )  # fmt: skip
        # what a step gains may be lost in the rounding of the whole way from the origin, so that it begins anew
        if self.outcome is None and self._point is self._origin:
            self._end(False, str(found.message))

    def _value(self, y: FloatArray) -> tuple[float, FloatArray]:
        """Loss above that of the origin, and its gradient. Where the density is not finite, no step is to go."""
        try:
            found = self._at(y)
        except NonFiniteError:
            return math.inf, np.zeros_like(y)
        return found.loss - self._origin.loss, found.gradient * self._scale

    def _at(self, y: FloatArray) -> Point:
        key = y.tobytes()
        if key not in self._points:
            kept = {k: p for k, p in self._points.items() if p is self._point}
            self._points = {**kept, key: self._objective.at(self._origin.theta + self._scale * y)}
        return self._points[key]

    def _product(self, y: FloatArray, direction: FloatArray) -> FloatArray:
        """Hessian times a direction."""
        point = self._at(y)
        if self._objective.family.ndim > MOST_DENSE:
            return self._scale * self._objective.product(point.theta, self._scale * direction)
        key = y.tobytes()
        if key not in self._models:
            self._models = {key: self._objective.model(point, curvature(self._objective, point))}
        return self._scale * self._models[key].product(self._scale * direction)

    def _after_step(self, y: FloatArray) -> None:
        """Take note of a step, accepted or not; StopIteration ends the run."""
        before, self._point = self._point, self._at(y)
        self._left -= 1
        self._rejected = self._rejected + 1 if self._point is before else 0
        stop = self._watch(self._point)
        self.look()
        if self.outcome is None and stop:
            self._end(False, "stopped by a callback")
        elif self.outcome is None and self._rejected >= _REJECTED:
            self._end(False, "no step leads to a lower loss")
        elif self.outcome is None and self._left <= 0:
            self._end(False, "the number of steps is used up")
        if self.outcome is not None or not self._has_scale():
            raise StopIteration

    def look(self) -> None:
        """End where the gradient cannot be told from zero.

        The rule: it is shorter than 1e-5 in units of the standard deviations, or what it still promises is lost in the
        rounding of the sum over rows.
        """
        if self._slope() <= max(_SLOPE, math.sqrt(_ROUNDING * abs(self._point.loss))):
            self._end(True, "the gradient is as good as zero")

    def _slope(self) -> float:
        return float(np.linalg.norm(self._point.gradient * self._objective.units(self._point.theta)))

    def _has_scale(self) -> bool:
        """Whether the units are still about those of the standard deviations."""
        ratio = self._objective.units(self._point.theta) / self._scale
        return bool((ratio < _RESCALE).all() and (ratio > 1.0 / _RESCALE).all())

    def _end(self, converged: bool, reason: str) -> None:
        self.outcome = Minimum(self._point, converged, reason, self._slope())


def _scaled_start(objective: FixedDraws, point: Point) -> Point:
    r"""Standard deviations that fit the curvature at the start, as long as they lower the loss.

    By Stein's identity the mean of :math:`\epsilon_i \partial_i \log p` is :math:`\sigma_i` times the mean curvature.
    """
    family = objective.family
    for _ in range(_START_PASSES):
        mean, std = family.mean(point.theta), family.std(point.theta)
        curvature = -np.einsum("sd,sd->d", (point.Z - mean) / std, point.score) / len(point.Z) / std
        known = np.isfinite(curvature) & (curvature > 0)
        sigma = np.where(known, 1.0 / np.sqrt(np.where(known, curvature, 1.0)), std)
        try:
            found = objective.at(family.initial(mean, sigma))
        except NonFiniteError:
            return point
        if not found.loss < point.loss:
            return point
        small = point.loss - found.loss < 0.1 * family.ndim
        point = found
        if small:
            break
    return point
