"""Draws of the unconstrained vector become variables, and variables of any kind of trace become the vector again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from pymc.distributions import transforms

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.model.draws import model_draws, unconstrain, unconstrained_draws
from dvi.model.graph import split
from dvi.model.layout import Layout
from dvi.sampling import Block, to_multitrace


def every_transform() -> pm.Model:
    with pm.Model(coords={"group": ["a", "b", "c"]}) as model:
        low = pm.Normal("low", shape=(2, 3))
        width = pm.HalfNormal("width", dims="group")
        pm.Beta("logodds", 2, 2)
        pm.Uniform("interval", -1, 3, shape=2)
        pm.Uniform("moving", low, low + width)  # bounds that are other free variables
        pm.TruncatedNormal("one_sided", 0, 1, lower=1.5)
        pm.Normal("ordered", shape=3, transform=transforms.ordered, initval=[-1, 0, 1])
        pm.Dirichlet("simplex", np.ones(3), dims="group")
        pm.ZeroSumNormal("zerosum", dims="group")
        pm.VonMises("circular", 0, 1)
        pm.LKJCholeskyCov("cholesky", n=3, eta=2, sd_dist=pm.Exponential.dist(1))
        pm.LKJCorr("correlation", n=3, eta=2)
        pm.Deterministic("sum", low + width)
    return model


@pytest.fixture(scope="module")
def model() -> pm.Model:
    return every_transform()


@pytest.fixture(scope="module")
def layout(model: pm.Model) -> Layout:
    return split(model).layout


@pytest.fixture(scope="module")
def Z(layout: Layout) -> np.ndarray:  # noqa: N802
    return np.random.default_rng(1).normal(size=(8, layout.ndim))


@pytest.fixture(scope="module")
def values(model: pm.Model, layout: Layout, Z: np.ndarray) -> dict[str, np.ndarray]:
    return model_draws(model, layout)(Z)


def dataset(values: dict[str, np.ndarray]) -> xr.Dataset:
    split_draws = {k: v.reshape(2, 4, *v.shape[1:]) for k, v in values.items()}
    return xr.Dataset(
        {k: (("chain", "draw", *(f"{k}_{i}" for i in range(v.ndim - 2))), v) for k, v in split_draws.items()}
    )


@pytest.mark.parametrize("name", [rv.name for rv in every_transform().free_RVs])
def test_each_transform_is_undone(
    name: str, model: pm.Model, layout: Layout, Z: np.ndarray, values: dict[str, np.ndarray]
) -> None:
    found = unconstrain(model, layout, [name])(values)
    np.testing.assert_allclose(found[name], layout.split(Z)[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda v: v,
        lambda v: {k: a.reshape(2, 4, *a.shape[1:]) for k, a in v.items()},
        dataset,
        lambda v: dataset(v).stack(sample=("chain", "draw")),
        lambda v: dataset(v).transpose(..., "draw", "chain"),
        lambda v: xr.DataTree.from_dict({"posterior": dataset(v)}),
        lambda v: SimpleNamespace(posterior=dataset(v)),
    ],
    ids=["draws", "chains", "Dataset", "stacked", "transposed", "DataTree", "InferenceData"],
)
def test_each_kind_of_trace_is_read(
    make: Any, model: pm.Model, layout: Layout, Z: np.ndarray, values: dict[str, np.ndarray]
) -> None:
    np.testing.assert_allclose(unconstrained_draws(make(values), model, layout), Z, rtol=1e-9, atol=1e-12)


def test_unconstrained_values_of_a_multitrace_are_used_as_they_are(
    model: pm.Model, layout: Layout, Z: np.ndarray, values: dict[str, np.ndarray]
) -> None:
    trace = to_multitrace(Block(0, Z, values), model, layout)
    assert unconstrained_draws(trace, model, layout).tobytes() == Z.tobytes()
    assert unconstrained_draws(Z, model, layout).tobytes() == Z.tobytes()


def test_constrained_and_unconstrained_values_may_be_mixed(
    model: pm.Model, layout: Layout, Z: np.ndarray, values: dict[str, np.ndarray]
) -> None:
    mixed = {k: v for k, v in values.items() if k != "width"} | {"width_log__": layout.split(Z)["width"]}
    np.testing.assert_allclose(unconstrained_draws(mixed, model, layout), Z, rtol=1e-9, atol=1e-12)


def test_draws_of_nuts_are_read() -> None:
    with pm.Model() as model:
        pm.HalfNormal("sigma", shape=2)
        trace = pm.sample(
            20, tune=20, chains=2, cores=1, progressbar=False, random_seed=1, compute_convergence_checks=False
        )
    found = unconstrained_draws(trace, model, split(model).layout)
    np.testing.assert_allclose(np.exp(found), trace["posterior"]["sigma"].values.reshape(40, 2))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v: {k: a for k, a in v.items() if k != "width"}, ArgumentError, "the draws have no width; there are"),
        (lambda v: v | {"width": np.ones((8, 2))}, ArgumentError, r"'width' have the shape \(8, 2\)"),
        (lambda v: v | {"logodds": np.full((4,), 0.5)}, ArgumentError, "different numbers of draws"),
        (lambda v: v | {"width": np.zeros((8, 3))}, ArgumentError, r"draw 0 of width_log__\[0\] is -inf"),
        (lambda _: np.ones((3, 2)), ArgumentError, r"shape \(3, 2\); give \(S, "),
        (lambda _: 3, ArgumentTypeError, "the draws are of type int"),
    ],
)
def test_what_cannot_be_read_is_said(
    change: Any, error: type[Exception], message: str, model: pm.Model, layout: Layout, values: dict[str, np.ndarray]
) -> None:
    with pytest.raises(error, match=message), np.errstate(divide="ignore", invalid="ignore"):
        unconstrained_draws(change(values), model, layout)
