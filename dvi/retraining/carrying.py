"""The posterior of one fit as the prior of the next, so that each row is fitted once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from scipy.linalg import cho_factor, cho_solve

from dvi.errors import ModelError
from dvi.model.graph import layout_of, split
from dvi.types import FloatArray

if TYPE_CHECKING:
    from dvi.approximation import Approximation

CARRIED = "carried_posterior"  # the name of the potential


def carry(model: pm.Model, posterior: Approximation) -> None:
    r"""Replace the prior of a model, in place, by a posterior of the same variables.

    With :math:`q` the normal distribution of the posterior's mean and covariance in the unconstrained space, the
    potential :math:`\log q(z) - \log p(z)` is added, Jacobians included, so that the rows of the model are all that is
    new. Where the true posterior is normal in that space, fitting two halves of the rows one after the other gives what
    fitting all of them at once gives; elsewhere each hand-over adds the error of one approximation.

    In the terms of partitioned variational inference, :math:`q` is the prior times the site factors of all rows so far,
    each visited once.

    Parameters
    ----------
    model : pm.Model
    posterior : Approximation
        With a mean and a covariance.

    Raises
    ------
    ModelError
        If the model has other variables, or data or potentials outside its Minibatches, which would count again.

    References
    ----------
    Bui et al., *Partitioned variational inference*, arXiv:1811.11206.

    Examples
    --------
    >>> import dvi
    >>> def model_of(y):
    ...     with pm.Model() as model:
    ...         pm.Normal("y", pm.Normal("mu", 0, 10), 1, observed=dvi.Minibatch(y, batch_size=10))
    ...     return model
    >>> first, second = np.zeros(50), np.ones(50)
    >>> approx = dvi.fit(1_000, model=model_of(first), random_seed=1, progressbar=False)
    >>> model = model_of(second)
    >>> carry(model, approx)
    >>> both = dvi.fit(1_000, model=model, random_seed=1, progressbar=False)
    >>> round(float(both.mean.eval()[0]), 1), round(float(both.std.eval()[0]), 1)
    (0.5, 0.1)
    """
    difference = layout_of(model).difference(posterior.layout)
    if difference is not None:
        raise ModelError(f"the posterior cannot be carried to this model: {difference}; fit all rows instead")
    _refuse_other_data(model)
    values = [model.rvs_to_values[rv] for rv in model.free_RVs]
    z = pt.concatenate([value.ravel().astype("float64") for value in values])
    prior = model.logp(vars=model.free_RVs, jacobian=True)
    family, theta = posterior.family, posterior.theta
    with model:
        pm.Potential(CARRIED, _log_normal(z, family.mean(theta), family.cov(theta)) - prior)


def _refuse_other_data(model: pm.Model) -> None:
    in_batches = {name for term in split(model).terms for name in term.names}
    others = [v.name for v in [*model.observed_RVs, *model.potentials] if v.name not in in_batches]
    if others:
        raise ModelError(
            f"{', '.join(others)} of the model are not in a Minibatch and would count again in every run that carries "
            "the posterior on; move them to a Minibatch, or use fit.carry_posterior = false"
        )


def _log_normal(z: pt.TensorVariable, mean: FloatArray, cov: FloatArray) -> pt.TensorVariable:
    """Log density of a normal distribution, without the constant."""
    if not np.count_nonzero(cov - np.diag(np.diagonal(cov))):
        return -0.5 * (((z - mean) ** 2) / np.diagonal(cov)).sum()
    precision = cho_solve(cho_factor(cov), np.eye(len(mean)))
    centred = z - mean
    return -0.5 * (centred @ (0.5 * (precision + precision.T)) @ centred)
