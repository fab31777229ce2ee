"""A model with data, an approximation of it, and what equal results are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.model.graph import layout_of

N, D = 3000, 3
QUIET: dict[str, Any] = {"draws": 40, "random_seed": 3, "progressbar": False}


def approximation(model: pm.Model) -> Approximation:
    layout = layout_of(model)
    family = MeanFieldFamily(layout.ndim)
    theta = family.initial(np.linspace(-0.5, 0.5, layout.ndim), np.full(layout.ndim, 0.1))
    return Approximation(family, theta, layout, np.empty(0), model=model)


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)), rng.normal(size=N), rng.poisson(2, N)


def plain_model() -> pm.Model:
    """The same model on all of its data."""
    x, y, counts = data()
    with pm.Model() as made:
        beta = pm.Normal("beta", 0, 1, shape=D)
        sigma = pm.HalfNormal("sigma")
        mu = x @ beta
        pm.Normal("y", mu, sigma, observed=y)
        pm.Poisson("counts", pm.math.exp(mu), observed=counts)
    return made


def same(one: xr.DataTree, other: xr.DataTree) -> None:
    assert set(one.children) == set(other.children)
    for group in one.children:
        assert set(one[group].data_vars) == set(other[group].data_vars)
        for name, array in one[group].data_vars.items():
            assert array.dims == other[group][name].dims
            assert array.values.tobytes() == other[group][name].values.tobytes(), (group, name)
