"""Products of a matrix and a vector in place of those of two matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import get_mode
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.tensor.math import Dot

from dvi.model.compile import INTERPRETED, Program, compile_kernel
from dvi.model.products import MatVec
from dvi.model.rewrites import FOR_FUSION

REWRITTEN = INTERPRETED.register((FOR_FUSION, 48.5))
MACHINE = get_mode("NUMBA").register((FOR_FUSION, 48.5))
A, x, r = pt.matrix("A"), pt.vector("x"), pt.vector("r")
ROWS = np.random.default_rng(0).normal(size=(7, 3))
U, V = np.array([1.0, -2.0, 0.5]), np.arange(7.0)


CHECKED = {
    "A @ x": (A @ x, ROWS @ U),
    "r @ A": (r @ A, ROWS.T @ V),
    "A.T @ r": (A.T @ r, ROWS.T @ V),
    "x @ A.T": (x @ A.T, ROWS @ U),
    "its gradient": (pt.grad(pt.sqr(A @ x).sum(), x), 2 * ROWS.T @ (ROWS @ U)),
}


def compiled(output: Any, *inputs: Any) -> Any:
    return pytensor.function(list(inputs), output, mode=REWRITTEN, on_unused_input="ignore")


def ops(function: Any) -> list[type]:
    return [type(node.op) for node in function.maker.fgraph.toposort()]


@pytest.mark.parametrize("name", CHECKED)
def test_a_matrix_and_a_vector_are_multiplied_as_such(name: str) -> None:
    output, expected = CHECKED[name]
    function = compiled(output, A, x, r)
    assert MatVec in ops(function)
    assert Dot not in ops(function)
    assert compiled(output.shape, A, x, r)(ROWS, U, V).tolist() == [len(expected)]
    np.testing.assert_allclose(function(ROWS, U, V), expected, rtol=1e-14)


@pytest.mark.parametrize(
    "output",
    [
        A @ pt.matrix("B"),
        A[:, 1:] @ x[1:],  # its rows are not next to each other
        pt.exp(A) @ x,
        pt.imatrix("C") @ pt.ivector("i"),
    ],
    ids=["two matrices", "a part of the columns", "what is computed", "integers"],
)
def test_other_products_stay(output: Any) -> None:
    given = [v for v in graph_inputs([output]) if not isinstance(v, Constant)]
    assert MatVec not in ops(compiled(output, *given))


def test_loops_before_and_behind_a_product_are_fused() -> None:
    """PyTensor leaves a column between them, which is a loop of its own."""
    rows, b, sigma = pt.matrix("rows", shape=(None, 3)), pt.vector("b", shape=(3,)), pt.scalar("sigma")
    total = pm.logp(pm.Normal.dist(rows @ b, sigma), r).sum()
    function = compiled(pt.grad(total, b), rows, b, r, sigma)
    assert ops(function).count(MatVec) == 2
    assert not any(v.type.ndim == 2 and v.type.broadcastable[1] for v in ancestors(function.maker.fgraph.outputs))
    np.testing.assert_allclose(function(ROWS, U, V, 2.0), ROWS.T @ (V - ROWS @ U) / 4, rtol=1e-13)


@pytest.mark.parametrize(
    ("dtype", "n_rows", "columns"),
    [("float64", 3, 1), ("float64", 4, 8), ("float64", 14, 17), ("float32", 9, 3), ("int16", 9, 3)],
)
def test_machine_code_of_both_products_is_right(dtype: str, n_rows: int, columns: int) -> None:
    z = pt.vector("z", shape=(2 * columns,), dtype="float64")
    rows, y = pt.matrix("rows", shape=(None, columns), dtype=dtype), pt.vector("y", dtype=dtype)
    value = -pt.sqr(y - rows @ z[:columns]).sum()
    program = Program(z, (rows, y), (), (), (value, pt.grad(value, z)))
    rng = np.random.default_rng(1)
    X, Y = ((10 * rng.normal(size=s)).astype(dtype) for s in ((n_rows, columns), (n_rows,)))
    Z = rng.normal(size=(2, 2 * columns))
    values, gradients = compile_kernel(program, (np.zeros((2, columns), dtype), np.zeros(2, dtype)))(Z, X, Y)
    left = Y - Z[:, :columns] @ X.T
    np.testing.assert_allclose(values, -(left**2).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(gradients[:, :columns], 2 * left @ X, rtol=1e-12)
    assert (gradients[:, columns:] == 0).all()


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="mismatch"):
        compiled(A @ x, A, x)(ROWS, np.ones(4))


@pytest.mark.parametrize("transposed", [False, True])
def test_machine_code_refuses_a_vector_of_another_length(transposed: bool) -> None:
    function = pytensor.function([A, x], A.T @ x if transposed else A @ x, mode=MACHINE)
    assert MatVec in ops(function)
    with pytest.raises(ValueError, match="mismatch"):
        function(ROWS, np.ones(4))
