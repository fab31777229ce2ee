"""Stein variational gradient descent: particles, and distributions whose draws follow its direction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm

from dvi.approximation import Approximation
from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.fullrank import FullRankFamily
from dvi.errors import ArgumentTypeError
from dvi.evaluation import log_joint
from dvi.fitting import Inference
from dvi.groups import PARTICLES, Empirical, make_approximation, model_of
from dvi.inference.stein import Stein
from dvi.inference.training import VariationalTraining
from dvi.inference.weights import importance_log_weights
from dvi.legs import Leg
from dvi.progress import Measure
from dvi.settings import Settings, check_int, refuse_unknown
from dvi.stages import Stage
from dvi.types import State

_BLOCK_PARTICLES = 128  # evaluated together, by one thread of one worker
_MOST_BLOCKS = 16
_AMORTISED_DRAWS = 500


class SVGD(Inference):
    """Stein variational gradient descent: particles that follow the posterior's gradient and repel each other.

    Works on minibatches. ``hist`` holds the squared kernelised Stein discrepancy of the particles at each step.

    Particles hardly ever cross from one mode of a posterior to another, so their number in each depends on where they
    started. With ``weighted=True`` they are given weights once the steps are done, by the full-data density at each
    particle over an estimate of the density of particles there, and everything that is drawn from the approximation
    honours them.

    Parameters
    ----------
    n_particles : int
    jitter : float
        Standard deviation of the particles about the start, in unconstrained space. Where the start is as many
        particles, they are taken as they are.
    temperature : float
        Above 1, particles spread further than the posterior.
    weighted : bool
    approx : Approximation, optional
        Particles to go on with, in place of new ones.
    model, random_seed, start
        As in :class:`ADVI`.

    References
    ----------
    Liu and Wang, *Stein variational gradient descent*, arXiv:1608.04471.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 3.0)
    ...     approx = dvi.SVGD(n_particles=50, random_seed=1).fit(200, progressbar=False)
    >>> approx.params["histogram"].shape
    (50, 1)
    """

    measure = Measure("squared Stein discrepancy", 1)

    def __init__(
        self,
        n_particles: int = PARTICLES,
        jitter: float = 1.0,
        *,
        temperature: float = 1.0,
        weighted: bool = False,
        approx: Approximation | None = None,
        model: pm.Model | None = None,
        **construction: Any,
    ) -> None:
        if construction.pop("start_sigma", None) is not None:
            raise ArgumentTypeError(
                "particles have no start_sigma; give jitter, the standard deviation about the start"
            )
        refuse_unknown(construction, ("random_seed", "start", "n_particles", "jitter", "temperature", "weighted"))
        check_int("n_particles", n_particles, 1, "number of particles")
        objective = Stein(temperature=temperature)
        approx = approx or Empirical(size=n_particles, jitter=jitter, model=model, **construction)
        family = approx.family
        if not isinstance(family, EmpiricalFamily):
            raise ArgumentTypeError(f"approx={approx!r} does not consist of particles; give a dvi.Empirical")
        blocks = max(1, min(_MOST_BLOCKS, family.n // _BLOCK_PARTICLES))
        super().__init__(approx, objective, draws=family.n, points=family.quantiles(), blocks=blocks)
        self._weighted, self._temperature = weighted, objective.temperature

    def recorded(self) -> dict[str, Any]:
        """See :class:`Inference`."""
        return {"name": "svgd", "temperature": self._temperature, "weighted": self._weighted}

    def _begin(self, stage: Stage, settings: Settings) -> tuple[Leg, VariationalTraining, State]:
        if self._weighted:  # a step moves each particle once, and so draws all with equal weights
            family, particles = self.approx.family, self.approx.params["histogram"]
            self.approx.theta = family.pack({"histogram": particles, "log_weights": np.zeros(len(particles))})
        return super()._begin(stage, settings)

    def _finish(self) -> None:
        if self._weighted:
            assert self.approx.model is not None
            family, particles = self.approx.family, self.approx.params["histogram"]
            density = log_joint(self.approx.model, self._replacements)
            weights = importance_log_weights(particles, density(particles), density)
            packed = family.pack({"histogram": particles, "log_weights": weights})
            self.approx.update(packed, np.empty(0))


class ASVGD(Inference):
    """Amortised Stein variational gradient descent: a parametric distribution whose draws follow Stein's direction.

    The variance of the result is often too small; :class:`FullRankADVI` is better at what both can do.

    Parameters
    ----------
    approx : Approximation, optional
        A normal distribution of full rank by default; ``start`` belongs to it.
    temperature : float
        Above 1, draws spread further than the posterior.
    model, random_seed
        As in :class:`ADVI`.

    References
    ----------
    Wang and Liu, *Learning to draw samples*, arXiv:1611.01722.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 3.0)
    ...     approx = dvi.ASVGD(random_seed=1).fit(50, obj_n_mc=100, progressbar=False)
    >>> approx.ndim
    1
    """

    measure = Measure("squared Stein discrepancy", 1)

    def __init__(
        self,
        approx: Approximation | None = None,
        *,
        temperature: float = 1.0,
        model: pm.Model | None = None,
        random_seed: object = None,
        **unknown: Any,
    ) -> None:
        if any(unknown.pop(name, None) is not None for name in ("start", "start_sigma")):
            raise ArgumentTypeError("start belongs to the approximation; give approx=dvi.FullRank(start=...)")
        refuse_unknown(unknown, ("approx", "temperature", "model", "random_seed"))
        if approx is None:
            approx = make_approximation(model_of(model), FullRankFamily, random_seed=random_seed, method="asvgd")
        objective = Stein(temperature=temperature)
        super().__init__(approx, objective, draws=_AMORTISED_DRAWS)
        self._temperature = objective.temperature

    def recorded(self) -> dict[str, Any]:
        """See :class:`Inference`."""
        return {"name": "asvgd", "temperature": self._temperature}
