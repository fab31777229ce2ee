"""Functions of numbers as a part of the loop that calls them.

LLVM leaves a call of a long function in a loop, which then does one row after the other.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.link.numba.dispatch.basic import numba_funcify_and_cache_key, numba_njit, register_funcify_and_cache_key
from pytensor.scalar.basic import Composite
from pytensor.tensor.elemwise import Elemwise


class Inlined(Composite):  # type: ignore[misc]
    """A graph of numbers that is compiled into its loop."""


@register_funcify_and_cache_key(Inlined)  # type: ignore[untyped-decorator]
def _inlined(op: Inlined, node: Any, **settings: Any) -> tuple[Any, str | None]:
    settings.pop("storage_map", None)
    function, key = numba_funcify_and_cache_key(
        op.fgraph, squeeze_output=True, fgraph_name="numba_composite", **settings
    )
    made = numba_njit(function.py_func, forceinline=True)
    return made, None if key is None else sha256(f"inlined {key}".encode()).hexdigest()


@node_rewriter([Elemwise])  # type: ignore[untyped-decorator]
def inline(fgraph: Any, node: Any) -> Any:
    """What PyTensor has fused to one that is compiled into its loop."""
    scalar = node.op.scalar_op
    if type(scalar) is not Composite:
        return None
    return Elemwise(Inlined(scalar.inputs, scalar.outputs), node.op.inplace_pattern)(*node.inputs, return_list=True)
