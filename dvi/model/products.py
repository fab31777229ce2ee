"""Products of a matrix and a vector, as most likelihoods have two of them: predictors, and their gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.math import Dot


class MatVec(Op):  # type: ignore[misc]
    """``A @ x`` of ``A (m, n)`` and ``x (n,)``.

    PyTensor has products of matrices alone. Numba takes ten times as long to compile one of those, which has to be
    ready for any strides and any shape.

    Parameters
    ----------
    dtype : str
        Of the product, which both are cast to.
    """

    __props__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def make_node(self, A: Any, x: Any) -> Apply:
        return Apply(self, [A, x], [pt.vector("product", dtype=self.dtype, shape=(A.type.shape[0],))])

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: list[list[Any]]) -> None:
        A, x = (np.asarray(value, self.dtype) for value in inputs)
        output_storage[0][0] = A @ x

    def infer_shape(self, node: Apply, shapes: Sequence[Any]) -> list[Any]:
        return [(shapes[0][0],)]


@register_funcify_default_op_cache_key(MatVec)  # type: ignore[untyped-decorator]
def _numba_matvec(op: MatVec, node: Apply, **settings: Any) -> Callable[..., Any]:
    dtype = np.dtype(op.dtype)

    @numba_njit  # type: ignore[untyped-decorator]
    def as_it_is(a: Any) -> Any:
        return a

    @numba_njit  # type: ignore[untyped-decorator]
    def cast(a: Any) -> Any:
        return a.astype(dtype)

    of_A, of_x = (as_it_is if v.type.dtype == op.dtype else cast for v in node.inputs)

    @numba_njit  # type: ignore[untyped-decorator]
    def matvec(A: Any, x: Any) -> Any:
        return np.dot(of_A(A), of_x(x))

    return matvec  # type: ignore[no-any-return]


@node_rewriter([Dot])  # type: ignore[untyped-decorator]
def dot_to_matvec(fgraph: Any, node: Any) -> Any:
    """``A @ x`` and ``x @ A`` where ``x`` has one column or row, and ``A`` lies in memory as a whole."""
    A, B = node.inputs
    product = MatVec(node.outputs[0].type.dtype)
    if product.dtype not in {"float32", "float64"}:  # as BLAS has
        return None
    if B.type.broadcastable[1] and _is_whole(A):
        return [product(A, B.dimshuffle(0)).dimshuffle(0, "x")]
    if A.type.broadcastable[0] and _is_whole(B):
        return [product(B.T, A.dimshuffle(1)).dimshuffle("x", 0)]
    return None


def _is_whole(A: Variable[Any, Any]) -> bool:
    """Whether a matrix is an input or the transpose of one: others may have strides, for which it would be copied."""
    while A.owner is not None and isinstance(A.owner.op, DimShuffle) and A.owner.op.new_order == (1, 0):
        A = A.owner.inputs[0]
    return A.owner is None
