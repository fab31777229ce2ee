"""Approximations before they are fitted: a family for every variable of a model, and where it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from dvi.approximation import Approximation, as_seed
from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.flow import FlowFamily, parse
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.point import PointFamily
from dvi.approximations.structured import Part, StructuredFamily
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError, suggestion
from dvi.inference.settings import not_negative
from dvi.model.draws import unconstrained_draws
from dvi.model.graph import layout_and_start
from dvi.model.layout import Layout
from dvi.randomness import keyed_generator
from dvi.settings import check_int, refuse_unknown
from dvi.starts import Init, start_from
from dvi.types import Family, FloatArray

type Start = Mapping[str, Any] | Approximation | xr.DataTree | xr.Dataset
type FamilyOf = Callable[[int], Family]  # from a number of dimensions

START_SIGMA = 0.1
MOST_RANK = 10  # of a low-rank approximation, unless asked for
PARTICLES = 100
FLOW = "planar*4-scale-loc"
_FAMILIES = ("mean_field", "full_rank", "low_rank", "point", "empirical")
_OPTIONS = {"rank": ("lr", "lowrank"), "size": ("empirical",)}  # of a group, and the families that have them


@dataclass(frozen=True)
class Group:
    """Variables that are approximated together.

    Parameters
    ----------
    group : sequence of variables or names, optional
        Free variables of a model; None, in one group at most, for all that no other group has.
    vfam : str
        ``"mean_field"`` (``"mf"``), ``"full_rank"`` (``"fr"``), ``"low_rank"`` (``"lr"``), ``"point"``,
        ``"empirical"``, or the formula of a normalizing flow such as ``"planar*4-scale-loc"``.
    **options
        ``rank`` of a low-rank group, ``size`` of an empirical one.

    Examples
    --------
    >>> Group(["beta"], "full_rank")
    Group(['beta'], 'full_rank')
    """

    group: Sequence[Any] | None = None
    vfam: str = "mean_field"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __init__(self, group: Sequence[Any] | None = None, vfam: str = "mean_field", **options: Any) -> None:
        if isinstance(group, str) or not (group is None or isinstance(group, Sequence)):
            raise ArgumentTypeError(f"group={group!r} is not a list of variables; give [{group!r}]")
        if group is not None and not len(group):
            raise ArgumentError("Got empty group; name its variables, or give None for all that no other group has")
        for variable in group or ():
            if not isinstance(variable, str) and not isinstance(getattr(variable, "name", None), str):
                raise ArgumentTypeError(f"{variable!r} in a group is not a variable of a model; give it, or its name")
        object.__setattr__(self, "group", group)
        object.__setattr__(self, "vfam", vfam)
        object.__setattr__(self, "options", options)
        refuse_unknown(options, tuple(_OPTIONS))
        family_of(vfam, **options)
        for name in options:
            if _plain(vfam) not in _OPTIONS[name]:
                raise ArgumentTypeError(f"a group with vfam={vfam!r} has no {name}; leave it out")

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Group({None if self.group is None else self.names()!r}, {self.vfam!r}{options})"

    def names(self) -> list[str]:
        """Names of its variables."""
        return [v if isinstance(v, str) else str(v.name) for v in self.group or ()]


def family_of(vfam: str, rank: int | None = None, size: int | None = None) -> FamilyOf:
    """The family of a name, as a function of the number of dimensions."""
    if not isinstance(vfam, str):
        raise ArgumentTypeError(f"vfam={vfam!r} is of type {type(vfam).__name__}; give the name of a family")
    match _plain(vfam):
        case "mf" | "meanfield":
            return MeanFieldFamily
        case "fr" | "fullrank":
            return FullRankFamily
        case "lr" | "lowrank":
            if rank is not None:
                check_int("rank", rank, 1, "number of columns")
            return lambda ndim: LowRankFamily(ndim, rank or min(MOST_RANK, ndim))
        case "point" | "map":
            return PointFamily
        case "empirical":
            if size is None:
                raise ArgumentError("Need `trace` or `size`: an empirical group takes size=, its number of particles")
            check_int("size", size, 1, "number of particles")
            return lambda ndim: EmpiricalFamily(ndim, size)
    try:
        parse(vfam.lower())
    except ArgumentError as error:
        raise UnknownNameError(
            f"vfam={vfam!r} is not the name of a family; give 'mean_field', 'full_rank', 'low_rank', 'point', "
            f"'empirical' or the formula of a normalizing flow ({error}){suggestion(vfam, _FAMILIES)}"
        ) from None
    return lambda ndim: FlowFamily(ndim, vfam.lower())


def _plain(vfam: str) -> str:
    """The name of a family without what people write in one way or another."""
    return vfam.lower().replace("_", "").replace("-", "")


def structured(groups: Sequence[Group], layout: Layout) -> Family:
    """One family for all variables of a model from a group for each part of them."""
    if isinstance(groups, Group) or not all(isinstance(group, Group) for group in groups):
        raise ArgumentTypeError(f"{groups!r} is not a list of dvi.Group; give one for each set of variables")
    taken: dict[str, Group] = {}
    rest = [g for g in groups if g.group is None]
    for group in groups:
        for name in group.names():
            entry = layout.entry(name)
            if entry.name in taken:
                raise ArgumentTypeError(f"Found duplicates: {name!r} is in two groups; give it in one of them")
            taken[entry.name] = group
    left = [e.name for e in layout.entries if e.name not in taken]
    if left and not rest:
        raise ArgumentTypeError(f"No approximation is specified for {left}; add Group(None, 'mean_field') for the rest")
    if len(rest) > 1:
        raise ArgumentTypeError(f"{len(rest)} groups have no variables; one of them takes all that others have not")
    members = {id(g): [e for e in layout.entries if taken.get(e.name, rest[0] if rest else g) is g] for g in groups}
    parts = []
    for group in groups:
        indices = np.concatenate([np.arange(e.start, e.stop) for e in members[id(group)]] or [np.arange(0)])
        if len(indices):
            parts.append((family_of(group.vfam, **group.options)(len(indices)), indices))
    if len(parts) == 1:
        return parts[0][0]
    return StructuredFamily(tuple(Part(family, tuple(indices.tolist())) for family, indices in parts))


def model_of(model: pm.Model | None) -> pm.Model:
    """The model that is given, or that of the context."""
    try:
        found = pm.modelcontext(model)
    except TypeError:
        raise ModelError("there is no model; call inside `with model:` or pass model=") from None
    if not isinstance(found, pm.Model):
        raise ArgumentTypeError(f"model={model!r} is of type {type(model).__name__}; give a pm.Model")
    return found


def make_approximation(
    model: pm.Model,
    family: FamilyOf | Sequence[Group],
    start: Start | None = None,
    start_sigma: Mapping[str, Any] | None = None,
    random_seed: object = None,
    method: str = "",
    init: Init | None = None,
) -> Approximation:
    """An approximation before the first step.

    Parameters
    ----------
    model : pm.Model
    family : callable or sequence of Group
    start : mapping, Approximation or DataTree, optional
        Values of variables by name; or where another approximation, or draws, have their mean and standard deviations.
    start_sigma : mapping, optional
        Standard deviations of unconstrained variables, by name.
    random_seed : int, optional
    method : str
        To be recorded.
    init : {"laplace", "pathfinder"}, optional
        What looks for a better start on a part of the rows.
    """
    seed = as_seed(random_seed)
    by_name = {} if not isinstance(start, Mapping) or isinstance(start, xr.DataTree | xr.Dataset) else start
    layout, initial = layout_and_start(model, by_name)
    made = family(layout.ndim) if callable(family) else structured(family, layout)
    theta = _theta_of(start, layout, made) if not start_sigma else None
    if theta is None:
        mean, sigma = (initial, None) if start is None or start is by_name else _moments(start, layout, model)
        spread = _start_sigma(layout, start_sigma or {}, sigma)
        if init is not None:
            found = start_from(model, init, seed, mean=mean, sigma=spread)
            mean, spread = found["mean"], found["sigma"]
        theta = made.initial(mean, spread)
    run = {"method": method, "seed": seed}
    return Approximation(made, theta, layout, np.empty(0), run, model)


def _theta_of(start: Start | None, layout: Layout, family: Family) -> FloatArray | None:
    """Parameters of an approximation of the same family, to be used as they are."""
    if isinstance(start, Approximation) and start.family == family and layout.difference(start.layout) is None:
        return start.theta.copy()
    return None


def _moments(start: Any, layout: Layout, model: pm.Model) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviations ``(d,)`` of another approximation, or of draws."""
    if isinstance(start, Approximation):
        difference = layout.difference(start.layout)
        if difference is not None:
            raise ArgumentError(
                f"start is an approximation of another model: {difference}; give one of this model, or a dict of values"
            )
        return start.family.mean(start.theta), start.family.std(start.theta)
    Z = unconstrained_draws(start, model, layout)
    return Z.mean(axis=0), Z.std(axis=0)


