"""``pm.Minibatch`` of arrays in memory, converted to the batches of dvi."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymc.data import MinibatchIndexRV, MinibatchOp
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors

from dvi.data.readers import reader
from dvi.errors import ModelError
from dvi.model.batch import Batch, MinibatchVariable, bind, bound_variables
from dvi.model.batch_size import taken


def convert_pymc_minibatches(graphs: list[Variable[Any, Any]]) -> dict[Variable[Any, Any], Variable[Any, Any]]:
    """Variables bound to the arrays of each ``pm.Minibatch`` that graphs reach, by the variables they stand for."""
    nodes = dict.fromkeys(v.owner for v in ancestors(graphs) if v.owner and isinstance(v.owner.op, MinibatchOp))
    replacements: dict[Variable[Any, Any], Variable[Any, Any]] = {}
    for node in nodes:
        replacements |= zip(node.outputs, _bind_node(node), strict=False)
    return replacements


def _bind_node(node: Apply[Any]) -> list[MinibatchVariable]:
    *arrays, _ = node.inputs
    if bound_variables(arrays):
        raise ModelError("pm.Minibatch of a dvi.Minibatch; use one of the two")
    readers = tuple(reader(np.asarray(array.eval())) for array in arrays)
    names = tuple(output.name or f"minibatch.{i}" for i, output in enumerate(node.outputs[:-1]))
    draws = [v.owner for v in ancestors(node.op.inner_outputs) if v.owner and isinstance(v.owner.op, MinibatchIndexRV)]
    size = int(np.prod(draws[0].op.size_param(draws[0]).eval()))
    shapes = [r.shape for r in readers]
    return bind(Batch(names, readers, taken(min(size, shapes[0][0]), shapes)))
