"""Rewrites of log densities and of kernels that PyTensor does not do."""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt
from pymc.pytensorf import rewrite_pregrad
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import SequentialGraphRewriter, dfs_rewriter, node_rewriter
from pytensor.raise_op import CheckAndRaise
from pytensor.scalar.basic import GE, LE, Switch, TrueDiv
from pytensor.scalar.math import Sigmoid
from pytensor.tensor.elemwise import CAReduce, Elemwise
from pytensor.tensor.rewriting.basic import constant_folding
from pytensor.tensor.rewriting.elemwise import local_dimshuffle_lift

from dvi.model.column_sums import sums_of_columns
from dvi.model.gamma_functions import of_simple_functions
from dvi.model.inlining import inline
from dvi.model.products import dot_to_matvec
from dvi.model.vector_math import of_several_rows


@node_rewriter([Elemwise])  # type: ignore[untyped-decorator]
def switch_before_function(fgraph: Any, node: Any) -> Any:
    """``switch(c, f(a), f(b))`` to ``f(switch(c, a, b))``: one in place of two, as loops take both branches.

    Where both are broadcast, they are left outside of the loop.
    """
    if not isinstance(node.op.scalar_op, Switch):
        return None
    condition, *branches = node.inputs
    ops = [branch.owner.op if branch.owner is not None else None for branch in branches]
    if not isinstance(ops[0], Elemwise) or ops[0] != ops[1] or any(len(b.owner.inputs) != 1 for b in branches):
        return None
    if any(branch.type.broadcastable != node.outputs[0].type.broadcastable for branch in branches):
        return None
    arguments = [branch.owner.inputs[0] for branch in branches]
    if arguments[0].type.dtype != arguments[1].type.dtype:
        return None
    found = ops[0](pt.switch(condition, *arguments))
    return [found] if found.type == node.outputs[0].type else None


@node_rewriter([Elemwise])  # type: ignore[untyped-decorator]
def check_of_sigmoid(fgraph: Any, node: Any) -> Any:
    """``sigmoid(x) >= 0`` and ``sigmoid(x) <= 1``, which hold but for NaN, to a check for that."""
    bound = {GE: 0, LE: 1}.get(type(node.op.scalar_op))
    if bound is None:
        return None
    x, limit = node.inputs
    if x.owner is None or not isinstance(getattr(x.owner.op, "scalar_op", None), Sigmoid):
        return None
    if not isinstance(limit, Constant) or (limit.data != bound).any():
        return None
    return [pt.invert(pt.isnan(x.owner.inputs[0]))]


def differentiable(graph: Variable[Any, Any]) -> Variable[Any, Any]:
    """A log density in the form of which gradients are taken.

    That of ``log(1 - sigmoid(x))`` is not finite where ``x`` is large; that of ``-softplus(x)``, its equal, is.
    """
    fgraph = FunctionGraph(outputs=[graph], copy_inputs=False)  # a clone: nodes of the user's model stay as they are
    rewrite_pregrad(fgraph)
    _FOR_GRADIENTS.rewrite(fgraph)
    found: Variable[Any, Any] = fgraph.outputs[0]
    return found


_FOR_GRADIENTS = dfs_rewriter(switch_before_function, check_of_sigmoid)


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


FOR_FUSION = SequentialGraphRewriter(
    dfs_rewriter(dot_to_matvec),
    dfs_rewriter(local_dimshuffle_lift, multiply_by_reciprocal, check_after_reduction),
    dfs_rewriter(of_simple_functions),
    dfs_rewriter(constant_folding),  # so that numbers become parts of loops
    dfs_rewriter(of_several_rows),
)
FUSED = SequentialGraphRewriter(dfs_rewriter(inline), dfs_rewriter(sums_of_columns))
