"""A layer of a flow that stretches space along one direction, in a smooth step across a plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from dvi.approximations.layers import Shapes, dot, join, split
from dvi.approximations.meanfield import softplus
from dvi.types import FloatArray

_SHIFT = math.log(math.e - 1.0)  # softplus is 1 there


@dataclass(frozen=True, slots=True)
class PlanarLayer:
    r"""Planar map :math:`y = x + \hat u \tanh(w^T x + b)`; parameters ``u (d,)``, ``w (d,)`` and ``b ()``.

    It is invertible where :math:`w^T \hat u > -1`, which holds for every parameter, because

    .. math:: \hat u = u + (m(w^T u) - w^T u)\, \frac{w}{w^T w}, \qquad m(a) = \log(1 + (e - 1) e^a) - 1 > -1,

    so that :math:`w^T \hat u = m(w^T u)`, and :math:`\hat u = 0` where :math:`u` is.

    References
    ----------
    Rezende and Mohamed, *Variational inference with normalizing flows*, arXiv:1505.05770, appendix A.1.

    Examples
    --------
    >>> layer = PlanarLayer(2)
    >>> theta = layer.initial(np.random.default_rng(1))
    >>> layer.forward(theta, np.ones((1, 2)))
    (array([[1., 1.]]), array([0.]))
    """

    ndim: int

    @property
    def shapes(self) -> Shapes:
        return {"u": (self.ndim,), "w": (self.ndim,), "b": ()}

    def initial(self, rng: np.random.Generator) -> FloatArray:
        w = rng.standard_normal(self.ndim)
        w /= math.sqrt(self.ndim)
        return join({"u": np.zeros(self.ndim), "w": w, "b": np.zeros(())}, self.shapes)

    def forward(self, theta: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        at = self._at(theta, x)
        return x + at.h[:, None] * at.u_hat, np.log1p(at.slope * at.m)

    def pullback(self, theta: FloatArray, x: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        at, parts = self._at(theta, x), split(theta, self.shapes)
        u, w = parts["u"], parts["w"]
        inner = at.slope * dot(v, at.u_hat)  # gradient in w^T x + b
        to_u_hat = np.einsum("sd,s->d", v, at.h)
        along = float(to_u_hat @ w)
        change = (expit(at.product + _SHIFT) - 1.0) / at.square  # of the factor of w in u_hat, by w^T u
        factor = (at.m - at.product) / at.square
        to_w = np.einsum("sd,s->d", x, inner) + factor * to_u_hat + along * (change * u - 2.0 * factor / at.square * w)
        to_u = to_u_hat + along * change * w
        gradient = join({"u": to_u, "w": to_w, "b": np.add.reduce(inner)}, self.shapes)
        return gradient, v + inner[:, None] * w

    def push_score(self, theta: FloatArray, x: FloatArray, score: FloatArray) -> FloatArray:
        at, w = self._at(theta, x), split(theta, self.shapes)["w"]
        det = 1.0 + at.slope * at.m
        out: FloatArray = score + (2.0 * at.h * at.slope * at.m / det)[:, None] * w
        out -= (at.slope * dot(out, at.u_hat) / det)[:, None] * w
        return out

    def _at(self, theta: FloatArray, x: FloatArray) -> _Planar:
        parts = split(theta, self.shapes)
        u, w = parts["u"], parts["w"]
        product, square = float(np.einsum("d,d->", u, w)), float(np.einsum("d,d->", w, w))
        m = float(softplus(np.array([product + _SHIFT]))[0]) - 1.0
        h = np.tanh(dot(x, w) + parts["b"])
        return _Planar(h, 1.0 - h * h, u + (m - product) / square * w, product, square, m)


@dataclass(frozen=True, slots=True)
class _Planar:
    """The map at some points."""

    h: FloatArray  # (S,), tanh
    slope: FloatArray  # (S,), its derivative
    u_hat: FloatArray  # (d,)
    product: float  # w^T u
    square: float  # w^T w
    m: float  # w^T u_hat
