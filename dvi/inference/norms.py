"""Gradients and parameters held within a norm, with PyMC's names and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np

from dvi.errors import ArgumentError
from dvi.inference.settings import positive
from dvi.types import FloatArray

type Arrays = Sequence[FloatArray]


@overload
def total_norm_constraint(
    tensor_vars: FloatArray, max_norm: float, epsilon: float = 1e-7, return_norm: Literal[False] = False
) -> FloatArray: ...
@overload
def total_norm_constraint(
    tensor_vars: Arrays, max_norm: float, epsilon: float = 1e-7, return_norm: Literal[False] = False
) -> list[FloatArray]: ...
@overload
def total_norm_constraint(
    tensor_vars: Arrays, max_norm: float, epsilon: float = 1e-7, *, return_norm: Literal[True]
) -> tuple[list[FloatArray], float]: ...
def total_norm_constraint(tensor_vars: Any, max_norm: float, epsilon: float = 1e-7, return_norm: bool = False) -> Any:
    r"""Rescale arrays whose common Euclidean norm exceeds a limit, :math:`g \min(\|g\|, c) / (\|g\| + \epsilon)`.

    Off in a fit unless asked for: clipping noisy gradients biases posterior standard deviations.

    Parameters
    ----------
    tensor_vars : list of array, or array
        Arrays of any shapes, or one such array.
    max_norm : float
        Limit :math:`c`, above 0.
    epsilon : float
        Keeps the denominator from vanishing, above 0.
    return_norm : bool
        Return the norm before the rescaling too.

    Returns
    -------
    list of array, or array
        Of the same shapes, as given.
    float
        The norm, with ``return_norm``.

    References
    ----------
    Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks*, arXiv:1211.5063.

    Examples
    --------
    >>> total_norm_constraint(np.array([3.0, 4.0]), 1.0).round(6)
    array([0.6, 0.8])
    >>> [a.round(6).item() for a in total_norm_constraint([np.array([3.0]), np.array([[4.0]])], 1.0)]
    [0.6, 0.8]
    """
    limit, epsilon = positive("max_norm", max_norm), positive("epsilon", epsilon)
    if isinstance(tensor_vars, np.ndarray):
        [scaled], norm = _within([tensor_vars], limit, epsilon)
        return (scaled, norm) if return_norm else scaled
    arrays, norm = _within([np.asarray(a, dtype=np.float64) for a in tensor_vars], limit, epsilon)
    return (arrays, norm) if return_norm else arrays


def _within(arrays: list[FloatArray], limit: float, epsilon: float) -> tuple[list[FloatArray], float]:
    flat = [np.ravel(a) for a in arrays]
    norm = math.sqrt(sum(np.einsum("i,i->", a, a) for a in flat))  # a BLAS product has bits that depend on its threads
    factor = min(norm, limit) / (norm + epsilon)
    return [a * factor for a in arrays], norm


def norm_constraint(
    tensor_var: FloatArray, max_norm: float, norm_axes: Sequence[int] | None = None, epsilon: float = 1e-7
) -> FloatArray:
    r"""Rescale those vectors of an array whose Euclidean norm exceeds a limit.

    Each vector :math:`w` becomes :math:`w \min(\|w\|, c) / (\|w\| + \epsilon)`.

    Parameters
    ----------
    tensor_var : array
    max_norm : float
        Limit :math:`c`, above 0.
    norm_axes : sequence of int, optional
        The axes along which a vector lies. For two dimensions the first by default, so that vectors are columns; for
        three to five all but the first; arrays of other dimensions have no default.
    epsilon : float
        Keeps the denominator from vanishing, above 0.

    Returns
    -------
    array
        Of the same shape.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, *Dropout: a simple way to prevent neural networks from
    overfitting*, section 5.1, Journal of Machine Learning Research 15 (2014), 1929-1958.

    Examples
    --------
    >>> norm_constraint(np.array([[3.0, 0.3], [4.0, 0.4]]), 1.0).round(6)
    array([[0.6, 0.3],
           [0.8, 0.4]])
    """
    limit, epsilon = positive("max_norm", max_norm), positive("epsilon", epsilon)
    array = np.asarray(tensor_var, dtype=np.float64)
    if norm_axes is not None:
        axes = tuple(norm_axes)
    elif array.ndim == 2:
        axes = (0,)
    elif 3 <= array.ndim <= 5:
        axes = tuple(range(1, array.ndim))
    else:
        raise ArgumentError(
            f"tensor_var has shape {array.shape}, and only 2 to 5 dimensions have default norm_axes. Pass norm_axes."
        )
    norms = np.sqrt(np.sum(array * array, axis=axes, keepdims=True))
    constrained: FloatArray = array * (np.minimum(norms, limit) / (norms + epsilon))
    return constrained
