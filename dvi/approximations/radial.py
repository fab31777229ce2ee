"""A layer of a flow that stretches or shrinks space around one point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from dvi.approximations.layers import Shapes, dot, join, split
from dvi.approximations.meanfield import softplus, softplus_inverse
from dvi.types import FloatArray

_SHIFT = math.log(math.e - 1.0)  # softplus is 1 there


@dataclass(frozen=True, slots=True)
class RadialLayer:
    r"""Radial map :math:`y = x + \beta (x - z) / (\alpha + |x - z|)`; parameters ``a ()``, ``b ()`` and ``z_ref (d,)``.

    It is invertible where :math:`\alpha > 0` and :math:`\beta > -\alpha`, which hold for every parameter, because
    :math:`\alpha = \log(1 + e^a)` and :math:`\beta = \alpha (\log(1 + (e - 1) e^b) - 1)`, which is 0 where :math:`b`
    is. The Jacobian has the eigenvalue :math:`q = 1 + \alpha \beta / (\alpha + r)^2` along :math:`x - z`, of length
    :math:`r`, and :math:`p = 1 + \beta / (\alpha + r)` across it.

    References
    ----------
    Rezende and Mohamed, *Variational inference with normalizing flows*, arXiv:1505.05770, appendix A.2.

    Examples
    --------
    >>> layer = RadialLayer(2)
    >>> theta = layer.initial(np.random.default_rng(1))
    >>> layer.forward(theta, np.ones((1, 2)))
    (array([[1., 1.]]), array([0.]))
    """

    ndim: int

    @property
    def shapes(self) -> Shapes:
        return {"a": (), "b": (), "z_ref": (self.ndim,)}

    def initial(self, rng: np.random.Generator) -> FloatArray:
        z_ref = rng.standard_normal(self.ndim)
        return join({"a": softplus_inverse(np.ones(())), "b": np.zeros(()), "z_ref": z_ref}, self.shapes)

    def forward(self, theta: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        at = self._at(theta, x)
        shift = at.beta * at.h
        log_det = (self.ndim - 1) * np.log1p(shift) + np.log1p(shift * at.alpha * at.h)
        return x + shift[:, None] * at.gap, log_det

    def pullback(self, theta: FloatArray, x: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        at, parts = self._at(theta, x), split(theta, self.shapes)
        back = at.times(v, at.p, at.q)
        radial = dot(v, at.gap) * at.h
        to_beta = float(np.add.reduce(radial))
        to_alpha = -at.beta * float(np.add.reduce(radial * at.h)) + to_beta * at.beta / at.alpha
        gradient = {
            "a": to_alpha * expit(parts["a"]),
            "b": to_beta * at.alpha * expit(parts["b"] + _SHIFT),
            "z_ref": np.add.reduce(v - back, axis=0),
        }
        return join(gradient, self.shapes), back

    def push_score(self, theta: FloatArray, x: FloatArray, score: FloatArray) -> FloatArray:
        at = self._at(theta, x)
        square = at.beta * at.h * at.h
        slope = -(self.ndim - 1) * square / at.p - 2.0 * at.alpha * square * at.h / at.q  # of log det, by r
        return at.times(score - slope[:, None] * at.unit, 1.0 / at.p, 1.0 / at.q)

    def _at(self, theta: FloatArray, x: FloatArray) -> _Radial:
        parts = split(theta, self.shapes)
        scales = softplus(np.stack([parts["a"], parts["b"] + _SHIFT]))
        alpha = float(scales[0])
        beta = alpha * (float(scales[1]) - 1.0)
        gap = x - parts["z_ref"]
        r = np.sqrt(dot(gap, gap))
        h = 1.0 / (alpha + r)
        unit = gap / np.where(r > 0.0, r, 1.0)[:, None]
        return _Radial(alpha, beta, gap, unit, h, 1.0 + beta * h, 1.0 + alpha * beta * h * h)


@dataclass(frozen=True, slots=True)
class _Radial:
    """The map at some points."""

    alpha: float
    beta: float
    gap: FloatArray  # (S, d), x - z
    unit: FloatArray  # (S, d), its direction; 0 at the point itself
    h: FloatArray  # (S,), 1 / (alpha + r)
    p: FloatArray  # (S,), eigenvalue of the Jacobian across the gap
    q: FloatArray  # (S,), and along it

    def times(self, v: FloatArray, across: FloatArray, along: FloatArray) -> FloatArray:
        """Products ``(S, d)`` of ``v (S, d)`` with the symmetric matrices of the given eigenvalues ``(S,)``."""
        out: FloatArray = across[:, None] * v
        out += ((along - across) * dot(v, self.unit))[:, None] * self.unit
        return out
