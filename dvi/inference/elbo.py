r"""The gradient of the evidence lower bound, :math:`E_q[\log p(x, z)] + H(q)`: one step for every family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from dvi.errors import ArgumentError
from dvi.types import Family, FloatArray, GaussianFamily, PathFamily

type Estimator = Literal["stl", "entropy"]


@dataclass(frozen=True, slots=True)
class Elbo:
    r"""Reparameterised estimators of the ELBO :math:`L(\theta)` and of its gradient, both unbiased.

    With draws :math:`z_s = T(\theta, \epsilon_s)` and :math:`J_s = \partial T / \partial\theta` at :math:`\epsilon_s`:

    - ``entropy`` takes the entropy in closed form,
      :math:`\nabla L \approx \frac1S \sum_s J_s^T \nabla_z \log p(x, z_s) + \nabla H(\theta)`;
    - ``stl``, sticking the landing, keeps only the path through the draws,
      :math:`\nabla L \approx \frac1S \sum_s J_s^T \nabla_z [\log p(x, z_s) - \log q(z_s)]`.

    The second drops a score term whose mean is zero. As :math:`q` comes to equal the posterior, the variance of this
    gradient vanishes, draw by draw, and so does that of the value :math:`\log p - \log q` that goes with it.

    Parameters
    ----------
    estimator : {"stl", "entropy"}
        Which of the two.

    References
    ----------
    Kucukelbir et al., *Automatic differentiation variational inference*, arXiv:1603.00788.
    Roeder, Wu and Duvenaud, *Sticking the landing*, arXiv:1703.09194.

    Examples
    --------
    >>> Elbo("stl")
    Elbo(estimator='stl')
    """

    estimator: Estimator

    def __post_init__(self) -> None:
        if self.estimator not in ("stl", "entropy"):
            raise ArgumentError(f"estimator = {self.estimator!r} is not allowed. Pass 'stl' or 'entropy'.")

    def work(self, Z: FloatArray, score: FloatArray) -> None:
        """Nothing that is worth sharing."""

    def gradient(
        self,
        family: Family,
        theta: FloatArray,
        eps: FloatArray,
        logp: FloatArray,
        score: FloatArray,
        results: Sequence[Any] = (),
    ) -> tuple[float, FloatArray]:
        """Estimate the ELBO and its gradient. No argument is written to.

        Parameters
        ----------
        family : Family
            The approximation.
        theta : (p,) array
            Its parameters.
        eps : (S, noise_dim) array
            Standard normal noise, from which the draws were made.
        logp : (S,) array
            Log joint density at the draws: log likelihood of the full data plus log prior.
        score : (S, d) array
            Gradient of ``logp`` with respect to the draws.
        results
            Not used.

        Returns
        -------
        elbo : float
        gradient : (p,) array
            Gradient of the ELBO, which is maximised.
        """
        if self.estimator == "entropy":
            family = cast("GaussianFamily", family)
            gradient = family.pullback(theta, eps, score)
            gradient += family.entropy_gradient(theta)
            return _mean(logp) + family.entropy(theta), gradient
        if hasattr(family, "path_gradient"):
            return cast("PathFamily", family).path_gradient(theta, eps, logp, score)
        path = score - family.score(theta, eps)
        return _mean(logp - family.log_q(theta, eps)), family.pullback(theta, eps, path)


def _mean(values: FloatArray) -> float:
    return float(np.add.reduce(values)) / values.size
