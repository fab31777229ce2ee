"""Callbacks that end a fit which has converged."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dvi.callbacks.base import Callback
from dvi.errors import ArgumentError
from dvi.inference.settings import count, positive
from dvi.types import FloatArray

if TYPE_CHECKING:
    from dvi.approximation import Approximation

_EPSILON = 1e-6  # keeps the relative change of a parameter at 0 finite; PyMC's value


class CheckParametersConvergence(Callback):
    r"""Ends the fit once the parameters hardly change any more.

    Every ``every`` steps the parameters :math:`\theta` are compared with those of the check before. The fit ends where
    the norm of :math:`(|\theta - \theta'| + \epsilon) / (|\theta'| + \epsilon)`, :math:`\epsilon = 10^{-6}`, or of
    :math:`|\theta - \theta'|`, is below ``tolerance``. With noisy gradients this says that the steps are small, not
    that the optimum is near.

    Parameters
    ----------
    every : int
        Steps between two checks.
    tolerance : float
        Norm of the change below which the fit ends.
    diff : {"relative", "absolute"}
        Kind of change.
    ord : int or float, optional
        Norm of the vector of changes, as in :func:`numpy.linalg.norm`: the largest change by default.

    Examples
    --------
    >>> check = CheckParametersConvergence(every=50, tolerance=1e-4, diff="absolute")
    >>> dvi.fit(100_000, callbacks=[check])  # doctest: +SKIP
    """

    def __init__(
        self,
        every: int = 100,
        tolerance: float = 1e-3,
        diff: Literal["relative", "absolute"] = "relative",
        ord: float | None = np.inf,
    ) -> None:
        self.every = count("every", every, 1)
        self.tolerance = positive("tolerance", tolerance)
        if diff not in ("relative", "absolute"):
            raise ArgumentError(f"diff={diff!r} is not allowed; give 'relative' or 'absolute'")
        self.diff = diff
        self.ord = _checked_ord(ord)
        self._last: tuple[int, FloatArray] | None = None  # step and parameters (p,) of the last check

    def __repr__(self) -> str:
        return (
            f"CheckParametersConvergence(every={self.every}, tolerance={self.tolerance:g}, diff={self.diff!r}, "
            f"ord={self.ord})"
        )

    def __call__(self, approx: Approximation, losses: FloatArray, i: int, /) -> None:
        theta = _parameters(approx)
        if self._last is None or i < self._last[0] or theta.shape != self._last[1].shape:  # another fit
            self._last = (i, theta)
            return
        step, before = self._last
        if i - step < self.every:
            return
        self._last = (i, theta)
        change = np.abs(theta - before)
        if self.diff == "relative":
            change = (change + _EPSILON) / (np.abs(before) + _EPSILON)
        norm = np.linalg.norm(change, self.ord)
        if norm < self.tolerance:
            raise StopIteration(
                f"converged at step {i}: the {self.diff} change over {i - step} steps, {norm:.3g}, is below the "
                f"tolerance {self.tolerance:g}"
            )


def _parameters(approx: Any) -> FloatArray:
    """A copy of all parameters ``(p,)``, of an approximation of PyMC too, whose ``params`` are shared variables."""
    if hasattr(approx, "theta"):
        return np.array(approx.theta)
    return np.concatenate([np.ravel(variable.get_value()) for variable in approx.params]).astype(np.float64)


def _checked_ord(ord: object) -> float | None:
    """The order of a norm of vectors."""
    if ord is None:
        return None
    if isinstance(ord, bool) or not isinstance(ord, Real) or not ord or math.isnan(ord):
        raise ArgumentError(f"ord={ord!r} is not a norm of vectors; give a number other than 0, such as 2 or np.inf")
    return float(ord)
