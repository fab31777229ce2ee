"""The two layers of a flow that scale and shift each dimension on its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from dvi.approximations.layers import Shapes
from dvi.approximations.meanfield import softplus, softplus_inverse
from dvi.types import FloatArray


@dataclass(frozen=True, slots=True)
class ScaleLayer:
    r"""Scales :math:`y = \sigma \odot x` with :math:`\sigma = \log(1 + e^\rho)`; parameters ``rho (d,)``.

    Examples
    --------
    >>> layer = ScaleLayer(2)
    >>> layer.forward(softplus_inverse(np.array([2.0, 3.0])), np.ones((1, 2)))[0].round(6).tolist()
    [[2.0, 3.0]]
    """

    ndim: int

    @property
    def shapes(self) -> Shapes:
        return {"rho": (self.ndim,)}

    def initial(self, rng: np.random.Generator) -> FloatArray:
        return softplus_inverse(np.ones(self.ndim))

    def forward(self, theta: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        sigma = softplus(theta)
        return x * sigma, np.full(len(x), np.add.reduce(np.log(sigma)))

    def pullback(self, theta: FloatArray, x: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        return np.einsum("sd,sd->d", v, x) * expit(theta), v * softplus(theta)

    def push_score(self, theta: FloatArray, x: FloatArray, score: FloatArray) -> FloatArray:
        out: FloatArray = score / softplus(theta)
        return out


@dataclass(frozen=True, slots=True)
class LocLayer:
    r"""Shifts :math:`y = x + \mu`; parameters ``mu (d,)``.

    Examples
    --------
    >>> LocLayer(2).forward(np.array([1.0, 2.0]), np.zeros((1, 2)))[0].tolist()
    [[1.0, 2.0]]
    """

    ndim: int

    @property
    def shapes(self) -> Shapes:
        return {"mu": (self.ndim,)}

    def initial(self, rng: np.random.Generator) -> FloatArray:
        return np.zeros(self.ndim)

    def forward(self, theta: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        return x + theta, np.zeros(len(x))

    def pullback(self, theta: FloatArray, x: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        return np.add.reduce(v, axis=0), v.copy()

    def push_score(self, theta: FloatArray, x: FloatArray, score: FloatArray) -> FloatArray:
        return score.copy()
