"""A set of weighted particles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError
from dvi.memory import check_fits
from dvi.randomness import keyed_generator
from dvi.types import FloatArray


@dataclass(frozen=True, slots=True)
class EmpiricalFamily:
    r"""Particles :math:`x_1 \dots x_n` with weights :math:`w_k`: :math:`z` is :math:`x_k` with probability :math:`w_k`.

    ``theta`` holds the particles ``(n, d)``, row by row, and then the logarithms ``(n,)`` of weights that need not sum
    to 1. The noise of a draw is one standard normal number :math:`\epsilon`; the draw is the particle at the quantile
    :math:`\Phi(\epsilon)` of the weights, taken in order. ``unpack`` and ``pack`` speak of PyMC's ``histogram (n, d)``
    and of ``log_weights (n,)``.

    Gradients go to the particles that were drawn, and never to the weights. A set of particles has no density.

    Parameters
    ----------
    ndim : int
        Unconstrained dimensions of the model, ``d``.
    n : int
        Particles, at least 1.

    References
    ----------
    Liu and Wang, *Stein variational gradient descent*, arXiv:1608.04471, for what makes such particles.

    Examples
    --------
    >>> family = EmpiricalFamily(1, n=3)
    >>> theta = family.pack({"histogram": np.array([[1.0], [2.0], [6.0]]), "log_weights": np.zeros(3)})
    >>> family.draw(theta, np.array([[-2.0], [0.0], [2.0]])).tolist()
    [[1.0], [2.0], [6.0]]
    >>> family.mean(theta).tolist()
    [3.0]
    """

    ndim: int
    n: int

    def __post_init__(self) -> None:
        MeanFieldFamily(self.ndim)  # refuses what is not a number of dimensions
        if self.n < 1:
            raise ArgumentError(f"n = {self.n!r} particles are not allowed. Pass at least 1.")
        check_fits(self.n, "particles", 16 * self.ndim)

    @property
    def noise_dim(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return self.n * (self.ndim + 1)

    def initial(self, start: FloatArray, sigma: FloatArray) -> FloatArray:
        """Particles of equal weight with the mean and standard deviations asked for; one alone lies at the mean."""
        MeanFieldFamily(self.ndim).initial(start, sigma)  # refuses what has no meaning
        histogram = keyed_generator(0, "start").standard_normal((self.n, self.ndim))
        histogram -= histogram.mean(axis=0)
        if self.n > 1:
            histogram /= histogram.std(axis=0)
        return self.pack({"histogram": start + sigma * histogram, "log_weights": np.zeros(self.n)})

    def unpack(self, theta: FloatArray) -> dict[str, FloatArray]:
        histogram, log_weights = np.split(theta, [self.n * self.ndim])
        return {"histogram": histogram.reshape(self.n, self.ndim), "log_weights": log_weights}

    def pack(self, params: Mapping[str, FloatArray]) -> FloatArray:
        return np.concatenate([params["histogram"].ravel(), params["log_weights"]])

    def quantiles(self) -> FloatArray:
        """Noise ``(n, 1)`` at which each particle of equal weight is drawn once, in order."""
        out: FloatArray = ndtri((np.arange(self.n)[:, None] + 0.5) / self.n)
        return out

    def units(self, theta: FloatArray, spread: FloatArray) -> FloatArray:
        return np.concatenate([np.tile(spread, self.n), np.ones(self.n)])

    def draw(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        return self.unpack(theta)["histogram"][self._drawn(theta, eps)]

    def pullback(self, theta: FloatArray, eps: FloatArray, v: FloatArray) -> FloatArray:
        out = np.zeros(self.size)
        np.add.at(self.unpack(out)["histogram"], self._drawn(theta, eps), v)
        out /= len(v)
        return out

    def log_q(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        self._refuse("log density")

    def score(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        self._refuse("score")

    def mean(self, theta: FloatArray) -> FloatArray:
        out: FloatArray = np.einsum("n,nd->d", self._weights(theta), self.unpack(theta)["histogram"])
        return out

    def std(self, theta: FloatArray) -> FloatArray:
        centred = self.unpack(theta)["histogram"] - self.mean(theta)
        out: FloatArray = np.einsum("n,nd,nd->d", self._weights(theta), centred, centred)
        return np.sqrt(out, out=out)

    def cov(self, theta: FloatArray) -> FloatArray:
        centred = self.unpack(theta)["histogram"] - self.mean(theta)
        out: FloatArray = np.einsum("ni,nj->ij", self._weights(theta)[:, None] * centred, centred)
        return out

    def _weights(self, theta: FloatArray) -> FloatArray:
        """Weights ``(n,)`` that sum to 1."""
        log_weights = self.unpack(theta)["log_weights"]
        out = np.exp(log_weights - log_weights.max())
        out /= np.add.reduce(out)
        return out

    def _drawn(self, theta: FloatArray, eps: FloatArray) -> NDArray[np.intp]:
        """Which particles ``(S,)`` are drawn."""
        edges = np.cumsum(self._weights(theta))[:-1]  # the last one is 1, where rounding would not have it otherwise
        out: NDArray[np.intp] = np.searchsorted(edges, ndtr(eps[:, 0]), side="right")
        return out

    def _refuse(self, what: str) -> NoReturn:
        raise ArgumentError(
            f"a set of {self.n} particles has no density, and so no {what}. Use a method that needs none, such as "
            "SVGD, or another family."
        )
