"""From the flat unconstrained vector to the variables of a model, for many draws at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace

from dvi.errors import ModelError
from dvi.model.compile import compile_draws
from dvi.model.layout import Layout
from dvi.model.minibatch import bound_variables
from dvi.model.transforms import build_transform
from dvi.types import AnyArray, FloatArray


@dataclass(frozen=True, eq=False)
class DrawFunction:
    """Variables of a model as a function of the flat vector.

    Parameters
    ----------
    names : tuple of str
    dims : dict
        Names of the dimensions of each variable that has them.
    function : callable
        From ``Z (S, d)`` to a list of arrays ``(S, ...)``, one for each name.
    """

    names: tuple[str, ...]
    dims: dict[str, list[str]]
    function: Callable[[FloatArray], list[AnyArray]]

    def __call__(self, Z: FloatArray) -> dict[str, AnyArray]:
        return {n: np.asarray(v) for n, v in zip(self.names, self.function(Z), strict=True)}


def model_draws(model: pm.Model, layout: Layout) -> DrawFunction:
    """Free variables and deterministics of a model, but those that depend on a batch and so have no full length."""
    graphs = model.replace_rvs_by_values([*model.free_RVs, *model.deterministics])
    named = dict(zip((v.name for v in [*model.free_RVs, *model.deterministics]), graphs, strict=True))
    kept = {n: g for n, g in named.items() if not bound_variables([g]) and not _is_minibatch(g)}
    z = _flat(layout)
    pieces = {
        model.rvs_to_values[rv]: _piece(z, layout, rv.name, model.rvs_to_values[rv].type) for rv in model.free_RVs
    }
    outputs = graph_replace(list(kept.values()), pieces, strict=False)
    dims = {n: [d or f"{n}_dim_{i}" for i, d in enumerate(model.named_vars_to_dims[n])]
            for n in kept if n in model.named_vars_to_dims}  # fmt: skip
    return DrawFunction(tuple(kept), dims, compile_draws(z, outputs))


def layout_draws(layout: Layout) -> DrawFunction:
    """Free variables from a layout alone, for an approximation that was loaded without its model."""
    unknown = [e.name for e in layout.entries if e.transform.kind == "model"]
    if unknown:
        raise ModelError(
            f"the transforms of {unknown} are known to the model only; load the approximation with model=, or read the "
            "draws saved beside it"
        )
    z = _flat(layout)
    outputs = []
    for e in layout.entries:
        piece = z[e.start : e.stop].reshape(e.shape)
        transform = build_transform(e.transform)
        outputs.append(piece if transform is None else transform.backward(piece))
    dims = {e.name: [d or f"{e.name}_dim_{i}" for i, d in enumerate(e.dims)] for e in layout.entries if any(e.dims)}
    return DrawFunction(tuple(e.name for e in layout.entries), dims, compile_draws(z, outputs))


def _flat(layout: Layout) -> Any:
    return pt.vector("z", shape=(layout.ndim,), dtype="float64")


def _piece(z: Any, layout: Layout, name: str, type_: Any) -> Variable[Any, Any]:
    e = layout.entry(name)
    return type_.filter_variable(z[e.start : e.stop].reshape(e.shape).astype(type_.dtype), allow_convert=True)


def _is_minibatch(graph: Variable[Any, Any]) -> bool:
    from pymc.data import MinibatchOp
    from pytensor.graph.traversal import ancestors

    return any(v.owner is not None and isinstance(v.owner.op, MinibatchOp) for v in ancestors([graph]))
