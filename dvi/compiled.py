"""Loops over numbers as machine code, where one pass takes the place of a dozen small calls of NumPy.

They keep to the order of operations in which they are written, so that the same code gives the same bits whether it was
compiled just now or loaded from the machine's cache of kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from dvi.types import FloatArray


def compiled[**P, R](loop: Callable[P, R]) -> Callable[P, R]:
    """A function that is compiled when it is first called, or loaded then, without the GIL and without Python's checks.

    Parameters
    ----------
    loop : callable
        Of arrays and numbers, in the part of Python that numba knows. It calls no other such function.

    Examples
    --------
    >>> import numpy as np
    >>> @compiled
    ... def total(x):
    ...     found = 0.0
    ...     for value in x:
    ...         found += value
    ...     return found
    >>> total(np.arange(4.0))
    6.0
    """
    machine: Callable[P, R] | None = None

    @functools.wraps(loop)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal machine
        if machine is None:
            from dvi.model.kernel_cache import kept

            machine = kept(loop)
        try:
            return machine(*args, **kwargs)
        except SystemError as error:
            if _interrupted(error):
                raise KeyboardInterrupt from error
            raise

    return run


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C came while numba made an array of what a loop returns, which it does in Python.

    Machine code goes on there with the exception pending, and the interpreter complains of that in the end.
    """
    return error is not None and (isinstance(error, KeyboardInterrupt) or _interrupted(error.__cause__))


@compiled
def all_finite(values: FloatArray) -> bool:
    """Whether no element is infinite or NaN.

    Examples
    --------
    >>> import numpy as np
    >>> all_finite(np.array([1.0, np.inf, -np.inf])), all_finite(np.array([1e308, 1e308]))
    (False, True)
    """
    finite = True
    for value in values.flat:
        finite &= value - value == 0.0
    return finite
