"""A layer of a flow that scales and shifts half of the dimensions by functions of the other half."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dvi.approximations.layers import Shapes, join, split
from dvi.errors import ArgumentError
from dvi.types import FloatArray

_HIDDEN = 16  # units of the network


@dataclass(frozen=True, slots=True)
class CouplingLayer:
    r"""Affine coupling: :math:`y_A = x_A`, and :math:`y_B = x_B \odot e^{s(x_A)} + t(x_A)`.

    :math:`A` is every second dimension, starting with number ``parity``, and :math:`B` is the others, so that layers of
    both parities take turns. A network with one hidden layer gives both functions,

    .. math:: (o_s, t) = W_2 \tanh(W_1 x_A + b_1) + b_2, \qquad s = \tanh(o_s).

    Parameters
    ----------
    ndim : int
        Dimensions ``d``, at least 2.
    parity : int
        First dimension that stays as it is: 0 or 1.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio, *Density estimation using Real NVP*, arXiv:1605.08803.

    Examples
    --------
    >>> layer = CouplingLayer(2, parity=0)
    >>> theta = layer.initial(np.random.default_rng(1))
    >>> layer.forward(theta, np.ones((1, 2)))
    (array([[1., 1.]]), array([0.]))
    """

    ndim: int
    parity: int

    def __post_init__(self) -> None:
        if self.ndim < 2:
            raise ArgumentError(
                f"a coupling layer of ndim = {self.ndim} has no two halves. Pass at least 2, or use planar or radial."
            )

    @property
    def shapes(self) -> Shapes:
        kept = (self.ndim + 1 - self.parity) // 2
        moved = self.ndim - kept
        return {"W1": (_HIDDEN, kept), "b1": (_HIDDEN,), "W2": (2 * moved, _HIDDEN), "b2": (2 * moved,)}

    def initial(self, rng: np.random.Generator) -> FloatArray:
        params = {name: np.zeros(shape) for name, shape in self.shapes.items()}
        params["W1"] += rng.standard_normal(params["W1"].shape) / math.sqrt(params["W1"].shape[1])
        params["b1"] += rng.standard_normal(_HIDDEN)
        return join(params, self.shapes)

    def forward(self, theta: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        _, s, t = self._network(split(theta, self.shapes), x)
        out = x.copy()
        out[:, 1 - self.parity :: 2] *= np.exp(s)
        out[:, 1 - self.parity :: 2] += t
        return out, np.add.reduce(s, axis=1)

    def pullback(self, theta: FloatArray, x: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        params = split(theta, self.shapes)
        hidden, s, _ = self._network(params, x)
        moved = slice(1 - self.parity, None, 2)
        scaled = v[:, moved] * np.exp(s)
        outer = np.concatenate([scaled * x[:, moved] * (1.0 - s * s), v[:, moved]], axis=1)
        inner = self._through(params, hidden, outer)
        gradient = {
            "W1": np.einsum("sh,sk->hk", inner, x[:, self.parity :: 2]),
            "b1": np.add.reduce(inner, axis=0),
            "W2": np.einsum("so,sh->oh", outer, hidden),
            "b2": np.add.reduce(outer, axis=0),
        }
        back = v.copy()
        back[:, moved] = scaled
        back[:, self.parity :: 2] += _product(inner, params["W1"].T)
        return join(gradient, self.shapes), back

    def push_score(self, theta: FloatArray, x: FloatArray, score: FloatArray) -> FloatArray:
        params = split(theta, self.shapes)
        hidden, s, _ = self._network(params, x)
        moved = slice(1 - self.parity, None, 2)
        out = score.copy()
        out[:, moved] *= np.exp(-s)
        to_s = 1.0 + score[:, moved] * x[:, moved]  # of log det, and of y_B times the score of y_B
        outer = np.concatenate([to_s * (1.0 - s * s), out[:, moved]], axis=1)
        out[:, self.parity :: 2] -= _product(self._through(params, hidden, outer), params["W1"].T)
        return out

    def _network(self, params: dict[str, FloatArray], x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Hidden units ``(S, hidden)``, and ``s`` and ``t``, each of the shape ``(S, moved)``."""
        hidden = np.tanh(_product(x[:, self.parity :: 2], params["W1"]) + params["b1"])
        out = _product(hidden, params["W2"]) + params["b2"]
        half = out.shape[1] // 2
        return hidden, np.tanh(out[:, :half]), out[:, half:]

    def _through(self, params: dict[str, FloatArray], hidden: FloatArray, outer: FloatArray) -> FloatArray:
        """Gradient ``(S, hidden)`` in what enters the hidden units, from that in what the network gives."""
        return _product(outer, params["W2"].T) * (1.0 - hidden * hidden)


def _product(rows: FloatArray, matrix: FloatArray) -> FloatArray:
    """Rows ``(S, k)`` times the transpose of a matrix ``(n, k)``; not a BLAS product, so that rows do not mix."""
    out: FloatArray = np.einsum("sk,nk->sn", np.ascontiguousarray(rows), np.ascontiguousarray(matrix))
    return out
