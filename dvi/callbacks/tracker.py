"""A callback that keeps the values of functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dvi.callbacks.base import Callback
from dvi.errors import ArgumentError, ArgumentTypeError, suggestion
from dvi.types import FloatArray

if TYPE_CHECKING:
    from dvi.approximation import Approximation


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
    >>> import numpy as np
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

    def __repr__(self) -> str:
        return f"Tracker({', '.join(self._functions)}; {len(next(iter(self.hist.values())))} values each)"

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
            near = suggestion(name, self.hist)
            raise ArgumentError(f"{name!r} is not tracked; there are {', '.join(self.hist)}{near}")
        return self.hist[name]


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
