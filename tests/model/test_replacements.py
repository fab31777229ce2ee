"""Nodes of a model's graph replaced before its log density is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.graph.rewriting.db import RewriteDatabaseQuery

import dvi
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError
from dvi.model.compile import Program
from dvi.model.graph import SplitModel, layout_of, split

PY = Mode("py", RewriteDatabaseQuery(include=["fast_compile"], exclude=["BlasOpt"]))
RNG = np.random.default_rng(8)
X, Y = RNG.normal(size=(40, 3)), RNG.normal(size=40)
OTHER_X, OTHER_Y = RNG.normal(size=(25, 3)), RNG.normal(size=25)


def model_on(x: Any, y: Any, scale: Any = 1.0) -> pm.Model:
    with pm.Model() as model:
        b = pm.Normal("b", shape=3)
        mu = pm.Deterministic("mu", scale * (x @ b))
        pm.Potential("penalty", -scale * pt.abs(b).sum())
        pm.Normal("y", mu, pm.HalfNormal("sd"), observed=y)
    return model


def value_and_gradient(parts: SplitModel) -> tuple[Any, Any]:
    z = np.linspace(-0.4, 0.6, parts.layout.ndim)
    pairs = [run(parts.prior, z, ())]
    pairs += [run(t.program, z, t.batch.source.head(t.batch.source.n_rows)) for t in parts.terms]
    return sum(p[0] for p in pairs), sum(p[1] for p in pairs)


def run(program: Program, z: np.ndarray, blocks: tuple[np.ndarray, ...]) -> Any:
    function = pytensor.function(
        [program.z, *program.blocks, *program.constants], list(program.outputs), mode=PY, on_unused_input="ignore"
    )
    return function(z, *blocks, *program.values)


def check(replaced: SplitModel, expected: pm.Model) -> None:
    for found, wanted in zip(value_and_gradient(replaced), value_and_gradient(split(expected)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-10)


@pytest.fixture
def shared() -> tuple[Any, Any, Any, pm.Model]:
    x, y, scale = (pytensor.shared(v, name=n) for v, n in ((X, "x"), (Y, "y"), (np.float64(1.0), "scale")))
    return x, y, scale, model_on(x, y, scale)


def test_data_are_replaced_by_other_data(shared: tuple[Any, Any, Any, pm.Model]) -> None:
    x, y, _, model = shared
    check(split(model, None, {x: OTHER_X, y: OTHER_Y}), model_on(OTHER_X, OTHER_Y))
    check(split(model), model_on(X, Y))


def test_data_are_replaced_by_batches(shared: tuple[Any, Any, Any, pm.Model]) -> None:
    x, y, _, model = shared
    xs, ys = dvi.Minibatch(OTHER_X, OTHER_Y.astype(np.float32), batch_size=5)
    parts = split(model, more_replacements={x: xs, y: ys})
    assert [t.names for t in parts.terms] == [("y",)]
    assert (parts.terms[0].batch.batch_size, parts.terms[0].batch.source.n_rows) == (5, 25)
    check(parts, model_on(OTHER_X, OTHER_Y.astype(np.float32).astype(float)))


def test_batches_are_replaced_by_data() -> None:
    xs, ys = dvi.Minibatch(X, Y, batch_size=5)
    parts = split(model_on(xs, ys), more_replacements={xs: OTHER_X, ys: OTHER_Y})
    assert parts.terms == ()
    check(parts, model_on(OTHER_X, OTHER_Y))


def test_values_may_depend_on_what_they_replace_and_on_random_variables(
    shared: tuple[Any, Any, Any, pm.Model],
) -> None:
    x, _, scale, model = shared
    check(split(model, more_replacements={x: 2.0 * x}), model_on(2.0 * X, Y))
    noisy = split(model, more_replacements={scale: pt.exp(model["b"][0])})
    with pm.Model() as expected:
        b = pm.Normal("b", shape=3)
        factor = pt.exp(b[0])
        pm.Potential("penalty", -factor * pt.abs(b).sum())
        pm.Normal("y", factor * (X @ b), pm.HalfNormal("sd"), observed=Y)
    check(noisy, expected)


def test_intermediate_results_and_scalars_are_replaced(shared: tuple[Any, Any, Any, pm.Model]) -> None:
    x, _, scale, model = shared
    check(split(model, more_replacements={scale: 3}), model_on(X, Y, 3.0))
    with pm.Model() as expected:
        b = pm.Normal("b", shape=3)
        pm.Potential("penalty", -pt.abs(b).sum())
        pm.Normal("y", X[:, 0] * b[1], pm.HalfNormal("sd"), observed=Y)
    check(split(model, more_replacements={model["mu"]: x[:, 0] * model["b"][1]}), expected)


@pytest.mark.parametrize(
    ("replacements", "error", "message"),
    [
        (lambda m, x: {pt.scalar("q"): 1.0}, ArgumentError, "not in the graph of the model"),
        (lambda m, x: {"x": X}, ArgumentTypeError, "'x' of type str; give the variable itself"),
        (lambda m, x: {m["b"]: np.zeros(3)}, ModelError, "random variable 'b'"),
        (lambda m, x: {x: np.zeros(3)}, ArgumentError, "1 dimensions and dtype float64 for .* 2 dimensions"),
        (lambda m, x: {x: X + 1j}, ArgumentError, "dtype complex128"),
        (lambda m, x: {x: object()}, ArgumentTypeError, "of type object"),
        (lambda m, x: {x: X, m["mu"]: 2 * x[:, 0]}, ArgumentError, "which is replaced itself"),
        (lambda m, x: [x], ArgumentTypeError, "of type list"),
    ],
)
def test_replacements_that_the_model_does_not_have_are_refused(
    shared: tuple[Any, Any, Any, pm.Model], replacements: Callable[[Any, Any], Any], error: type, message: str
) -> None:
    x, _, _, model = shared
    with pytest.raises(error, match=message):
        split(model, more_replacements=replacements(model, x))


def test_layout_of_a_model_is_that_of_its_split(shared: tuple[Any, Any, Any, pm.Model]) -> None:
    model = shared[-1]
    assert layout_of(model) == split(model).layout
    with pm.Model() as empty, pytest.raises(ModelError, match="no free variables"):
        layout_of(empty)