def _start_sigma(layout: Layout, given: Any, found: FloatArray | None) -> FloatArray:
    """Standard deviations at the start, shape (d,): the usual ones where none are found, or 0 as those of a point."""
    usual = np.full(layout.ndim, START_SIGMA)
    sigma = usual if found is None else np.where(found > 0, found, usual)
    if not isinstance(given, Mapping):
        raise ArgumentTypeError(f"start_sigma={given!r} is not a dict; give standard deviations by variable name")
    for name, value in given.items():
        entry, own = layout.entry(name), np.asarray(value, dtype=np.float64)
        if own.ndim and own.shape != entry.shape:
            raise ArgumentError(
                f"start_sigma of {name!r} has the shape {own.shape}; give a number or an array of shape {entry.shape}"
            )
        sigma[entry.start : entry.stop] = np.broadcast_to(own, entry.shape).ravel()
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise ArgumentError("start_sigma has values that are not positive and finite; give standard deviations above 0")
    return sigma


def scatter(approx: Approximation, jitter: float, seed: int) -> FloatArray:
    """Parameters of particles spread about the start of an approximation with a standard deviation."""
    jitter = not_negative("jitter", jitter)
    family = approx.family
    assert isinstance(family, EmpiricalFamily)
    noise = keyed_generator(seed, "jitter").standard_normal((family.n, family.ndim))
    return family.pack({"histogram": family.mean(approx.theta) + jitter * noise, "log_weights": np.zeros(family.n)})


