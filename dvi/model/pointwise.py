"""Variables of a model that have one value for each row of a batch, as functions of draws and of any rows.

A model is read anew here, because a fit needs sums over rows and their gradients, and nothing of it is random.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.replace import graph_replace, vectorize_graph
from pytensor.graph.traversal import ancestors, graph_inputs, toposort, walk
from pytensor.tensor.random.op import RNGConsumerOp
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.shape import Shape, Shape_i

from dvi.errors import ModelError, UnknownNameError, suggestion
from dvi.model.batch import Batch, MinibatchVariable, bound_variables
from dvi.model.compile import BUILDING, INTERPRETED
from dvi.model.convert import convert_pymc_minibatches
from dvi.model.draws import rebuilt, transform_inputs, value_piece
from dvi.model.layout import Layout
from dvi.model.terms import collect_terms
from dvi.randomness import keyed_generator
from dvi.types import AnyArray, FloatArray

type TensorLike = Variable[Any, Any]
type Inputs = Mapping[TensorLike, TensorLike]  # Minibatch variables and what stands in their place


@dataclass(frozen=True, eq=False)
class RowProgram:
    """Values of variables for some rows as a graph, of all draws at once or, where that is not possible, of one.

    Parameters
    ----------
    draws : Variable
        Draws ``(S, d)``, or one ``(d,)``.
    n_rows : Variable
        Number of rows, a scalar.
    blocks : tuple of Variable
        Rows of the arrays that are read.
    generators : tuple of Variable
        What random variables draw from.
    outputs : tuple of Variable
        ``(S, n_rows, ...)`` each, or ``(n_rows, ...)``.
    """

    draws: TensorLike
    n_rows: TensorLike
    blocks: tuple[TensorLike, ...]
    generators: tuple[TensorLike, ...]
    outputs: tuple[TensorLike, ...]

    def is_random(self, output: int) -> bool:
        """Whether the values of an output are drawn at random."""
        found = set(ancestors([self.outputs[output]]))
        return any(generator in found for generator in self.generators)

    def digest(self) -> str:
        """What identifies the graph and the values it holds, for instance of ``pm.Data``."""
        text = io.StringIO()
        pytensor.dprint(list(self.outputs), file=text)
        found = hashlib.sha256(text.getvalue().encode())
        for v in dict.fromkeys(graph_inputs(self.outputs)):
            if isinstance(v, Constant | SharedVariable):
                data = v.get_value(borrow=True) if isinstance(v, SharedVariable) else v.data
                found.update(np.ascontiguousarray(data).tobytes() if hasattr(data, "dtype") else repr(data).encode())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class RowTerm:
    """Variables of a model whose rows are those of one batch.

    Parameters
    ----------
    names : tuple of str
    batch : Batch
    columns : tuple of int
        The arrays of the batch that are read; one more than the last is the row numbers.
    program : RowProgram
    """

    names: tuple[str, ...]
    batch: Batch
    columns: tuple[int, ...]
    program: RowProgram


@dataclass(eq=False)
class RowFunction:
    """A row program that is compiled where it is used, callable from any thread. Its pickle holds the program alone.

    Parameters
    ----------
    program : RowProgram
    seed : int
        Of what is random, with the number of the first row, so that the same rows always get the same numbers.
    """

    program: RowProgram
    seed: int
    _idle: list[Any] = field(default_factory=list, repr=False)  # compiled, one for each thread that ever ran at once

    def __call__(self, Z: FloatArray, n_rows: int, blocks: Sequence[AnyArray], first_row: int) -> list[AnyArray]:
        """Arrays ``(S, n_rows, ...)``, one for each output.

        Parameters
        ----------
        Z : array, shape (S, d)
        n_rows : int
        blocks : sequence of array
            ``(n_rows, ...)`` each.
        first_row : int
        """
        try:
            function = self._idle.pop()
        except IndexError:
            function = _compiled(self.program)
        try:
            if self.program.draws.type.ndim == 2:
                return [np.asarray(v) for v in function(Z, n_rows, *blocks, *self._generators(first_row))]
            each = [function(z, n_rows, *blocks, *self._generators(first_row, s)) for s, z in enumerate(Z)]
            return [np.stack(values) for values in zip(*each, strict=True)]
        finally:
            self._idle.append(function)

    def _generators(self, *key: int) -> list[np.random.Generator]:
        # Draws of the approximation have no key and those of expressions one number, so these name others.
        return [keyed_generator(self.seed, "sample", i, *key) for i in range(len(self.program.generators))]

    def __reduce__(self) -> tuple[Any, ...]:
        return RowFunction, (self.program, self.seed)


def _compiled(program: RowProgram) -> Any:
    """Interpreted: ready in a tenth of a second, and on blocks that stay in cache as quick as compiled code."""
    inputs = [program.draws, program.n_rows, *program.blocks, *program.generators]
    with BUILDING:
        return pytensor.function(inputs, list(program.outputs), mode=INTERPRETED, on_unused_input="ignore")


def minibatches(model: pm.Model) -> dict[TensorLike, MinibatchVariable]:
    """The Minibatch variables of a model, those that stand for a ``pm.Minibatch`` under the variables of that."""
    values = [model.rvs_to_values[rv] for rv in model.observed_RVs]
    graphs = [*model.basic_RVs, *values, *model.deterministics]
    return {**{v: v for v in bound_variables(graphs)}, **convert_pymc_minibatches(graphs)}


def row_variables(model: pm.Model, stands_for: Mapping[TensorLike, MinibatchVariable]) -> dict[str, Batch]:
    """The batch of each observed variable and deterministic that reaches one, by name.

    Parameters
    ----------
    model : pm.Model
    stands_for : mapping
        As :func:`minibatches` returned it.
    """
    found = {}
    for v in [*model.observed_RVs, *model.deterministics]:
        value = [model.rvs_to_values[v]] if v in model.rvs_to_values else []
        reached = set(ancestors([v, *value]))
        batches = list(dict.fromkeys(new.bound.batch for old, new in stands_for.items() if old in reached))
        if len(batches) > 1 and v in model.observed_RVs:
            raise ModelError(
                f"{v.name!r} uses rows of {len(batches)} separate Minibatch calls, which do not share rows; pass the "
                "arrays to one Minibatch call"
            )
        if len(batches) == 1:
            found[v.name] = batches[0]
    return found


def predictive_terms(
    model: pm.Model, layout: Layout, names: Sequence[str], stands_for: Mapping[TensorLike, MinibatchVariable]
) -> list[RowTerm]:
    """Observed variables drawn from their random variables, and deterministics, given draws of the free variables.

    Parameters
    ----------
    model : pm.Model
    layout : Layout
    names : sequence of str
    stands_for : mapping
        As :func:`minibatches` returned it.
    """

    def graphs_of(group: Sequence[str], z: TensorLike, n_rows: TensorLike, inputs: Inputs) -> list[TensorLike]:
        lengths = {model.dim_lengths[dim]: n_rows for dim in _row_dims(model, group)}
        return _given_draws(model, layout, [model[name] for name in group], z, {**inputs, **lengths})

    return _terms(model, layout, names, stands_for, graphs_of)


def density_terms(
    model: pm.Model, layout: Layout, names: Sequence[str], stands_for: Mapping[TensorLike, MinibatchVariable]
) -> list[RowTerm]:
    """The log likelihood of each element of observed variables.

    Parameters
    ----------
    model : pm.Model
    layout : Layout
    names : sequence of str
    stands_for : mapping
        As :func:`minibatches` returned it.
    """

    def graphs_of(group: Sequence[str], z: TensorLike, n_rows: TensorLike, inputs: Inputs) -> list[TensorLike]:
        held = {old: _held(new) for old, new in inputs.items()}
        stand_ins = {old: pt.tensor_copy(v) for old, v in held.items()}  # expressions, as leaves are made anew
        logps = {term.name: term.logp for term in collect_terms(model, stand_ins)[1]}
        values = {model.rvs_to_values[rv]: rv.name for rv in model.free_RVs}
        pieces = {value: value_piece(z, layout, name, value.type) for value, name in values.items()}
        rows = {held[old]: new for old, new in inputs.items()}
        return list(graph_replace([logps[name] for name in group], pieces | rows, strict=False))

    return _terms(model, layout, names, stands_for, graphs_of)


def _terms(
    model: pm.Model,
    layout: Layout,
    names: Sequence[str],
    stands_for: Mapping[TensorLike, MinibatchVariable],
    graphs_of: Callable[..., list[TensorLike]],
) -> list[RowTerm]:
    """One term for each batch that some of the variables have their rows from."""
    batches = row_variables(model, stands_for)
    unknown = [name for name in names if name not in batches]
    if unknown:
        raise UnknownNameError(
            f"{unknown} are not variables with one value for each row of a Minibatch; the model has {sorted(batches)}. "
            "Use approx.sample for free variables, and pm.sample_posterior_predictive for data without a Minibatch"
            f"{suggestion(unknown, batches)}"
        )
    grouped: dict[Batch, list[str]] = {}
    for name in names:
        grouped.setdefault(batches[name], []).append(name)
    terms = []
    for batch, group in grouped.items():
        inputs = {old: _input(new) for old, new in stands_for.items()}
        z = pt.vector("z", shape=(layout.ndim,), dtype="float64")
        n_rows = pt.lscalar("n_rows")
        graphs = graphs_of(group, z, n_rows, inputs)
        columns = {
            inputs[old]: new.bound.column if new.bound.batch is batch else None for old, new in stands_for.items()
        }
        terms.append(_term(group, batch, graphs, (z, n_rows), columns))
    return terms


def _input(variable: MinibatchVariable) -> TensorLike:
    """Rows of any number, all axes behind them whole."""
    bound = variable.bound
    readers = bound.batch.readers
    shape = readers[bound.column].shape[1:] if bound.column < len(readers) else ()
    made: TensorLike = pt.tensor(variable.name, dtype=variable.dtype, shape=(None, *shape))
    return made


def _held(row_input: TensorLike) -> TensorLike:
    """A shared variable in the place of an input, because PyMC makes inputs anew and keeps what is shared."""
    shape = row_input.type.shape
    blank = np.zeros((1, *shape[1:]), dtype=row_input.type.dtype)
    made: TensorLike = pytensor.shared(blank, name=row_input.name, shape=shape)
    return made


def _row_dims(model: pm.Model, names: Sequence[str]) -> set[str]:
    """Dimensions of the model whose length is the number of rows: the first ones of observed variables."""
    observed = {rv.name for rv in model.observed_RVs}
    first = [model.named_vars_to_dims.get(name, (None,))[0] for name in names if name in observed]
    return {dim for dim in first if dim is not None}


def _term(
    names: Sequence[str],
    batch: Batch,
    graphs: list[TensorLike],
    scalars: tuple[TensorLike, TensorLike],
    columns: Mapping[TensorLike, Any],
) -> RowTerm:
    z, n_rows = scalars
    read = set(walk(graphs, _without_shapes))
    counted = {v: pt.zeros((n_rows, *v.type.shape[1:]), dtype=v.type.dtype) for v in columns if v not in read}
    graphs = list(graph_replace(graphs, counted, strict=False)) if counted else graphs
    kept = [v for v in columns if v in read]
    if any(columns[v] is None for v in kept):
        raise ModelError(
            f"{list(names)} use rows of separate Minibatch calls, which do not share rows; pass the arrays to one call"
        )
    random = [v for v in dict.fromkeys(graph_inputs(graphs)) if isinstance(v.type, RandomType)]
    generators = {v: v.type() for v in random}
    graphs = list(graph_replace(graphs, generators, strict=False)) if generators else graphs
    draws, outputs = _batched(graphs, z)
    blocks = {columns[v]: v for v in kept}
    order = tuple(sorted(blocks))
    program = RowProgram(draws, n_rows, tuple(blocks[c] for c in order), tuple(generators.values()), tuple(outputs))
    return RowTerm(tuple(names), batch, order, program)


def _without_shapes(variable: TensorLike) -> Iterable[TensorLike] | None:
    if variable.owner is None or isinstance(variable.owner.op, Shape | Shape_i):
        return None
    return list(variable.owner.inputs)


def _given_draws(
    model: pm.Model, layout: Layout, nodes: list[TensorLike], z: TensorLike, memo: dict[Any, Any]
) -> list[TensorLike]:
    """Graphs with free variables as functions of the flat vector. Everything else that is random stays so."""
    for rv in model.free_RVs:
        piece = value_piece(z, layout, rv.name, model.rvs_to_values[rv].type)
        transform = model.rvs_to_transforms[rv]
        inputs = [] if transform is None else rebuilt(transform_inputs(rv), memo)
        memo[rv] = piece if transform is None else transform.backward(piece, *inputs)
    for node in toposort(nodes):
        if isinstance(node.op, MinibatchRandomVariable) and node.outputs[0] not in memo:
            memo[node.outputs[0]] = rebuilt([node.inputs[0]], memo)[0]  # it names a size, which changes no value
    return rebuilt(nodes, memo)


def _batched(graphs: list[TensorLike], z: TensorLike) -> tuple[TensorLike, list[TensorLike]]:
    """Graphs for all draws at once, or as they are where some part of them cannot be."""
    random = [v for v in ancestors(graphs) if v.owner is not None and isinstance(v.owner.op, RNGConsumerOp)]
    if not all(z in set(ancestors([v])) for v in random):  # would be one value for all draws
        return z, graphs
    Z = pt.matrix("Z", shape=(None, z.type.shape[0]), dtype="float64")
    try:
        found = vectorize_graph(graphs, replace={z: Z})
    except (NotImplementedError, ValueError):  # there is no asking before
        return z, graphs
    return Z, [
        b if b.type.ndim > g.type.ndim else pt.broadcast_to(b, (Z.shape[0], *b.shape))
        for g, b in zip(graphs, found, strict=True)
    ]
