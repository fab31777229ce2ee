"""Parts of axes: averaged over all picks, value and gradient are those of PyMC on the full data."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from math import lcm
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytest
from pytensor.compile.mode import Mode
from pytensor.graph.rewriting.db import RewriteDatabaseQuery

import dvi
from dvi.data.picks import Picks
from dvi.errors import ArgumentError, DviWarning, ModelError
from dvi.model.graph import SplitModel, split

PY = Mode("py", RewriteDatabaseQuery(include=["fast_compile"], exclude=["BlasOpt"]))
RNG = np.random.default_rng(5)
N = 12
X2 = RNG.normal(size=(N, 6))
X3 = RNG.normal(size=(N, 6, 4))
COLUMN = np.arange(6) * np.ones((N, 1))

type Build = Callable[[Callable[..., Any]], None]


def matrix(batch: Callable[..., Any]) -> None:
    pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sd"), observed=batch(X2))


def both(batch: Callable[..., Any]) -> None:
    x, y, offset = batch(X2, X2**2, X2[:, 0])
    pm.StudentT("y", nu=4, mu=x * pm.Normal("b") + offset[:, None], sigma=1.0, observed=y)


def columns(batch: Callable[..., Any]) -> None:
    y, column = batch(X2, COLUMN.astype(np.int64))
    pm.Normal("y", pm.Normal("mu", shape=6)[column], 1.0, observed=y)


def transformed(batch: Callable[..., Any]) -> None:
    pm.Normal("y", pm.Normal("mu"), 1.0, observed=(batch(X2) - 1.0) / 2.0)


def cube(batch: Callable[..., Any]) -> None:
    pm.Normal("y", pm.Normal("mu"), pm.HalfNormal("sd"), observed=batch(X3))


def cube_core(batch: Callable[..., Any]) -> None:
    pm.MvNormal("y", mu=pm.Normal("mu", shape=4), cov=np.eye(4), observed=batch(X3))


def potential(batch: Callable[..., Any]) -> None:
    x = batch(X2)
    term = -((x - pm.Normal("mu")) ** 2)
    if isinstance(x, np.ndarray):
        pm.Potential("term", term)
    else:
        dvi.Potential("term", term)


CASES: list[tuple[Build, Any]] = [
    (matrix, [4, 4]),
    (matrix, [None, (5, 42)]),
    (both, [4, 4]),
    (columns, [4, 2]),
    (transformed, [4, 4]),
    (cube, [4, 4, 3]),
    (cube, [4, None, 3]),
    (cube, [4, ..., 1]),
    (cube_core, [4, 4, None]),
    (potential, [4, 4]),
]


def build(make: Build, batch: Callable[..., Any]) -> SplitModel:
    with pm.Model() as model:
        make(batch)
    return split(model)


def whole(*arrays: np.ndarray) -> Any:
    return arrays if len(arrays) > 1 else arrays[0]


def batched(batch_size: Any) -> Callable[..., Any]:
    return lambda *arrays: dvi.Minibatch(*arrays, batch_size=batch_size)


def all_picks(picks: Picks) -> list[tuple[Picks, tuple[int, ...]]]:
    """Every combination of the steps of one epoch of every axis."""
    epochs = [lcm(n, b) // b for n, b in zip(picks.lengths, picks.sizes, strict=True)]
    singles = [
        Picks((axis,), (n,), (b,), (seed,))
        for axis, n, b, seed in zip(picks.axes, picks.lengths, picks.sizes, picks.seeds, strict=True)
    ]
    return list(
        itertools.product(*[[(one, step) for step in range(n)] for one, n in zip(singles, epochs, strict=True)])
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(("make", "batch_size"), CASES)
def test_mean_over_all_picks_is_the_full_data_density_of_pymc(make: Build, batch_size: Any) -> None:
    full, parts = build(make, whole), build(make, batched(batch_size))
    z = np.random.default_rng(1).normal(scale=0.5, size=parts.layout.ndim)
    prior = run(parts.prior)(z)
    term = parts.terms[0]
    data, function = term.batch.source.head(N), run(term.program)
    found = []
    for combination in all_picks(term.batch.picks):
        block = data
        for picks, step in combination:
            block = picks.apply(block, step, 9)
        found.append(function(z, *block))
    expected = run(full.prior)(z)
    for i in range(2):
        np.testing.assert_allclose(prior[i] + np.mean([f[i] for f in found], axis=0), expected[i], rtol=1e-9, atol=1e-9)


def run(program: Any) -> Callable[..., Any]:
    function = pytensor.function(
        [program.z, *program.blocks, *program.constants], list(program.outputs), mode=PY, on_unused_input="ignore"
    )
    return lambda z, *blocks: function(z, *blocks, *program.values)


def factor(total_size: Any, batch_size: Any = (4, 4, 2)) -> float:
    """What a data term is multiplied by, its rows apart."""
    x = dvi.Minibatch(X3, batch_size=batch_size)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=x, total_size=total_size)
    term = split(model).terms[0]
    block = term.batch.picks.apply(term.batch.source.head(N), 0, 0)
    return float(run(term.program)(np.zeros(1), *block)[0] / np.sum(-0.5 * block[0] ** 2 - 0.5 * np.log(2 * np.pi)))


@pytest.mark.parametrize("total_size", [None, N, X3.shape, (N, ...), [N, 6, None], (N, None, 4), (..., 4), [N, ..., 4]])
def test_every_form_of_total_size_agrees_with_the_picks(total_size: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DviWarning)
        assert factor(total_size) == pytest.approx(6 / 4 * 4 / 2)


def test_a_total_size_that_contradicts_the_picks_is_honoured_with_a_warning() -> None:
    with pytest.warns(DviWarning, match=r"total_size=60 of 'y'.* 6 elements along axis 1"):
        assert factor((N, 60, 4)) == pytest.approx(60 / 4 * 4 / 2)
    with pytest.warns(DviWarning, match=r"total_size=4 of 'y'.* 6 elements along axis 1"):
        assert factor((N, 4, 4)) == pytest.approx(4 / 2)
    with pytest.warns(DviWarning, match=r"total_size=8 of 'y'.* 4 elements along axis 2"):
        assert factor((N, None, 8), [4, 4, None]) == pytest.approx(6 / 4 * 8 / 4)


def test_total_size_of_a_potential_names_axes_too() -> None:
    def scale(total_size: Any) -> float:
        x = dvi.Minibatch(X2, batch_size=[4, 4])
        with pm.Model() as model:
            dvi.Potential("p", (pm.Normal("mu") - x) ** 2, total_size=total_size)
        term = split(model).terms[0]
        block = term.batch.picks.apply(term.batch.source.head(N), 0, 0)
        return float(run(term.program)(np.zeros(1), *block)[0] / np.sum(block[0] ** 2))

    for form in (None, N, (N, 6), [N, ...], (..., 6), X2.shape):
        assert scale(form) == pytest.approx(6 / 4)
    with pytest.warns(DviWarning, match="contradicts"):
        assert scale((N, 12)) == pytest.approx(12 / 4)
    for form in ((N, 6, 2), (..., N, 6, 2), (N, 0), (..., ...)):
        with pytest.raises(ArgumentError, match="total_size="):
            scale(form)


def test_a_density_of_all_picked_elements_together_is_refused() -> None:
    def joint(batch: Callable[..., Any]) -> None:
        pm.MvNormal("y", mu=pm.Normal("mu", shape=3), cov=np.eye(3), observed=batch(X3))

    with pytest.raises(ModelError, match="one density for all elements along axis 2"):
        build(joint, batched([4, None, 3]))


def test_picked_elements_that_the_observed_values_do_not_have_are_named() -> None:
    def features(batch: Callable[..., Any]) -> None:
        x, y = batch(X2, X2[:, 0])
        pm.Normal("y", x.sum(axis=1) * pm.Normal("b"), 1.0, observed=y)

    with pytest.warns(DviWarning, match=r"'y' uses 4 of the 6 elements of 'minibatch.0' along axis 1"):
        build(features, batched([4, 4]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DviWarning)
        build(features, batched(4))