def MeanField(*, model: pm.Model | None = None, **settings: Any) -> Approximation:  # noqa: N802
    """Independent normal distributions, before any fit.

    Parameters
    ----------
    model : pm.Model, optional
        The model on the context stack by default.
    **settings
        ``start``, ``start_sigma`` and ``random_seed`` as in :func:`dvi.fit`.

    Returns
    -------
    Approximation
        To be fitted by ``dvi.KLqp(approx).fit(n)``.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu")
    ...     approx = dvi.MeanField(start={"mu": 2.0})
    >>> approx.params["mu"]
    array([2.])
    """
    return make_approximation(model_of(model), MeanFieldFamily, **settings)


def FullRank(*, model: pm.Model | None = None, **settings: Any) -> Approximation:  # noqa: N802
    """A normal distribution with any covariance, before any fit. See :func:`MeanField`.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", shape=2)
    ...     approx = dvi.FullRank()
    >>> approx.cov.eval().shape
    (2, 2)
    """
    return make_approximation(model_of(model), FullRankFamily, **settings)


def LowRank(*, model: pm.Model | None = None, rank: int | None = None, **settings: Any) -> Approximation:  # noqa: N802
    """A normal distribution whose covariance is a diagonal and a matrix of low rank. See :func:`MeanField`.

    ``rank`` is 10 or the number of dimensions by default.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", shape=5)
    ...     approx = dvi.LowRank(rank=2)
    >>> approx.params["B"].shape
    (5, 2)
    """
    return make_approximation(model_of(model), family_of("low_rank", rank=rank), **settings)


def Structured(groups: Sequence[Group], *, model: pm.Model | None = None, **settings: Any) -> Approximation:  # noqa: N802
    """Groups of variables, each with a family of its own, independent of each other. See :func:`MeanField`.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> with pm.Model():
    ...     beta = pm.Normal("beta", shape=3)
    ...     sigma = pm.HalfNormal("sigma")
    ...     approx = dvi.Structured([dvi.Group([beta], "full_rank"), dvi.Group(None, "mean_field")])
    >>> approx.ndim
    4
    """
    return make_approximation(model_of(model), groups, **settings)


def Empirical(  # noqa: N802
    trace: Any = None,
    *,
    size: int | None = None,
    jitter: float = 1.0,
    model: pm.Model | None = None,
    start: Start | None = None,
    random_seed: object = None,
) -> Approximation:
    """The distribution of some draws, each of which has the same weight.

    Parameters
    ----------
    trace : DataTree, Dataset, InferenceData, MultiTrace, dict or array, optional
        Draws of the free variables in their own space or, by the names of the unconstrained values or as an array
        ``(S, d)``, unconstrained.
    size : int, optional
        Without a trace, the number of particles, scattered about ``start``.
    jitter : float
        Standard deviation of the scatter, in unconstrained space.
    model, start, random_seed
        As in :func:`dvi.fit`. Where ``start`` has ``size`` particles, these are taken as they are, and not scattered.

    Examples
    --------
    >>> import dvi, numpy as np, pymc as pm
    >>> with pm.Model():
    ...     sigma = pm.HalfNormal("sigma")
    ...     approx = dvi.Empirical({"sigma": np.array([[1.0, 2.0, 4.0]])})
    >>> np.exp(approx.mean.eval()).round(6)
    array([2.])
    """
    model = model_of(model)
    if (trace is None) == (size is None):
        raise ArgumentError("Need `trace` or `size`: give draws, or how many particles to scatter about the start")
    if size is not None:
        approx = make_approximation(model, family_of("empirical", size=size), start, None, random_seed, "svgd")
        scattered = scatter(approx, jitter, approx.run["seed"])
        if _theta_of(start, approx.layout, approx.family) is None:
            approx.theta = scattered
        return approx
    approx = make_approximation(model, family_of("empirical", size=1), start, None, random_seed, "empirical")
    Z = unconstrained_draws(trace, model, approx.layout)
    family = EmpiricalFamily(approx.ndim, len(Z))
    theta = family.pack({"histogram": Z, "log_weights": np.zeros(len(Z))})
    return Approximation(family, theta, approx.layout, np.empty(0), approx.run, model)
