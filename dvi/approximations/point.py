"""All mass at one point: maximising the log joint density, as a family like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dvi.approximations.meanfield import MeanFieldFamily
from dvi.types import FloatArray


@dataclass(frozen=True, slots=True)
class PointFamily:
    r"""One point :math:`\mu`, without noise: :math:`z = \mu`.

    ``theta`` is ``mu (d,)``. The density is counted as 1 at the point, so that its log and score and the entropy are 0
    and the ELBO is the log joint density at :math:`\mu`, whose maximum is the posterior mode in unconstrained space.

    Parameters
    ----------
    ndim : int
        Unconstrained dimensions of the model, ``d``.

    References
    ----------
    Gelman et al., *Bayesian Data Analysis*, third edition, doi:10.1201/b16018, section 13.1 on posterior modes.

    Examples
    --------
    >>> family = PointFamily(2)
    >>> theta = family.initial(np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    >>> family.draw(theta, np.empty((3, 0))).tolist()
    [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    """

    ndim: int

    def __post_init__(self) -> None:
        MeanFieldFamily(self.ndim)  # refuses what is not a number of dimensions

    @property
    def noise_dim(self) -> int:
        return 0

    @property
    def size(self) -> int:
        return self.ndim

    def initial(self, start: FloatArray, sigma: FloatArray) -> FloatArray:
        return MeanFieldFamily(self.ndim).initial(start, sigma)[: self.ndim]  # sigma is checked, and has no use

    def unpack(self, theta: FloatArray) -> dict[str, FloatArray]:
        return {"mu": theta}

    def pack(self, params: Mapping[str, FloatArray]) -> FloatArray:
        return params["mu"].copy()

    def units(self, theta: FloatArray, spread: FloatArray) -> FloatArray:
        return spread.copy()

    def draw(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        return np.tile(theta, (len(eps), 1))

    def pullback(self, theta: FloatArray, eps: FloatArray, v: FloatArray) -> FloatArray:
        out: FloatArray = np.add.reduce(v, axis=0)
        out /= len(v)
        return out

    def log_q(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        return np.zeros(len(eps))

    def score(self, theta: FloatArray, eps: FloatArray) -> FloatArray:
        return np.zeros((len(eps), self.ndim))

    def entropy(self, theta: FloatArray) -> float:
        return 0.0

    def entropy_gradient(self, theta: FloatArray) -> FloatArray:
        return np.zeros(self.ndim)

    def mean(self, theta: FloatArray) -> FloatArray:
        return theta.copy()

    def std(self, theta: FloatArray) -> FloatArray:
        return np.zeros(self.ndim)

    def cov(self, theta: FloatArray) -> FloatArray:
        return np.zeros((self.ndim, self.ndim))
