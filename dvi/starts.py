"""Where a fit starts: close to the posterior of a few of the rows, if that is any better than the model's own start."""

from __future__ import annotations

import importlib
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy  # whose `optimize` takes a while to import, and does so when it is first used
from threadpoolctl import threadpool_limits

from dvi.approximations.meanfield import MeanFieldFamily
from dvi.data.stream import Stream
from dvi.errors import ArgumentError, NonFiniteError, suggestion
from dvi.full_data import Evaluator, some_rows
from dvi.inference.fixed_draws import fixed_noise
from dvi.model.draws import unconstrained_draws
from dvi.model.evaluating import evaluating
from dvi.model.graph import SplitModel, split
from dvi.randomness import keyed_generator
from dvi.types import AnyArray, FloatArray

if TYPE_CHECKING:
    import pymc as pm

logger = logging.getLogger(__name__)

type Init = Literal["laplace", "pathfinder"]

_KINDS = ("laplace", "pathfinder")
_ROWS = 10_000
_DRAWS = 20  # for the ELBO of a candidate
_STEPS = 200  # of the search for the mode
_PROBES = 500  # dimensions up to which every curvature is measured, and random directions beyond
_DIFFERENCE = 1e-3
_PATHS_DRAWS = 200


def start_from(
    model: pm.Model,
    kind: Init,
    seed: int,
    *,
    mean: FloatArray | None = None,
    sigma: FloatArray | float = 0.1,
    client: Any = None,
    threads: int | None = None,
) -> dict[str, FloatArray]:
    """Means and standard deviations to start a fit from, found on 10,000 rows that stand for all.

    ``"laplace"`` climbs to the mode by L-BFGS; ``"pathfinder"`` takes the mean of what ``pymc_extras.fit_pathfinder``
    finds. Standard deviations come from the curvature there. What is found is used only where its ELBO, on these rows,
    is higher than that of the usual start: no start is worse for having asked.

    Parameters
    ----------
    model : pm.Model
    kind : {"laplace", "pathfinder"}
    seed : int
        Of the rows. The same seed gives the same bits.
    mean : array, shape (d,), optional
        The usual start: the model's initial point by default.
    sigma : float or array, shape (d,)
        The usual standard deviations, kept where the log density is not concave.
    client, threads
        As in :func:`dvi.fit`.

    Returns
    -------
    dict
        ``mean (d,)`` and ``sigma (d,)``, unconstrained.

    Raises
    ------
    ArgumentError
        For another kind, and for ``"pathfinder"`` where pymc-extras is not installed.

    References
    ----------
    Zhu et al., *Algorithm 778: L-BFGS-B*, doi:10.1145/279232.279236.
    Zhang et al., *Pathfinder: parallel quasi-Newton variational inference*, arXiv:2108.03782.
    Bekas, Kokiopoulou and Saad, *An estimator for the diagonal of a matrix*, doi:10.1016/j.apnum.2007.01.003.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model() as model:
    ...     y = dvi.Minibatch(np.random.default_rng(1).normal(3.0, 1.0, 40_000), batch_size=500)
    ...     obs = pm.Normal("obs", pm.Normal("mu", 0, 10), 1, observed=y)
    >>> found = start_from(model, "laplace", seed=1)
    >>> found["mean"].round(1).tolist(), found["sigma"].round(4).tolist()
    ([3.0], [0.005])
    """
    if kind not in _KINDS:
        raise ArgumentError(
            f"init={kind!r} is not allowed; give 'laplace' or 'pathfinder', or leave it out{suggestion(kind, _KINDS)}"
        )
    parts = split(model)
    usual = parts.start if mean is None else np.asarray(mean, dtype=np.float64)
    scale = np.broadcast_to(np.asarray(sigma, dtype=np.float64), usual.shape).copy()
    with some_rows(parts, _ROWS, seed, client, threads) as evaluate, threadpool_limits(limits=1):
        if kind == "laplace":
            place = _mode(evaluate, usual, _scales(evaluate, usual, scale, seed))
        else:
            place = _pathfinder(model, parts, evaluate, seed)
        found = _scales(evaluate, place, scale, seed)
        before, after = (_elbo(evaluate, *at, seed) for at in ((usual, scale), (place, found)))
    if not after > before:
        logger.info("init=%r finds no better start: its ELBO is %.6g, that of the usual one %.6g", kind, after, before)
        return {"mean": usual, "sigma": scale}
    return {"mean": place, "sigma": found}


