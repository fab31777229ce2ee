"""Rewrites of kernels that PyTensor does not do, between its simplifications and its fusion of loops."""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.raise_op import CheckAndRaise
from pytensor.scalar.basic import TrueDiv
from pytensor.tensor.elemwise import CAReduce, Elemwise


@node_rewriter([Elemwise])  # type: ignore[untyped-decorator]
def multiply_by_reciprocal(fgraph: Any, node: Any) -> Any:
    """``x / y`` to ``x * (1 / y)`` where ``y`` is broadcast: one division in place of many, which are slow."""
    if not isinstance(node.op.scalar_op, TrueDiv):
        return None
    x, y = node.inputs
    broadcast = any(one and not other for one, other in zip(y.type.broadcastable, x.type.broadcastable, strict=True))
    if not broadcast or node.outputs[0].type.dtype != y.type.dtype:
        return None
    return [x * pt.reciprocal(y)]


@node_rewriter([CAReduce])  # type: ignore[untyped-decorator]
def check_after_reduction(fgraph: Any, node: Any) -> Any:
    """A check of parameters between a loop and its sum to behind the sum, so that both become one loop."""
    checked = node.inputs[0].owner
    if checked is None or not isinstance(checked.op, CheckAndRaise) or len(fgraph.clients[node.inputs[0]]) > 1:
        return None
    value, *conditions = checked.inputs
    return [checked.op(node.op(value), *conditions)]


FOR_FUSION = dfs_rewriter(multiply_by_reciprocal, check_after_reduction)
