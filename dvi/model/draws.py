"""Between the flat unconstrained vector and the variables of a model, for many draws at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pytensor.graph.basic import Variable, clone_get_equiv
from pytensor.graph.replace import graph_replace

from dvi.errors import ArgumentError, ArgumentTypeError, ModelError
from dvi.model.compile import compile_draws
from dvi.model.layout import Layout
from dvi.model.minibatch import bound_variables
from dvi.model.transforms import build_transform
from dvi.types import AnyArray, FloatArray

type TensorLike = Variable[Any, Any]

_SAMPLE_DIMS = ("chain", "draw", "sample")


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
    outputs = graph_replace(list(kept.values()), _pieces(z, model, layout), strict=False)
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


def _pieces(z: TensorLike, model: pm.Model, layout: Layout) -> dict[TensorLike, TensorLike]:
    """The unconstrained value of each free variable as a piece of the flat vector."""
    values = {rv.name: model.rvs_to_values[rv] for rv in model.free_RVs}
    return {value: value_piece(z, layout, name, value.type) for name, value in values.items()}


def value_piece(z: TensorLike, layout: Layout, name: str, type_: Any) -> TensorLike:
    """The unconstrained value of a variable as a piece of the flat vector ``(d,)``."""
    e = layout.entry(name)
    return _shaped(z[e.start : e.stop], e.shape, type_)


def _shaped(piece: Any, shape: tuple[int, ...], type_: Any) -> TensorLike:
    shaped: TensorLike = type_.filter_variable(piece.reshape(shape).astype(type_.dtype), allow_convert=True)
    return shaped


def rebuilt(graphs: Sequence[TensorLike], memo: dict[Any, Any]) -> list[TensorLike]:
    """Graphs with some variables replaced by others, which need not be of the same static shape.

    Parameters
    ----------
    graphs : sequence of Variable
    memo : dict
        From variables to what replaces them. Written to: the next call goes on with the graphs of this one.
    """
    stops = [v for v in memo if isinstance(v, Variable)]
    found = clone_get_equiv(stops, graphs, copy_inputs=False, copy_orphans=False, memo=memo, strict=False)
    return [found[g] for g in graphs]


def transform_inputs(rv: TensorLike) -> list[TensorLike]:
    """What PyMC gives the transform of a free variable besides its value."""
    node = rv.owner
    if isinstance(node.op, MinibatchRandomVariable):
        node = node.inputs[0].owner
    return list(node.inputs)


def _is_minibatch(graph: Variable[Any, Any]) -> bool:
    from pymc.data import MinibatchOp
    from pytensor.graph.traversal import ancestors

    return any(v.owner is not None and isinstance(v.owner.op, MinibatchOp) for v in ancestors([graph]))


def constrained_shapes(model: pm.Model, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shapes of the free variables in their own space."""
    z = _flat(layout)
    graphs = graph_replace(model.replace_rvs_by_values(model.free_RVs), _pieces(z, model, layout), strict=False)
    values = compile_draws(z, graphs)(np.zeros((1, layout.ndim)))
    return {rv.name: value.shape[1:] for rv, value in zip(model.free_RVs, values, strict=True)}


def unconstrain(
    model: pm.Model, layout: Layout, names: Collection[str] | None = None
) -> Callable[[Mapping[str, AnyArray]], dict[str, FloatArray]]:
    """Forward transforms of free variables, for many draws at once.

    Parameters
    ----------
    model : pm.Model
    layout : Layout
    names : collection of str, optional
        The variables to transform; all by default.

    Returns
    -------
    callable
        From draws ``(S, *shape)`` of all free variables by name to unconstrained draws ``(S, *shape)`` of those asked
        for. The transform of a variable may depend on other variables.
    """
    shapes = constrained_shapes(model, layout)
    stops = np.cumsum([0, *(np.prod(shape, dtype=np.int64) for shape in shapes.values())])
    flat = pt.vector("x", shape=(int(stops[-1]),), dtype="float64")
    memo: dict[Any, Any] = {
        rv: _shaped(flat[int(start) : int(stop)], shapes[rv.name], rv.type)
        for rv, start, stop in zip(model.free_RVs, stops[:-1], stops[1:], strict=True)
    }
    outputs: dict[str, TensorLike] = {}
    for rv in [rv for rv in model.free_RVs if names is None or rv.name in names]:
        transform = model.rvs_to_transforms[rv]
        outputs[rv.name] = memo[rv]
        if transform is not None:
            outputs[rv.name] = transform.forward(memo[rv], *rebuilt(transform_inputs(rv), memo))
    function = compile_draws(flat, list(outputs.values()))

    def evaluate(draws: Mapping[str, AnyArray]) -> dict[str, FloatArray]:
        X = np.concatenate([np.reshape(draws[n], (len(draws[n]), -1)) for n in shapes], axis=1, dtype=np.float64)
        return {n: np.asarray(v, dtype=np.float64) for n, v in zip(outputs, function(X), strict=True)}

    return evaluate


