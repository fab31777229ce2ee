"""What a callback is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dvi.types import FloatArray

if TYPE_CHECKING:
    from dvi.approximation import Approximation


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
