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

    Rows are read one after the other, as they lie in memory: BLAS reads several at a time, which takes longer
    where they are not in the cache yet, since the processor then does not foresee what is read next. A transpose, which
    is what a gradient has, is multiplied after its rows have been brought there, four of them at a time. Neither is
    copied where its type is not that of the product.

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
def _numba_matvec(op: MatVec, node: Apply, **settings: Any) -> tuple[Callable[..., Any], int]:
    dtype = np.dtype(op.dtype)
    zero = dtype.type(0)

    @numba_njit  # type: ignore[untyped-decorator]
    def rows(A: Any, x: Any, product: Any) -> None:
        for i in range(A.shape[0]):
            total = zero
            for j in range(A.shape[1]):
                total += A[i, j] * x[j]
            product[i] = total

    @numba_njit  # type: ignore[untyped-decorator]
    def columns(A: Any, x: Any, product: Any) -> None:
        m, n = A.shape
        product[:] = zero
        for j in range(0, n - 3, 4):
            a, b, c, d = x[j], x[j + 1], x[j + 2], x[j + 3]
            for i in range(m):
                product[i] += (a * A[i, j] + b * A[i, j + 1]) + (c * A[i, j + 2] + d * A[i, j + 3])
        for j in range(n - n % 4, n):
            for i in range(m):
                product[i] += x[j] * A[i, j]

    @numba_njit  # type: ignore[untyped-decorator]
    def matvec(A: Any, x: Any) -> Any:
        if A.shape[1] != x.shape[0]:
            raise ValueError("a matrix and a vector of mismatched shapes are multiplied")
        product = np.empty(A.shape[0], dtype)
        if A.flags.f_contiguous:
            columns(A, x, product)
        else:
            rows(A, x, product)
        return product

    return matvec, 1


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
