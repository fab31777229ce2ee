"""Covariances that a mean-field approximation leaves out, from how its means respond to a change of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg
from threadpoolctl import threadpool_limits

from dvi.approximation import Approximation
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import MeanFieldFamily, softplus_inverse
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError, suggestion
from dvi.full_data import all_rows
from dvi.inference.fixed_draws import MOST_DENSE, FixedDraws, Point, fixed_noise, hessians
from dvi.memory import check_draws_fit
from dvi.model.draws import DrawFunction, model_draws
from dvi.model.graph import split
from dvi.settings import check_int
from dvi.types import FloatArray

if TYPE_CHECKING:
    import pymc as pm

_DRAWS = 30
_RESIDUAL = 1e-3  # of conjugate gradients; the error of a variance is of the order of its square
_DIFFERENCE = 1e-4  # of a standard deviation, for functions of draws


@dataclass(frozen=True, slots=True)
class _Functions:
    """Functions of the unconstrained vector whose means are asked for.

    Parameters
    ----------
    labels : list of str
        One for each function.
    gradients : array, shape (k, p)
        Of their means over the fixed draws.
    """

    labels: list[str]
    gradients: FloatArray


def linear_response(
    approx: Approximation,
    model: pm.Model | None = None,
    *,
    var_names: Sequence[str] | None = None,
    draws: int | None = None,
    client: Any = None,
    threads: int | None = None,
) -> xr.Dataset:
    r"""Covariances of a mean-field approximation, corrected by linear response.

    Independent normal distributions find means well, but have the conditional standard deviations, which are too small
    where variables depend on each other. If :math:`t \cdot g(z)` is added to the log density, though, the mean of a
    posterior moves at the rate of its covariance with :math:`g`. So does that of the approximation, about as well as it
    finds means: with the Hessian :math:`H` of the loss in the parameters and :math:`G = \partial E_q[g] / \partial
    \theta`, at :math:`G H^{-1} G^T`. For a normal posterior that is the true covariance.

    Up to 256 dimensions the Hessian is made as a whole; beyond, each element asked for is found by conjugate gradients,
    every step of which is a pass over all rows.

    Parameters
    ----------
    approx : Approximation
        Mean-field, by ``method="advi"`` or ``"dadvi"``, and close to its optimum.
    model : pm.Model, optional
        That of the approximation by default.
    var_names : sequence of str, optional
        Variables and deterministics of the model, in their own space, or unconstrained values such as ``sigma_log__``.
        All unconstrained values by default.
    draws : int, optional
        Even. Those of the fit for ``"dadvi"``, else 30, by default.
    client : distributed.Client, optional
        The active client by default, if there is one.
    threads : int, optional
        Of this process, where no client is used: the cores at hand by default.

    Returns
    -------
    xarray.Dataset
        ``std (element,)`` and ``cov (element, other)``, with a label for each element. :func:`as_full_rank` makes an
        approximation of it to draw from.

    Raises
    ------
    ArgumentError
        For another family, for more than 256 dimensions without names, and away from an optimum.

    References
    ----------
    Giordano, Broderick and Jordan, *Covariances, robustness, and variational Bayes*, arXiv:1709.02536.
    Giordano, Ingram and Broderick, *Black box variational inference with a deterministic objective: faster, more
    accurate, and even more black box*, arXiv:2304.05527.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> from dvi.dadvi import DADVI
    >>> with pm.Model():
    ...     x = pm.MvNormal("x", np.zeros(2), np.array([[1.0, 0.9], [0.9, 1.0]]))
    ...     approx = DADVI(random_seed=1).fit(progressbar=False)
    >>> approx.std.eval().round(3).tolist()
    [0.436, 0.436]
    >>> linear_response(approx).cov.values.round(3).tolist()
    [[1.0, 0.9], [0.9, 1.0]]
    """
    model = _checked(approx, model, var_names)
    eps = _noise(approx, draws)
    with all_rows(split(model), client, threads) as evaluate, threadpool_limits(limits=1):
        objective = FixedDraws(cast("MeanFieldFamily", approx.family), eps, evaluate)
        point = objective.at(approx.theta)
        functions = _functions(approx, model, objective, point, var_names)
        if approx.ndim <= MOST_DENSE:
            response = _dense(objective, point, functions.gradients)
        else:
            response = _by_products(objective, point, functions.gradients)
        n_passes = evaluate.n_passes
    cov = functions.gradients @ response.T
    cov = 0.5 * (cov + cov.T)
    labels = np.array(functions.labels)
    return xr.Dataset(
        {"cov": (("element", "other"), cov), "std": (("element",), np.sqrt(np.diag(cov)))},
        coords={"element": labels, "other": labels},
        attrs={"draws": len(eps), "passes": n_passes},
    )


def as_full_rank(approx: Approximation, response: xr.Dataset) -> Approximation:
    """A normal approximation with the means of one approximation and the covariance that linear response gives it.

    Parameters
    ----------
    approx : Approximation
    response : Dataset
        What :func:`linear_response` returned for it, for all unconstrained values.

    Returns
    -------
    Approximation
        Full-rank, with the model and the history of the other.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> from dvi.dadvi import DADVI
    >>> with pm.Model():
    ...     x = pm.MvNormal("x", np.zeros(2), np.array([[1.0, 0.9], [0.9, 1.0]]))
    ...     approx = DADVI(random_seed=1).fit(progressbar=False)
    >>> as_full_rank(approx, linear_response(approx)).cov.eval().round(3).tolist()
    [[1.0, 0.9], [0.9, 1.0]]
    """
    if response["element"].values.tolist() != approx.layout.names():
        raise ArgumentError(
            f"the response is that of {response.sizes['element']} elements, not of the {approx.ndim} unconstrained "
            "values in their order; call linear_response(approx) without var_names"
        )
    factor = np.linalg.cholesky(response["cov"].values)
    np.fill_diagonal(factor, softplus_inverse(np.diag(factor).copy()))
    family = FullRankFamily(approx.ndim)
    theta = family.pack({"mu": approx.family.mean(approx.theta), "L_tril": factor[np.tril_indices(approx.ndim)]})
    run = {**approx.run, "method": "linear_response"}
    return Approximation(family, theta, approx.layout, approx.hist.copy(), run, approx.model)


def _checked(approx: Approximation, model: pm.Model | None, var_names: Sequence[str] | None) -> pm.Model:
    if not isinstance(approx, Approximation):
        raise ArgumentTypeError(f"approx={approx!r:.80} is of type {type(approx).__name__}; give an Approximation")
    if not isinstance(approx.family, MeanFieldFamily):
        raise ArgumentError(
            f"linear response corrects independent normal distributions, not a {type(approx.family).__name__}; give a "
            "fit by method='advi' or 'dadvi'"
        )
    if var_names is None and approx.ndim > MOST_DENSE:
        raise ArgumentError(
            f"the covariance of {approx.ndim} dimensions is too large to be made as a whole, the most is {MOST_DENSE}; "
            "name some variables in var_names, each element of which takes some dozens of passes over the rows"
        )
    if isinstance(var_names, str):
        raise ArgumentTypeError(f"var_names={var_names!r} is not a list; give [{var_names!r}]")
    model = approx.model if model is None else model
    if model is None:
        raise ModelError("the approximation has no model; give it as model=")
    return model


def _noise(approx: Approximation, draws: int | None) -> FloatArray:
    """Those of the fit where it had fixed ones."""
    n = int(approx.run.get("dadvi", {}).get("draws", _DRAWS)) if draws is None else draws
    check_int("draws", n, 2, "number of draws")
    if n % 2:
        raise ArgumentError(f"draws={n} is odd; give an even number, as draws come in antithetic pairs")
    check_draws_fit(n, approx.family)
    return fixed_noise(int(approx.run.get("seed", 0)), n, approx.family.noise_dim)


def _functions(
    approx: Approximation, model: pm.Model, objective: FixedDraws, point: Point, var_names: Sequence[str] | None
) -> _Functions:
    """The functions that are asked for, by name."""
    layout, own = approx.layout, None
    everything = layout.names()
    labels: list[str] = []
    gradients: list[FloatArray] = []
    for name in [e.value_name for e in layout.entries] if var_names is None else var_names:
        entry = next((e for e in layout.entries if e.value_name == name), None)
        if entry is not None:
            for i in range(entry.start, entry.stop):
                unit = np.zeros_like(point.Z)
                unit[:, i] = 1.0
                labels.append(everything[i])
                gradients.append(objective.family.pullback(point.theta, objective.eps, unit))
            continue
        own = model_draws(model, layout) if own is None else own
        if name not in own.names:
            near = suggestion(name, own.names)
            raise UnknownNameError(f"there is no variable {name!r}; the model has {', '.join(own.names)}{near}")
        found = _gradients(own, name, objective, point)
        labels += [name] if len(found) == 1 else [f"{name}[{i}]" for i in range(len(found))]
        gradients += list(found)
    return _Functions(labels, np.array(gradients))


def _gradients(function: DrawFunction, name: str, objective: FixedDraws, point: Point) -> FloatArray:
    """Gradients ``(k, p)`` of the means over the draws of the elements of one variable, in its own space."""
    S, d = point.Z.shape
    steps = _DIFFERENCE * objective.family.std(point.theta)
    slopes = []
    for i, step in enumerate(steps):
        moved = np.zeros(d)
        moved[i] = step
        up, down = (function(point.Z + sign * moved)[name].reshape(S, -1) for sign in (1.0, -1.0))
        slopes.append((up - down) / (2.0 * step))
    by_draw = np.stack(slopes, axis=2)  # (S, k, d)
    pulled = [objective.family.pullback(point.theta, objective.eps, v) for v in by_draw.transpose(1, 0, 2)]
    return np.array(pulled)


def _dense(objective: FixedDraws, point: Point, gradients: FloatArray) -> FloatArray:
    """Changes of the parameters ``(k, p)`` for a unit of each function, from the whole Hessian."""
    found = hessians(objective.evaluate, point.Z, objective.family.std(point.theta))
    units = objective.units(point.theta)
    scaled = objective.model(point, found).matrix() * np.outer(units, units)
    try:
        factor = cho_factor(scaled)
    except np.linalg.LinAlgError:
        raise _no_maximum() from None
    out: FloatArray = cho_solve(factor, (gradients * units).T).T * units
    return out


def _by_products(objective: FixedDraws, point: Point, gradients: FloatArray) -> FloatArray:
    """The same by conjugate gradients on products with the Hessian, in units of the standard deviations."""
    units, p = objective.units(point.theta), objective.family.size

    def product(direction: FloatArray) -> FloatArray:
        found = units * objective.product(point.theta, units * direction)
        if not float(direction @ found) > 0.0:
            raise _no_maximum()
        return found

    operator, out = LinearOperator((p, p), matvec=product, dtype=np.float64), np.empty_like(gradients)
    for i, gradient in enumerate(gradients):
        solution, trouble = cg(operator, gradient * units, rtol=_RESIDUAL, maxiter=10 * p)
        if trouble:
            raise _no_maximum()
        out[i] = solution * units
    return out


def _no_maximum() -> ArgumentError:
    return ArgumentError(
        "the approximation is not at a maximum of its ELBO, where alone its means respond as those of a posterior; fit "
        "it with method='dadvi', or for more steps"
    )