def unconstrained_draws(trace: Any, model: pm.Model, layout: Layout) -> FloatArray:
    """Draws of a model, from wherever they come, as draws ``Z (S, d)`` of the flat unconstrained vector.

    Parameters
    ----------
    trace : DataTree, Dataset, MultiTrace, dict or array
        Draws with a group ``posterior``, or by the names of the free variables: ``(chain, draw, *shape)`` or
        ``(draw, *shape)``. Unconstrained values that are there under their own names, such as ``sigma_log__``, are
        used as they are. An array ``(S, d)`` is taken as unconstrained.
    model : pm.Model
    layout : Layout

    Raises
    ------
    ArgumentError
        For missing variables, wrong shapes, and draws outside the support of a variable.
    """
    if isinstance(trace, np.ndarray):
        if trace.ndim != 2 or trace.shape[1] != layout.ndim or not len(trace):
            raise ArgumentError(f"the draws have the shape {trace.shape}; give (S, {layout.ndim}), S at least 1")
        return _finite(np.array(trace, dtype=np.float64), layout)
    found = _by_name(trace)
    missing = [e.name for e in layout.entries if e.name not in found and e.value_name not in found]
    if missing:
        there = ", ".join(map(str, found)) or "none"
        raise ArgumentError(f"the draws have no {', '.join(missing)}; there are {there}: give them under their names")
    done = {e.name: _stacked(found, e.value_name, e.shape) for e in layout.entries if e.value_name in found}
    _check_lengths(done)
    given = [e for e in layout.entries if e.name not in done]
    if given:
        shapes = constrained_shapes(model, layout)
        own = {e.name: _stacked(found, e.name, shapes[e.name]) for e in given}
        _check_lengths(done | own)
        n_draws = len(next(iter(own.values())))
        # variables whose unconstrained values are known may still be what the bounds of others depend on
        Z = np.concatenate([done.get(e.name, np.zeros((n_draws, *e.shape))).reshape(n_draws, -1)
                            for e in layout.entries], axis=1)  # fmt: skip
        own = model_draws(model, layout)(Z) | own if done else own
        done |= unconstrain(model, layout, [e.name for e in given])(own)
    n_draws = len(next(iter(done.values())))
    return _finite(np.concatenate([done[e.name].reshape(n_draws, -1) for e in layout.entries], axis=1), layout)


def _by_name(trace: Any) -> Mapping[str, Any]:
    """Draws by the names of variables, from each of the kinds of objects that hold them."""
    trace = getattr(trace, "posterior", trace)
    if isinstance(trace, xr.DataTree):
        trace = trace.to_dataset()
    if isinstance(trace, xr.Dataset):
        return {str(name): _samples_first(array) for name, array in trace.data_vars.items()}
    if isinstance(trace, Mapping):
        return trace
    if hasattr(trace, "get_values") and hasattr(trace, "varnames"):
        return {name: trace.get_values(name, combine=True) for name in trace.varnames}
    raise ArgumentTypeError(
        f"the draws are of type {type(trace).__name__}; give a DataTree, Dataset, MultiTrace, dict or array (S, d)"
    )


def _samples_first(array: xr.DataArray) -> AnyArray:
    dims = [d for d in _SAMPLE_DIMS if d in array.dims]
    return np.asarray(array.transpose(*dims, ...).values)


def _stacked(found: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> FloatArray:
    """Draws ``(S, *shape)`` of a variable, its chains one after the other."""
    value = np.asarray(found[name], dtype=np.float64)
    n_axes = value.ndim - len(shape)
    if n_axes not in (1, 2) or value.shape[n_axes:] != shape or not value.shape[0]:
        raise ArgumentError(
            f"the draws of {name!r} have the shape {value.shape}; give (draw, *{shape}) or (chain, draw, *{shape})"
        )
    return value.reshape(-1, *shape)


def _check_lengths(draws: Mapping[str, AnyArray]) -> None:
    lengths = {name: len(value) for name, value in draws.items()}
    if len(set(lengths.values())) > 1:
        raise ArgumentError(f"the variables have different numbers of draws: {lengths}; give as many of each")


def _finite(Z: FloatArray, layout: Layout) -> FloatArray:
    bad = ~np.isfinite(Z)
    if bad.any():
        draw, element = (int(i) for i in np.argwhere(bad)[0])
        raise ArgumentError(
            f"draw {draw} of {layout.names()[element]} is {Z[draw, element]}; give draws inside the support"
        )
    return Z