def _mode(evaluate: Evaluator, start: FloatArray, scale: FloatArray) -> FloatArray:
    """The highest point that L-BFGS comes to, in units of a scale for each dimension."""
    best, place = math.inf, start

    def loss(y: FloatArray) -> tuple[float, FloatArray]:
        nonlocal best, place
        z = start + scale * y
        try:
            logp, score = evaluate(z[None])
        except NonFiniteError:
            return math.inf, np.zeros_like(y)
        if -logp[0] < best:
            best, place = -float(logp[0]), z
        return -float(logp[0]), -scale * score[0]

    with np.errstate(all="ignore"):
        scipy.optimize.minimize(loss, np.zeros_like(start), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
    return place


def _scales(evaluate: Evaluator, place: FloatArray, usual: FloatArray, seed: int) -> FloatArray:
    """Standard deviations ``(d,)`` from the curvature along each dimension; the usual ones where there is none."""
    d = len(place)
    signs = np.eye(d) if d <= _PROBES else keyed_generator(seed, "start", 1).choice([-1.0, 1.0], (_PROBES, d))
    moved = _DIFFERENCE * usual * signs
    for _ in range(2):  # a second time with differences that fit the curvature
        try:
            up, down = np.split(evaluate(np.concatenate([place + moved, place - moved]))[1], 2)
        except NonFiniteError:
            return usual
        curvature = -np.einsum("kd,kd->d", signs, up - down) / np.einsum("kd,kd->d", signs, 2.0 * moved)
        concave = np.isfinite(curvature) & (curvature > 0)
        found = np.where(concave, 1.0 / np.sqrt(np.where(concave, curvature, 1.0)), usual)
        moved = _DIFFERENCE * found * signs
    return found


def _elbo(evaluate: Evaluator, mean: FloatArray, sigma: FloatArray, seed: int) -> float:
    """ELBO of independent normal distributions; minus infinity where it is not finite."""
    family = MeanFieldFamily(len(mean))
    theta = family.initial(mean, sigma)
    try:
        logp, _ = evaluate(family.draw(theta, fixed_noise(seed, _DRAWS, family.noise_dim)))
    except NonFiniteError:
        return -math.inf
    return float(np.mean(logp)) + family.entropy(theta)


def _pathfinder(model: pm.Model, parts: SplitModel, evaluate: Evaluator, seed: int) -> FloatArray:
    """Mean ``(d,)`` of the draws of Pathfinder on the same rows."""
    try:
        extras = importlib.import_module("pymc_extras")
    except ImportError as error:
        raise ArgumentError(
            f"init='pathfinder' needs pymc-extras, which cannot be imported ({error}); pip install pymc-extras, or "
            "give init='laplace'"
        ) from error
    with evaluating(_rows(parts, evaluate)):
        found = extras.fit_pathfinder(model=model, num_draws=_PATHS_DRAWS, random_seed=seed % 2**32, progressbar=False)
    mean: FloatArray = unconstrained_draws(found, model, parts.layout).mean(axis=0)
    return mean


def _rows(parts: SplitModel, evaluate: Evaluator) -> dict[Any, AnyArray | None]:
    """The rows that an evaluation reads, by Minibatch variable; None for variables that no likelihood uses."""
    held: dict[Any, AnyArray | None] = {}
    for term, planned in zip(parts.terms, evaluate.problem.terms, strict=True):
        with ThreadPoolExecutor(1) as background:
            stream = Stream(planned.source, planned.plan, background)
            read = (b for lane in range(planned.plan.lanes) for b in stream.blocks(0, lane))
            blocks = [tuple(map(np.copy, planned.picked(b, 0))) for b in read]
            arrays = [np.concatenate(columns) for columns in zip(*blocks, strict=True)]
        known = dict(zip(planned.source.names, arrays, strict=True))
        held |= {variable: known.get(str(variable.name)) for variable in term.origin.variables}
    return held
