"""Functions that look at a fit while it runs: ``f(approx, losses, i)``, as in PyMC.

``losses`` holds the negative ELBO of the ``i`` steps done so far. Raising ``StopIteration`` ends the fit, which then
returns the approximation as it is.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference.settings import count, positive
from dvi.types import FloatArray

if TYPE_CHECKING:
    from dvi.approximation import Approximation

__all__ = ["Callback", "CheckParametersConvergence", "Tracker"]

_EPSILON = 1e-6  # keeps the relative change of a parameter at 0 finite; PyMC's value


@runtime_checkable
class Callback(Protocol):
    """What is called while a fit runs. Any function with these arguments will do; there is no need to inherit.

    Examples
    --------
    >>> class StopBelow(Callback):
    ...     def __call__(self, approx, losses, i):
    ...         if losses[-1] < 10.0:
    ...             raise StopIteration(f"the loss is below 10 at step {i}")
    """

    def __call__(self, approx: Approximation, losses: FloatArray, i: int, /) -> object:
        """Look at the approximation after step ``i``, given the losses ``(i,)``; StopIteration ends the fit."""
        ...


class Tracker(Callback):
    """Keeps the values of functions, one for each time it is called.

    Parameters
    ----------
    **statistics : callable
        By the name to keep them under, with no arguments or with ``(approx, losses, i)``. A function that takes either
        is called with none, and with all three if that raises.

    Attributes
    ----------
    hist : dict
        The values so far, a list for each name.

    Examples
    --------
    >>> import time
    >>> tracker = Tracker(time=time.time, loss=lambda approx, losses, i: losses[-1])
    >>> tracker(None, np.array([7.0, 5.0]), 2)
    >>> tracker["loss"]
    [np.float64(5.0)]
    """

    def __init__(self, **statistics: Callable[..., Any]) -> None:
        if not statistics:
            raise ArgumentTypeError(
                "Tracker() would keep nothing; name a function, for example loss=lambda a, h, i: h[-1]"
            )
        self._functions = {name: _with_three_arguments(name, function) for name, function in statistics.items()}
        self.hist: dict[str, list[Any]] = {}
        self.clear()

    def __call__(self, approx: Approximation, losses: FloatArray, i: int, /) -> None:
        self.record(approx, losses, i)

    def record(self, approx: Approximation, losses: FloatArray, i: int) -> None:
        """Keep one value of each function, or none if one of them raises."""
        values = {name: function(approx, losses, i) for name, function in self._functions.items()}
        for name, value in values.items():
            self.hist[name].append(value)

    def clear(self) -> None:
        """Forget all values."""
        self.hist = {name: [] for name in self._functions}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self.hist:
            raise ArgumentError(f"{name!r} is not tracked; there are {', '.join(self.hist)}")
        return self.hist[name]


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

    def __call__(self, approx: Approximation, losses: FloatArray, i: int, /) -> None:
        if self._last is None or i < self._last[0] or approx.theta.shape != self._last[1].shape:  # another fit
            self._last = (i, approx.theta.copy())
            return
        step, before = self._last
        if i - step < self.every:
            return
        self._last = (i, approx.theta.copy())
        change = np.abs(approx.theta - before)
        if self.diff == "relative":
            change = (change + _EPSILON) / (np.abs(before) + _EPSILON)
        norm = np.linalg.norm(change, self.ord)
        if norm < self.tolerance:
            raise StopIteration(
                f"converged at step {i}: the {self.diff} change over {i - step} steps, {norm:.3g}, is below the "
                f"tolerance {self.tolerance:g}"
            )


def _checked_ord(ord: object) -> float | None:
    """The order of a norm of vectors."""
    if ord is None:
        return None
    if isinstance(ord, bool) or not isinstance(ord, Real) or not ord or math.isnan(ord):
        raise ArgumentError(f"ord={ord!r} is not a norm of vectors; give a number other than 0, such as 2 or np.inf")
    return float(ord)


def _with_three_arguments(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of ``(approx, losses, i)`` from one of those or of nothing. No arguments come first, as in PyMC."""
    if not callable(function):
        raise ArgumentTypeError(
            f"{name}={function!r} is of type {type(function).__name__}; give a function f() or f(approx, losses, i)"
        )
    takes_none, takes_three = _accepts(function, 0), _accepts(function, 3)
    if takes_none and takes_three:
        return lambda *arguments: _call_either(function, arguments)
    if takes_none:
        return lambda *_: function()
    if takes_three:
        return function
    raise ArgumentTypeError(
        f"{name}={function!r} takes neither no arguments nor three; give f() or f(approx, losses, i)"
    )


def _accepts(function: Callable[..., Any], n_arguments: int) -> bool:
    """Whether the signature allows so many positional arguments; True where it is not known."""
    try:
        inspect.signature(function).bind(*[None] * n_arguments)
    except TypeError:
        return False
    except ValueError:  # builtins without a signature
        return True
    return True


def _call_either(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """For functions of any arguments: their signature does not tell, so both are tried."""
    try:
        return function()
    except Exception:  # of whatever kind a function raises that misses its arguments
        return function(*arguments)
