"""Sums over rows of what is computed of each number of a matrix, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.link.numba.linker import NumbaLinker
from scipy.special import expit

import dvi
from dvi.model.column_sums import ColumnSums
from dvi.model.compile import _OURS, _REWRITES, compile_kernel
from dvi.model.graph import split
from dvi.types import FloatArray

MACHINE = Mode(NumbaLinker(), _REWRITES).register(*_OURS)
PYTHON = Mode("py", _REWRITES).register(*_OURS)

X, W = pt.matrix("X"), pt.matrix("W")
column, row, number = pt.vector("column"), pt.vector("row"), pt.scalar("number")
INPUTS = [X, W, column, row, number]


def arrays(n: int, m: int) -> list[Any]:
    """Of so many rows and columns, for all inputs."""
    rng = np.random.default_rng(n + 100 * m)
    return [rng.normal(size=shape) for shape in ((n, m), (n, m), m, n)] + [1.5]


FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "a column": (pt.sqr(X - column), lambda x, w, c, r, a: (x - c) ** 2),
    "a column and a number": (pt.exp(number * X) - column / number, lambda x, w, c, r, a: np.exp(a * x) - c / a),
    "rows": (pt.tanh(X + row[:, None]), lambda x, w, c, r, a: np.tanh(x + r[:, None])),
    "another matrix": (X * W + column * row[:, None], lambda x, w, c, r, a: x * w + c * r[:, None]),
}


def operators(function: Any) -> list[type]:
    return [type(node.op) for node in function.maker.fgraph.toposort()]


@pytest.fixture(scope="module")
def functions() -> dict[str, Any]:
    """Each with its sums over columns, over all, and of its square over columns."""
    return {
        name: pytensor.function(
            INPUTS, [f.sum(axis=0), f.sum(), pt.sqr(f).sum(axis=0)], mode=MACHINE, on_unused_input="ignore"
        )
        for name, (f, _) in FUNCTIONS.items()
    }


@pytest.mark.parametrize("m", [0, 1, 2, 7, 64, 403])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 9, 256])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sums_are_those_of_numpy(name: str, n: int, m: int, functions: dict[str, Any]) -> None:
    assert ColumnSums in operators(functions[name])
    given = arrays(n, m)
    exact = FUNCTIONS[name][1](*given)
    columns, total, squares = functions[name](*given)
    for found, expected in ((columns, exact.sum(axis=0)), (total, exact.sum()), (squares, (exact**2).sum(axis=0))):
        assert np.shape(found) == np.shape(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14 * (1 + abs(exact).sum()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_python_computes_the_same(name: str, functions: dict[str, Any]) -> None:
    f, _ = FUNCTIONS[name]
    function = pytensor.function(INPUTS, [f.sum(axis=0), f.sum()], mode=PYTHON, on_unused_input="ignore")
    assert ColumnSums in operators(function)
    for found, expected in zip(function(*arrays(9, 7)), functions[name](*arrays(9, 7)), strict=False):
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_rows_that_are_not_next_to_each_other() -> None:
    function = pytensor.function([X], pt.exp(X).sum(axis=0), mode=MACHINE)
    whole = np.random.default_rng(0).normal(size=(18, 240))
    for view in (whole[::2, 1:201], whole.T, whole[::-1]):
        np.testing.assert_allclose(function(view), np.exp(view).sum(axis=0), rtol=1e-13)


def test_the_length_of_sums_is_that_of_a_row() -> None:
    shape = pytensor.function([X], pt.exp(X).sum(axis=0).shape, mode=MACHINE)
    assert shape(np.ones((5, 3))).tolist() == [3]


@pytest.mark.parametrize(("n", "m"), [(5, 3), (4, 4)])
def test_matrices_of_mismatched_shapes(n: int, m: int) -> None:
    function = pytensor.function([X, W], (X * pt.exp(W)).sum(axis=0), mode=MACHINE)
    assert ColumnSums in operators(function)
    with pytest.raises(ValueError, match="mismatched shapes"):
        function(np.ones((4, 3)), np.ones((n, m)))


@pytest.mark.parametrize(
    "output",
    [
        pt.exp(X),  # not summed
        pt.exp(X).sum(axis=1),  # one for a row
        pt.exp(X).max(axis=0),
        pt.exp(pt.fmatrix("F")).sum(axis=0),  # sums of PyTensor's type
        pt.exp(column).sum(),
        pt.exp(W[pt.lvector("g")] * X).sum(axis=0),  # looked up in the loop
    ],
)
def test_what_is_left_to_pytensor(output: Any) -> None:
    inputs = [v for v in pytensor.graph.traversal.graph_inputs([output]) if v.name]
    assert ColumnSums not in operators(pytensor.function(inputs, output, mode=MACHINE))


def exact(x: FloatArray, z: FloatArray) -> tuple[float, FloatArray]:
    """Log density of means and log standard deviations of columns, and its gradient."""
    mu, rho = np.split(z, 2)
    e = (x - mu) / np.exp(rho)
    value = -0.5 * (e**2).sum() - len(x) * (rho.sum() + 0.5 * len(mu) * np.log(2 * np.pi))
    return value, np.concatenate([(e / np.exp(rho)).sum(axis=0), (e**2 - 1).sum(axis=0)])


@pytest.mark.parametrize("columns", [3, 60])
def test_a_likelihood_of_a_matrix_is_exact(columns: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(157, columns))
    with pm.Model() as model:
        mu, rho = pm.Flat("mu", shape=columns), pm.Flat("rho", shape=columns)
        pm.Normal("x", mu, pm.math.exp(rho), observed=dvi.Minibatch(x, batch_size=157))
    (term,) = split(model).terms
    kernel = compile_kernel(term.program, (np.zeros((2, columns)),))
    Z = 0.3 * rng.normal(size=(4, 2 * columns))
    values, gradients = kernel(Z, x)
    for z, value, gradient in zip(Z, values, gradients, strict=True):
        right, score = exact(x, z)
        np.testing.assert_allclose(value, right, rtol=1e-12)
        np.testing.assert_allclose(gradient, score, rtol=1e-10, atol=1e-10 * abs(score).max())


@pytest.mark.parametrize("by", ["logit_p", "p"])
def test_functions_of_a_parameter_of_columns_stay_outside_of_the_loop(by: str) -> None:
    y = (np.arange(21).reshape(3, 7) % 2).astype(float)
    with pm.Model() as model:
        x = pm.Flat("x", shape=7)
        given = {"logit_p": x} if by == "logit_p" else {"p": pm.math.sigmoid(x)}
        pm.Bernoulli("y", observed=dvi.Minibatch(y, batch_size=3), **given)
    (term,) = split(model).terms
    program = term.program
    function = pytensor.function([program.z, *program.blocks], list(program.outputs), mode=MACHINE)
    loops = [node.op.function.fgraph for node in function.maker.fgraph.toposort() if isinstance(node.op, ColumnSums)]
    assert loops
    names = {type(node.op).__name__ for loop in loops for node in loop.toposort()}
    assert not names & {"Exp", "Log", "Log1p", "Sigmoid", "Softplus"}
    at = np.array([-800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0])
    signs = 2 * y - 1
    value, gradient = compile_kernel(program, (np.zeros((2, 7)),))(at[None], y)
    np.testing.assert_allclose(value[0], -np.logaddexp(0.0, -signs * at).sum(), rtol=1e-12)
    np.testing.assert_allclose(gradient[0], (signs * expit(-signs * at)).sum(axis=0), rtol=1e-12)
