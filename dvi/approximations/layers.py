"""What a layer of a normalizing flow is, and how its parameters lie in one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from dvi.types import FloatArray

type Shapes = Mapping[str, tuple[int, ...]]


class Layer(Protocol):
    r"""An invertible map :math:`y = f(x)` of ``d`` dimensions: pure functions of its parameters ``theta (p,)``.

    :math:`J` is the Jacobian of :math:`f` at :math:`x`. The rows of a call do not see each other.
    """

    @property
    def shapes(self) -> Shapes:
        """Parameters by name, in the order in which they lie in ``theta``."""
        ...

    def initial(self, rng: np.random.Generator) -> FloatArray:
        """Parameters ``(p,)`` with which the layer changes nothing."""
        ...

    def forward(self, theta: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        r"""Images ``(S, d)`` and :math:`\log |\det J|` ``(S,)`` at ``x (S, d)``."""
        ...

    def pullback(self, theta: FloatArray, x: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        r"""Gradients of the sum of :math:`\langle v, f(x) \rangle` in ``theta (p,)`` and ``x (S, d)``."""
        ...

    def push_score(self, theta: FloatArray, x: FloatArray, score: FloatArray) -> FloatArray:
        r"""Score ``(S, d)`` of the images, :math:`J^{-T} (g - \nabla_x \log |\det J|)`, from the score ``g`` of x."""
        ...


def count(shapes: Shapes) -> int:
    """Number of parameters.

    Examples
    --------
    >>> count({"u": (3,), "b": ()})
    4
    """
    return sum(math.prod(shape) for shape in shapes.values())


def split(theta: FloatArray, shapes: Shapes) -> dict[str, FloatArray]:
    """Views of ``theta`` by name.

    Examples
    --------
    >>> split(np.arange(4.0), {"u": (3,), "b": ()})
    {'u': array([0., 1., 2.]), 'b': array(3.)}
    """
    out, at = {}, 0
    for name, shape in shapes.items():
        stop = at + math.prod(shape)
        out[name] = theta[at:stop].reshape(shape)
        at = stop
    return out


def join(params: Mapping[str, FloatArray], shapes: Shapes) -> FloatArray:
    """The inverse of :func:`split`.

    Examples
    --------
    >>> join({"b": np.array(3.0), "u": np.zeros(2)}, {"u": (2,), "b": ()}).tolist()
    [0.0, 0.0, 3.0]
    """
    return np.concatenate([np.reshape(params[name], -1) for name in shapes])


def dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Products ``(S,)`` of rows ``a (S, d)`` with ``b``, one vector ``(d,)`` or rows ``(S, d)``; not a BLAS product.

    Examples
    --------
    >>> dot(np.ones((2, 3)), np.arange(3.0)).tolist()
    [3.0, 3.0]
    """
    out: FloatArray = np.einsum("sd,d->s" if b.ndim == 1 else "sd,sd->s", a, b)
    return out
