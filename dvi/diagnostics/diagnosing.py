"""``diagnose``: one pass over the data that tells whether a fit is right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from dvi.approximation import Approximation
from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.flow import FlowFamily
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.point import PointFamily
from dvi.diagnostics.diagnosis import Diagnosis, Element, WeightedDraws
from dvi.diagnostics.findings import Evidence, Finding, faults, remarks
from dvi.diagnostics.history import recent_trend
from dvi.diagnostics.scores import ScoreFit, Scores, fit_scores, standardised
from dvi.diagnostics.weights import Weights, smoothed_weights, weighted_moments
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError, NonFiniteError
from dvi.evaluation import evaluate_all
from dvi.inference.stein import Stein
from dvi.memory import check_draws_fit
from dvi.model.draws import model_draws
from dvi.model.graph import split
from dvi.randomness import keyed_generator
from dvi.sampling import Block, as_seed, check_draws, coordinates, to_tree
from dvi.types import Family, FloatArray

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

_LEAST_DRAWS = 100  # of which the largest weights make a tail
_MOST_COVARIANCE = 4096  # dimensions of which a covariance matrix is made


def diagnose(
    approx: Approximation,
    model: pm.Model | None = None,
    *,
    draws: int = 1000,
    random_seed: int | None = None,
    client: Any = None,
    threads: int | None = None,
    progressbar: bool = True,
) -> Diagnosis:
    """Tell whether an approximation is right, and what is wrong with it if not.

    Evaluates the log joint density of all rows and its gradient at draws from the approximation. That gives importance
    weights, with the k-hat of Yao et al.; and how far means and scales are from where more steps would take them, in
    posterior standard deviations, which tells of a fit that has not arrived also in dimensions where k-hat says
    nothing. What counts as wrong is listed in :func:`dvi.diagnostics.findings.faults`. A mode that no draw comes near
    cannot be seen.

    The result is also kept as ``approx.run["diagnosis"]``, and saved with the approximation.

    Parameters
    ----------
    approx : Approximation
        Particles have no density: they get their Stein discrepancy in place of weights and ELBO. A point estimate is
        refused.
    model : pm.Model, optional
        That of the approximation by default.
    draws : int
        At least 100; five for each dimension let it see correlations. All particles are used, whatever is given here.
    random_seed : int, optional
        The same seed gives the same bits, on any number of threads and workers.
    client : distributed.Client, optional
        The active client by default, if there is one.
    threads : int, optional
        Of this process, where no client is used: the cores at hand by default.
    progressbar : bool

    Returns
    -------
    Diagnosis

    Raises
    ------
    ArgumentError
        For a point estimate, and for a model with other variables.
    ModelError
        Without a model.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman, *Yes, but did it work? Evaluating variational inference*, arXiv:1802.02538.
    Modi et al., *Variational inference with Gaussian score matching*, arXiv:2307.07849.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 3.0, 1.0, shape=2)
    ...     approx = dvi.fit(2_000, random_seed=1, progressbar=False)
    >>> diagnose(approx, random_seed=1, progressbar=False).verdict
    'ok'
    >>> approx.shared_params["mu"].set_value([3.0, 4.0])
    >>> diagnose(approx, random_seed=1, progressbar=False).findings[0].what
    'the mean of mu[1] is about 1 posterior standard deviations from where it would go.'
    """
    model = _checked_model(approx, model)
    seed, draws = as_seed(random_seed), _checked_draws(draws)
    eps = _noise(approx.family, draws, seed)
    Z = approx.family.draw(approx.theta, eps)
    try:
        logp, score = evaluate_all(split(model), Z, client, threads, progressbar)
        if not (np.isfinite(logp).all() and np.isfinite(score).all()):
            raise NonFiniteError(
                "the log density of priors and potentials, or its gradient, is not finite at a draw; check their "
                "values, and fit longer or from another start"
            )
    except NonFiniteError as error:
        diagnosis = _not_finite(approx, len(Z), seed, error)
    else:
        with threadpool_limits(limits=1):  # BLAS splits its sums by its thread count
            diagnosis = _diagnosis(_Evaluated(approx, model, eps, Z, logp, score), seed)
    approx.run["diagnosis"] = diagnosis.to_json()
    return diagnosis


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """Noise ``(S, noise_dim)`` of an approximation, draws ``(S, d)``, log densities ``(S,)``, scores ``(S, d)``."""

    approx: Approximation
    model: pm.Model
    eps: FloatArray
    Z: FloatArray
    logp: FloatArray
    score: FloatArray


def _checked_model(approx: Approximation, model: pm.Model | None) -> pm.Model:
    if not isinstance(approx, Approximation):
        raise ArgumentTypeError(f"approx={approx!r:.80} is of type {type(approx).__name__}; give an Approximation")
    if isinstance(approx.family, PointFamily):
        raise ArgumentError(
            "a point estimate has no spread, so nothing says how far it is from a posterior; fit with method='advi' "
            "from it (start=approx) and diagnose that"
        )
    model = approx.model if model is None else model
    if model is None:
        raise ModelError("a diagnosis needs the model; give model=, or load the approximation with it")
    difference = split(model).layout.difference(approx.layout)
    if difference is not None:
        raise ArgumentError(f"model is not the one of the approximation: {difference}. Give that one, or none.")
    return model


def _checked_draws(draws: int) -> int:
    if check_draws(draws) < _LEAST_DRAWS:
        raise ArgumentError(f"draws={draws} are too few for the tail of their weights; give at least {_LEAST_DRAWS}")
    return int(draws)


def _noise(family: Family, draws: int, seed: int) -> FloatArray:
    if isinstance(family, EmpiricalFamily):
        return family.quantiles()
    check_draws_fit(draws, family)
    return keyed_generator(seed, "sample").standard_normal((draws, family.noise_dim))


def _diagnosis(e: _Evaluated, seed: int) -> Diagnosis:
    approx, family, theta = e.approx, e.approx.family, e.approx.theta
    particles = isinstance(family, EmpiricalFamily)
    log_q = None if particles else family.log_q(theta, e.eps)
    weights = None if log_q is None else smoothed_weights(e.logp, log_q)
    fit = fit_scores(_scores(e))
    trend = recent_trend(approx.hist)
    spread = math.nan if log_q is None else float(np.std(e.logp - log_q))
    names = approx.layout.names()
    evidence = Evidence(names, fit, weights, spread, trend, _richer(family), particles)
    numbers = _fit_numbers(fit)
    if weights is not None and log_q is not None:
        numbers |= _weight_numbers(e.logp - log_q, weights)
    if isinstance(family, EmpiricalFamily):
        numbers |= _particle_numbers(e, family)
    if trend is not None:
        numbers |= {"fall": trend.fall, "fall_error": trend.error}
    return Diagnosis(
        faults(evidence), remarks(evidence), numbers, _elements(e, fit, weights), _name(family), family.ndim, len(e.Z),
        seed, len(approx.hist), None if weights is None else WeightedDraws(e.Z, weights.log_weights, _tree(e)),
    )  # fmt: skip


def _scores(e: _Evaluated) -> Scores:
    family, theta = e.approx.family, e.approx.theta
    own = None if isinstance(family, EmpiricalFamily) else family.score(theta, e.eps)
    small = family.ndim <= _MOST_COVARIANCE and not isinstance(family, MeanFieldFamily)
    cov = family.cov(theta) if small else None
    return standardised(e.Z, e.score, own, family.mean(theta), family.std(theta), cov)


def _richer(family: Family) -> str:
    if isinstance(family, FullRankFamily | EmpiricalFamily):
        return ""
    if isinstance(family, FlowFamily):
        return "more layers, or method='fullrank_advi'"
    return "method='fullrank_advi' (or 'lowrank_advi' in many dimensions)"


def _fit_numbers(fit: ScoreFit) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {"improvement": fit.improvement, "snr": fit.snr}
    if fit.joint:
        numbers |= {"narrowest": fit.narrowest, "widest": fit.widest, "nonlinear": float(fit.nonlinear.max())}
    return numbers


def _weight_numbers(ratios: FloatArray, weights: Weights) -> dict[str, float | None]:
    return {
        "elbo": float(np.mean(ratios)),
        "elbo_error": float(np.std(ratios, ddof=1)) / math.sqrt(len(ratios)),
        "khat": weights.khat,
        "khat_threshold": weights.threshold,
        "ess": weights.ess,
    }


def _particle_numbers(e: _Evaluated, family: EmpiricalFamily) -> dict[str, float | None]:
    """Effective particles by their weights, and the squared Stein discrepancy."""
    log_weights = family.unpack(e.approx.theta)["log_weights"]
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    objective = Stein()
    work = objective.work(e.Z, e.score)
    results = [] if work is None else [work.function(*work.shared, item) for item in work.items]
    value, _ = objective.gradient(family, e.approx.theta, e.eps, e.logp, e.score, results)
    return {"ess": 1.0 / float(weights @ weights), "stein": -value}


def _elements(e: _Evaluated, fit: ScoreFit, weights: Weights | None) -> tuple[Element, ...]:
    family, theta = e.approx.family, e.approx.theta
    mean, sd = family.mean(theta), family.std(theta)
    unknown = np.full(len(mean), math.nan)
    corrected = (unknown, unknown) if weights is None else weighted_moments(e.Z, weights.log_weights)
    columns = (mean, sd, fit.shift, fit.shift_error, fit.scale, fit.sd * sd, *corrected)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return tuple(Element(name, *row) for name, row in zip(e.approx.layout.names(), rows, strict=True))


def _tree(e: _Evaluated) -> Any:
    """What makes a DataTree of draws ``(S, d)``, with the deterministics of the model."""
    layout, model, method = e.approx.layout, e.model, str(e.approx.run.get("method", ""))

    def tree(Z: FloatArray) -> xr.DataTree:
        function = model_draws(model, layout)
        return to_tree(Block(0, Z, function(Z)), function, coordinates(layout, model), method)

    return tree


def _not_finite(approx: Approximation, draws: int, seed: int, error: NonFiniteError) -> Diagnosis:
    finding = Finding(
        "nonfinite",
        f"there are draws at which the posterior has no finite density: {error}.",
        "Fit more steps, or give priors that keep the parameters in range.",
    )
    return Diagnosis((finding,), (), {}, (), _name(approx.family), approx.ndim, draws, seed, len(approx.hist))


def _name(family: Family) -> str:
    return type(family).__name__.removesuffix("Family")
