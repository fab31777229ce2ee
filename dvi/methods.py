"""``fit`` and the methods: what is fitted, from where, and by which estimator."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pymc as pm

from dvi.approximation import Approximation
from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.point import PointFamily
from dvi.dadvi import DADVI
from dvi.errors import ArgumentError, ArgumentTypeError, UnknownNameError, suggestion
from dvi.fitting import Inference
from dvi.groups import FLOW, Group, Structured, family_of, make_approximation, model_of
from dvi.inference.elbo import Elbo, Estimator
from dvi.progress import Measure
from dvi.settings import CONSTRUCTION, RUN, make_settings, refuse_unknown
from dvi.svgd import ASVGD, SVGD

logger = logging.getLogger(__name__)


def fit(n: int | None = 10_000, method: Any = "advi", model: pm.Model | None = None, **settings: Any) -> Approximation:
    """Fit a variational approximation to the posterior of a model.

    Parameters
    ----------
    n : int or None
        Steps; None for as many as it takes: stages of steps, each twice as long as the one before, until two agree.
    method : str or Inference
        ``"advi"``, ``"fullrank_advi"``, ``"lowrank_advi"``, ``"dadvi"``, ``"svgd"``, ``"asvgd"``, ``"nfvi"`` (or
        ``"nfvi=formula"``) or ``"map"``, in upper or lower case, or an inference object such as ``dvi.ADVI()``.
    model : pm.Model, optional
        The model on the context stack by default.
    **settings
        ``random_seed`` : int, optional. The same seed gives the same bits, on any number of threads and workers.
        ``start`` : dict by variable name, another approximation, or draws such as those of ``pm.sample``.
        ``start_sigma`` : dict by variable name; standard deviations at the start, of the unconstrained variables.
        ``init`` : ``"laplace"`` or ``"pathfinder"``, what looks for a better start on a part of the rows.
        ``inf_kwargs`` : dict, passed to the method.
        ``obj_optimizer`` : an optimizer such as ``dvi.adam(learning_rate=0.01)``. By default Adam in three stages:
        a tenth of the steps finds the place and the scales, a fifth the curvature there, and the others are in units of
        these. In each, the step decays along half a cosine.
        ``obj_n_mc`` : int, Monte Carlo draws of each step. An even number comes in antithetic pairs; 2 by default.
        ``tolerance`` : float, with ``n=None`` how far apart two stages may be, in posterior standard deviations (0.1).
        ``max_steps`` : int, ``max_seconds`` : float, with ``n=None`` where to stop at the latest (200,000 steps).
        ``total_grad_norm_constraint`` : float, optional. Longest gradient used as it is. Clipping biases posteriors.
        ``on_nonfinite`` : ``"raise"``, or ``"skip"`` to leave the parameters as they are at a step at which the log
        density or its gradient is not finite; its loss is NaN. A fit that skips half of 100 steps ends with the error.
        ``cache_bytes`` : int, rows that each process keeps between epochs, in bytes: 256 MiB by default, and in a Dask
        worker at most an eighth of its memory.
        ``staleness`` : 0, or 1 to evaluate each step at the parameters of one step before: workers have the next step
        while the last one is applied, so they do not wait for messages. Other bits, the same anywhere.
        ``callbacks`` : list of ``f(approx, losses, i)``, each called after every step, or every ``f.every`` steps
        where it has that attribute. ``StopIteration`` ends the fit.
        ``progressbar`` : bool.
        ``more_replacements`` : dict of nodes of the model's graph, by the nodes that they replace.
        ``include_transformed`` : bool, whether ``approx.state`` has the unconstrained values too.
        ``score`` : bool, taken as PyMC takes it; the loss of every step is recorded in any case.
        ``client`` : distributed.Client. The active client by default, if there is one.
        ``threads`` : int. Threads of this process, where no client is used: the cores at hand by default.
        ``lanes`` : int. The unit of determinism, by default chosen from the data and the batch size.
        ``checkpoint`` : path, URL or Zarr store where nothing is yet. What :func:`dvi.resume` goes on from, and
        :func:`dvi.load` reads, is written there beside the fit, and once more however it ends.
        ``checkpoint_every`` : float, seconds between two checkpoints (60). ``keep`` : int, how many stay (2).
        ``storage_options`` : mapping, for a ``checkpoint`` that is a URL, as in :func:`dvi.open_store`.

    Returns
    -------
    Approximation
        Its parameters are the average of the iterates over the last fifth of the steps of the last stage.

    Raises
    ------
    ArgumentError, ArgumentTypeError, ModelError, DataError
        Before anything is compiled.
    NonFiniteError
        When data or likelihood are not finite: names the array, chunk and row.
    ClusterError
        When no worker is left.
    StoreExistsError
        If there is something where the checkpoints are to go, or another run writes there.
    SystemExit
        With 143, where SIGTERM ends a fit with checkpoints, after the last one is written.

    References
    ----------
    Kucukelbir et al., *Automatic differentiation variational inference*, arXiv:1603.00788.

    Examples
    --------
    >>> import dvi, numpy as np, pymc as pm
    >>> y = dvi.Minibatch(np.random.default_rng(1).normal(3.0, 1.0, 10_000), batch_size=500)
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0, 10)
    ...     obs = pm.Normal("obs", mu, 1, observed=y)
    ...     approx = dvi.fit(2_000, random_seed=1, progressbar=False)
    >>> bool(abs(approx.mean.eval()[0] - 3.0) < 0.05)
    True
    """
    known = (*CONSTRUCTION, *RUN, "inf_kwargs")
    refuse_unknown(settings, known)
    construction = {k: v for k, v in settings.items() if k in CONSTRUCTION and v is not None}
    construction |= dict(settings.get("inf_kwargs") or {})
    run = {k: v for k, v in settings.items() if k in RUN}
    make_settings(n, run)
    if isinstance(method, Inference):
        if construction:
            raise ArgumentError(f"{sorted(construction)} belong to the inference object; give them where it is made")
        return method.fit(n, **run)
    return make_inference(method, model, **construction).fit(n, **run)


def make_inference(method: Any, model: pm.Model | None = None, **construction: Any) -> Inference:
    """A method by its name, see :func:`fit`."""
    if not isinstance(method, str):
        raise ArgumentTypeError(f"method={method!r} is of type {type(method).__name__}; give a name or an Inference")
    name, _, formula = method.lower().partition("=")
    if name not in _METHODS or (formula and name != "nfvi"):
        near = f"; did you mean {name!r}?" if formula and name in _METHODS else suggestion(name, _METHODS)
        raise UnknownNameError(f"method={method!r} is not known; give {', '.join(_METHODS)} or an Inference{near}")
    if formula:
        construction["flow"] = formula
    inference: Inference = _METHODS[name](model=model, **construction)
    return inference


def remake_inference(record: Mapping[str, Any], approx: Approximation) -> Inference:
    """The method with the settings that it recorded. What was damaged raises whatever comes of it."""
    settings = {name: value for name, value in record.items() if name != "name"}
    match record["name"]:
        case "svgd":
            return SVGD(approx=approx, **settings)
        case "asvgd":
            return ASVGD(approx, **settings)
        case "map":
            return MAP(approx=approx)
        case "elbo":
            return Inference(approx, Elbo(record["estimator"]), draws=record["draws"])
    raise ValueError(f"{record['name']!r} is not the name of a method")


class KLqp(Inference):
    """Variational inference that minimises the divergence KL(q || p) of any approximation with a density.

    Parameters
    ----------
    approx : Approximation or sequence of Group
        Not fitted yet, or to be fitted further.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     a = pm.Normal("a", shape=2)
    ...     b = pm.Normal("b")
    ...     inference = dvi.KLqp([dvi.Group([a], "full_rank"), dvi.Group(None, "mean_field")])
    >>> inference.fit(100, progressbar=False).ndim
    3
    """

    def __init__(self, approx: Approximation | Sequence[Group]) -> None:
        if not isinstance(approx, Approximation):
            approx = Structured(approx)
        parts = [part.family for part in getattr(approx.family, "parts", ())]
        if any(isinstance(family, EmpiricalFamily) for family in [approx.family, *parts]):
            raise ArgumentTypeError("particles have no density, so no divergence; use dvi.SVGD")
        approx.run["method"] = approx.run.get("method") or "advi"
        super().__init__(approx)


class ADVI(Inference):
    """Mean-field automatic differentiation variational inference.

    Parameters
    ----------
    model : pm.Model, optional
        The model on the context stack by default.
    estimator : {"stl", "entropy"}
        Of the gradient: the one that sticks the landing, whose variance vanishes as the approximation becomes exact, or
        the one with the entropy in closed form.
    **construction
        ``random_seed``, ``start`` and ``start_sigma`` as in :func:`fit`.

    References
    ----------
    Kucukelbir et al., *Automatic differentiation variational inference*, arXiv:1603.00788.
    Roeder, Wu and Duvenaud, *Sticking the landing*, arXiv:1703.09194.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu")
    ...     advi = dvi.ADVI(random_seed=1)
    >>> advi.fit(100, progressbar=False).ndim
    1
    """

    def __init__(self, *, estimator: Estimator = "stl", model: pm.Model | None = None, **construction: Any) -> None:
        refuse_unknown(construction, (*CONSTRUCTION, "estimator"))
        objective = Elbo(estimator)
        super().__init__(make_approximation(model_of(model), MeanFieldFamily, method="advi", **construction), objective)


class FullRankADVI(Inference):
    """Variational inference with a normal distribution of any covariance. Parameters are those of :class:`ADVI`.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", shape=2)
    ...     approx = dvi.FullRankADVI(random_seed=1).fit(100, progressbar=False)
    >>> approx.cov.eval().shape
    (2, 2)
    """

    def __init__(self, *, estimator: Estimator = "stl", model: pm.Model | None = None, **construction: Any) -> None:
        refuse_unknown(construction, (*CONSTRUCTION, "estimator"))
        objective = Elbo(estimator)
        approx = make_approximation(model_of(model), FullRankFamily, method="fullrank_advi", **construction)
        super().__init__(approx, objective)


class LowRankADVI(Inference):
    """Variational inference with a normal distribution whose covariance is a diagonal and a matrix of low rank.

    Parameters
    ----------
    rank : int, optional
        Columns of the matrix; 10, or the number of dimensions where that is less, by default.
    model, **construction
        As in :class:`ADVI`.

    References
    ----------
    Ong, Nott and Smith, *Gaussian variational approximation with a factor covariance structure*, arXiv:1701.03208.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", shape=5)
    ...     approx = dvi.LowRankADVI(rank=2, random_seed=1).fit(100, progressbar=False)
    >>> approx.params["B"].shape
    (5, 2)
    """

    def __init__(
        self,
        *,
        rank: int | None = None,
        estimator: Estimator = "stl",
        model: pm.Model | None = None,
        **construction: Any,
    ) -> None:
        refuse_unknown(construction, (*CONSTRUCTION, "estimator", "rank"))
        objective, family = Elbo(estimator), family_of("low_rank", rank=rank)
        approx = make_approximation(model_of(model), family, method="lowrank_advi", **construction)
        super().__init__(approx, objective)


class NFVI(Inference):
    """Variational inference with a normalizing flow.

    Parameters
    ----------
    flow : str
        Its layers from the first, ``planar``, ``radial``, ``coupling``, ``scale`` and ``loc``, each with ``*`` and a
        number for several.
    model, **construction
        As in :class:`ADVI`.

    References
    ----------
    Rezende and Mohamed, *Variational inference with normalizing flows*, arXiv:1505.05770.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", shape=2)
    ...     approx = dvi.NFVI("planar*2-scale-loc", random_seed=1).fit(100, progressbar=False)
    >>> approx.ndim
    2
    """

    def __init__(self, flow: str = FLOW, *, model: pm.Model | None = None, **construction: Any) -> None:
        refuse_unknown(construction, (*CONSTRUCTION, "flow"))
        super().__init__(make_approximation(model_of(model), family_of(flow), method="nfvi", **construction))


class MAP(Inference):
    """The point of the highest posterior density in unconstrained space, found by the same steps.

    Parameters
    ----------
    approx : Approximation, optional
        A point to go on from.
    model, random_seed, start
        As in :class:`ADVI`.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 3.0)
    ...     approx = dvi.MAP(random_seed=1).fit(2_000, progressbar=False)
    >>> approx.mean.eval().round(3)
    array([3.])
    """

    measure = Measure("log density", -1)

    def __init__(
        self, *, approx: Approximation | None = None, model: pm.Model | None = None, **construction: Any
    ) -> None:
        refuse_unknown(construction, ("random_seed", "start"))
        approx = approx or make_approximation(model_of(model), PointFamily, method="map", **construction)
        super().__init__(approx, draws=1)

    def recorded(self) -> dict[str, Any]:
        """See :class:`Inference`."""
        return {"name": "map"}


_METHODS: Mapping[str, type[Any]] = {
    "advi": ADVI,
    "fullrank_advi": FullRankADVI,
    "lowrank_advi": LowRankADVI,
    "dadvi": DADVI,
    "svgd": SVGD,
    "asvgd": ASVGD,
    "nfvi": NFVI,
    "map": MAP,
}
