"""Expressions of a model's variables as random graphs over an approximation: pure graph code."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.pytensorf import collect_default_updates
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace, vectorize_graph
from pytensor.graph.traversal import ancestors, graph_inputs, toposort, walk
from pytensor.tensor.random.op import RNGConsumerOp
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.shape import Shape, Shape_i

from dvi.errors import ArgumentError, ArgumentTypeError, suggestion
from dvi.model.draws import rebuilt, transform_inputs, value_piece
from dvi.model.layout import Layout
from dvi.model.minibatch import binding, bound_variables
from dvi.model.operators import Draw
from dvi.randomness import keyed_generator
from dvi.types import Family

type TensorLike = Variable[Any, Any]
type Replacements = Mapping[Any, Any]


@dataclass(frozen=True, eq=False)
class SymbolicDraws:
    """Random draws of an approximation as a graph.

    Parameters
    ----------
    eps : Variable
        Noise ``(S, noise_dim)``; zeros for the mean.
    Z : Variable
        Draws ``(S, d)``.
    """

    eps: TensorLike
    Z: TensorLike


def symbolic_draws(family: Family, theta: TensorLike, size: Any, deterministic: Any, seed: int) -> SymbolicDraws:
    """Draws that are other ones at every evaluation, or the mean in their place.

    Parameters
    ----------
    family : Family
    theta : Variable
        Parameters ``(p,)``.
    size : int or scalar Variable
        Number of draws, ``S``.
    deterministic : bool or scalar Variable
        Whether to take the mean.
    seed : int
    """
    condition = pt.neq(deterministic, 0) if isinstance(deterministic, Variable) else pt.constant(bool(deterministic))
    eps = noise(size, family.noise_dim, seed)
    if isinstance(deterministic, Variable) or deterministic:
        eps = pt.switch(condition, 0.0, eps)
    return SymbolicDraws(eps, Draw(family)(theta, eps, condition))


def noise(size: Any, width: int, seed: int) -> TensorLike:
    """Standard normal noise ``(size, width)``, other noise whenever it is evaluated."""
    next_rng, eps = pt.random.normal(
        size=(size, width), dtype="float64", rng=pt.random.shared_rng(_generator(seed, 0)), return_next_rng=True
    )
    _advance({next_rng.owner.inputs[0]: next_rng})
    noisy: TensorLike = eps
    return noisy


def sampled(
    model: pm.Model, layout: Layout, nodes: Sequence[TensorLike], Z: TensorLike, *, single: bool,
    replacements: Replacements | None = None, seed: int,
) -> list[TensorLike]:  # fmt: skip
    """Expressions of the variables of a model, given draws of the unconstrained vector.

    Free variables become functions of the draws. Everything else that is random, observed variables among it, stays so
    and is drawn anew at every evaluation.

    Parameters
    ----------
    model : pm.Model
    layout : Layout
    nodes : sequence of Variable
    Z : Variable
        Draws ``(S, d)``.
    single : bool
        Take the first draw alone; else the expressions have ``S`` values each, along a new leading axis.
    replacements : mapping, optional
        Variables to replace before anything else, with variables or arrays.
    seed : int
        Of what is random besides the draws.
    """
    for node in nodes:
        if not isinstance(node, Variable):
            known = isinstance(node, str) and node in model.named_vars
            hint = f"; give model[{node!r}]" if known else suggestion(node, model.named_vars) or "; give one"
            raise ArgumentTypeError(f"node={node!r:.80} is not a variable of the model or an expression of them{hint}")
    given = _checked(replacements or {})
    memo: dict[Any, Any] = {**given, **_shape_only(given, [*nodes, *model.free_RVs])}
    z = pt.vector("z", shape=(layout.ndim,), dtype="float64")
    for rv in model.free_RVs:
        if rv not in memo:
            piece = value_piece(z, layout, rv.name, model.rvs_to_values[rv].type)
            transform = model.rvs_to_transforms[rv]
            inputs = [] if transform is None else rebuilt(transform_inputs(rv), memo)
            memo[rv] = piece if transform is None else transform.backward(piece, *inputs)
    for node in toposort(nodes):
        if isinstance(node.op, MinibatchRandomVariable) and node.outputs[0] not in memo:
            memo[node.outputs[0]] = rebuilt([node.inputs[0]], memo)[0]
    graphs = _with_own_generators(rebuilt(nodes, memo), seed)
    outputs = graph_replace(graphs, {z: Z[0]}, strict=False) if single else _batched(graphs, z, Z)
    _advance(collect_default_updates(outputs))
    return list(outputs)


def _checked(replacements: Replacements) -> dict[Any, Any]:
    """Replacements as variables of the dimensions and types of what they replace."""
    checked = {}
    for old, value in replacements.items():
        if not isinstance(old, Variable):
            raise ArgumentTypeError(
                f"more_replacements has the key {old!r} of type {type(old).__name__}; give the variable itself"
            )
        new = value if isinstance(value, Variable) else pt.as_tensor(np.asarray(value))
        if new.type.ndim != old.type.ndim:
            raise ArgumentError(
                f"more_replacements gives {old} a value of {new.type.ndim} dimensions; it has {old.type.ndim}"
            )
        checked[old] = new if new.type.dtype == old.type.dtype else new.astype(old.type.dtype)
    return checked


def _shape_only(given: Mapping[Any, Any], graphs: Sequence[TensorLike]) -> dict[Any, Any]:
    """Zeros for the Minibatch variables whose rows alone are counted, where others of their batch are replaced.

    PyMC gives an observed variable the shape of its data, which then has to follow that of its predictors.
    """
    rows: dict[Any, Any] = {}
    for old, new in given.items():
        found = binding(old)
        if found is not None:
            rows[found.batch] = new.shape[0]
    read = set(walk(graphs, _without_shapes)) if rows else set()
    return {
        v: pt.zeros((rows[found.batch], *(v.shape[i] for i in range(1, v.type.ndim))), dtype=v.type.dtype)
        for v in bound_variables(list(graphs))
        if (found := binding(v)) is not None and found.batch in rows and v not in given and v not in read
    }


def _without_shapes(variable: TensorLike) -> Iterable[TensorLike] | None:
    if variable.owner is None or isinstance(variable.owner.op, Shape | Shape_i):
        return None
    return list(variable.owner.inputs)


def _with_own_generators(graphs: list[TensorLike], seed: int) -> list[TensorLike]:
    """Graphs whose random variables draw from generators of their own, not from those of the model."""
    own = {v: pt.random.shared_rng(_generator(seed, i)) for i, v in enumerate(_generators(graphs), start=1)}
    return list(graph_replace(graphs, own, strict=False)) if own else graphs


def _generators(graphs: Sequence[TensorLike]) -> list[TensorLike]:
    inputs = dict.fromkeys(graph_inputs(graphs))
    return [v for v in inputs if isinstance(v, SharedVariable) and isinstance(v.type, RandomType)]


def _generator(seed: int, position: int) -> np.random.Generator:
    return keyed_generator(seed, "sample", position)


def _batched(graphs: list[TensorLike], z: TensorLike, Z: TensorLike) -> list[TensorLike]:
    """Graphs of one flat vector for all draws at once."""
    random = [v for v in ancestors(graphs) if v.owner is not None and isinstance(v.owner.op, RNGConsumerOp)]
    if not all(z in set(ancestors([v])) for v in random):  # would be one value for all draws
        return _looped(graphs, z, Z)
    try:
        outputs = vectorize_graph(graphs, replace={z: Z})
    except (NotImplementedError, ValueError):  # mixtures, time series and the like; there is no asking before
        return _looped(graphs, z, Z)
    return [
        b if b.type.ndim > g.type.ndim else pt.broadcast_to(b, (Z.shape[0], *b.shape))
        for g, b in zip(graphs, outputs, strict=True)
    ]


def _looped(graphs: list[TensorLike], z: TensorLike, Z: TensorLike) -> list[TensorLike]:
    """The same, one draw after the other."""
    generators = _generators(graphs)

    def step(draw: TensorLike, *states: TensorLike) -> list[TensorLike]:
        outputs = graph_replace(graphs, {z: draw, **dict(zip(generators, states, strict=True))}, strict=False)
        updates = collect_default_updates(outputs, must_be_shared=False)
        return [*outputs, *(updates.get(state, state) for state in states)]

    found = pytensor.scan(step, sequences=[Z], outputs_info=[*[None] * len(graphs), *generators], return_updates=False)
    return list(found if isinstance(found, list | tuple) else [found])[: len(graphs)]


def _advance(updates: Mapping[Any, Any]) -> None:
    """Have generators go on from where an evaluation ends, in ``.eval()`` as in compiled functions."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting default_update", DeprecationWarning)
        for generator, update in updates.items():
            generator.default_update = update
