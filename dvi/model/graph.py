"""A ``pm.Model`` split into a prior term and data terms: pure graph code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.initial_point import make_initial_point_fn
from pymc.vartypes import continuous_types
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import explicit_graph_inputs, graph_inputs
from pytensor.tensor.type import TensorType

from dvi.errors import ArgumentError, ArgumentTypeError, ModelError, suggestion
from dvi.model.batch import Batch, binding, bound_variables
from dvi.model.compile import Program
from dvi.model.layout import Entry, Layout
from dvi.model.replacements import check_replacements
from dvi.model.rewrites import differentiable
from dvi.model.scale import TensorLike, Term, data_sum, prior_sum
from dvi.model.terms import batch_of, collect_terms, refuse_batches
from dvi.model.transforms import describe_transform
from dvi.types import AnyArray, FloatArray

_INLINE_SIZE = 16  # larger constant arrays become inputs, because they would be compiled into the kernel


@dataclass(frozen=True, eq=False)
class DataTerm:
    """The log likelihood of the rows of one batch: what to compile and what to read.

    Parameters
    ----------
    names : tuple of str
        Observed variables and potentials that the term sums.
    batch : Batch
        Restricted to the arrays that the term uses, as they were when the model was split. Its ``source``,
        ``batch_size``, ``seed`` and ``picks`` say what a step reads.
    program : Program
        Evaluated on what ``batch.picks`` takes of each block of rows.
    origin : Batch
        The batch of the model, whose arrays can be replaced.
    layout : Layout
        What the elements of the flat vector mean.
    """

    names: tuple[str, ...]
    batch: Batch
    program: Program
    origin: Batch
    layout: Layout


@dataclass(frozen=True, eq=False)
class SplitModel:
    """Everything that a fit needs of a model.

    Parameters
    ----------
    layout : Layout
    start : array, shape (d,)
        The model's initial point, unconstrained.
    prior : Program
        Priors, Jacobians, ordinary observed variables and potentials.
    terms : tuple of DataTerm
        One for each Minibatch source.
    shared : tuple of (variable, value)
        Data that the model holds itself, as they were.
    """

    layout: Layout
    start: FloatArray
    prior: Program
    terms: tuple[DataTerm, ...]
    shared: tuple[tuple[SharedVariable, AnyArray], ...] = ()

    @property
    def stale(self) -> bool:
        """Whether data of the model were replaced since it was split, so that it has to be split again."""
        if any(term.origin.version != term.batch.version for term in self.terms):
            return True
        return any(not np.array_equal(v.get_value(borrow=True), value) for v, value in self.shared)


def split(
    model: pm.Model, start: Mapping[str, Any] | None = None, more_replacements: Mapping[Any, Any] | None = None
) -> SplitModel:
    """Split the joint log density of a model into a prior term and one data term for each Minibatch source.

    Parameters
    ----------
    model : pm.Model
    start : mapping, optional
        Initial values of free variables by name, in their own space.
    more_replacements : mapping, optional
        From nodes of the model's graph, such as a ``pm.Data`` or a Minibatch variable, to what stands in their place in
        observed data, random variables and potentials. Free variables keep the shapes that the model gives them.

    Raises
    ------
    ModelError
        For models without free variables, with discrete ones, or whose terms have no defined scale on a batch.
    ArgumentError, ArgumentTypeError
        For names in ``start`` and keys in ``more_replacements`` that the model does not have.
    DataError
        For a Minibatch whose arrays differ in length.

    Examples
    --------
    >>> import dvi, numpy as np
    >>> with pm.Model() as model:
    ...     y = pm.Normal("y", pm.Normal("mu"), observed=dvi.Minibatch(np.zeros(1000), batch_size=100))
    >>> parts = split(model)
    >>> parts.layout.ndim, [term.names for term in parts.terms]
    (1, [('y',)])
    """
    _check_free_variables(model)
    priors, terms = collect_terms(model, check_replacements(model, more_replacements))
    refuse_batches(priors)
    layout, initial = layout_and_start(model, start)
    by_batch: dict[Batch, list[Term]] = {}
    for term in terms:
        batch = batch_of(term)
        if batch is None:
            priors.append(term)
        else:
            by_batch.setdefault(batch, []).append(term)
    value_vars = [model.rvs_to_values[rv] for rv in model.free_RVs]
    total = sum(map(prior_sum, priors), start=pt.constant(0.0))
    prior = _program(total, value_vars, layout, ())
    data = tuple(_data_term(batch, group, value_vars, layout) for batch, group in by_batch.items())
    graphs = [term.logp for group in (priors, *by_batch.values()) for term in group]
    held = [v for v in graph_inputs(graphs) if isinstance(v, SharedVariable) and binding(v) is None]
    shared = tuple((v, np.array(v.get_value())) for v in dict.fromkeys(held) if isinstance(v.type, TensorType))
    return SplitModel(layout, initial, prior, data, shared)


def layout_of(model: pm.Model) -> Layout:
    """The flat vector of a model, without its gradient: far quicker than `split`.

    Raises
    ------
    ModelError
        For models without free variables, or with discrete ones.

    Examples
    --------
    >>> with pm.Model() as model:
    ...     sigma = pm.HalfNormal("sigma", shape=3)
    >>> layout_of(model).names()
    ['sigma_log__[0]', 'sigma_log__[1]', 'sigma_log__[2]']
    """
    return layout_and_start(model)[0]


def _check_free_variables(model: pm.Model) -> None:
    if not isinstance(model, pm.Model):
        raise ArgumentTypeError(f"model={model!r} is of type {type(model).__name__}; give a pm.Model")
    if not model.free_RVs:
        raise ModelError("the model has no free variables; add at least one continuous random variable to infer")
    discrete = [rv.name for rv in model.free_RVs if rv.dtype not in continuous_types]
    if discrete:
        raise ModelError(
            f"Discrete variables are not supported: {discrete} are discrete; variational inference needs continuous "
            "ones: marginalise them (for instance with pm.Mixture) or use a sampler"
        )


def _data_term(batch: Batch, terms: list[Term], value_vars: list[TensorLike], layout: Layout) -> DataTerm:
    total = sum((data_sum(term, batch) for term in terms), start=pt.constant(0.0))
    used = {v: bound.column for v in bound_variables([total]) if (bound := binding(v)) is not None}
    columns = tuple(sorted(set(used.values())))
    types = {column: v.type for v, column in used.items()}
    restricted = batch.restricted(columns)
    blocks = {c: pt.tensor(name, dtype=types[c].dtype, shape=types[c].shape)
              for c, name in zip(columns, restricted.names, strict=True)}  # fmt: skip
    total = graph_replace([total], {v: blocks[column] for v, column in used.items()}, strict=False)[0]
    program = _program(total, value_vars, layout, tuple(blocks[c] for c in columns))
    return DataTerm(tuple(t.name for t in terms), restricted, program, batch, layout)


def _program(
    total: TensorLike, value_vars: list[TensorLike], layout: Layout, blocks: tuple[TensorLike, ...]
) -> Program:
    """Value and gradient of a log density as a function of the flat vector, everything else made an explicit input."""
    total = differentiable(total)
    gradients = pt.grad(total, value_vars, disconnected_inputs="ignore", null_gradients="raise")
    flat = pt.concatenate([g.ravel().astype("float64") for g in gradients])
    z = pt.vector("z", shape=(layout.ndim,), dtype="float64")
    pieces = {
        v: v.type.filter_variable(z[e.start : e.stop].reshape(e.shape).astype(v.type.dtype), allow_convert=True)
        for v, e in zip(value_vars, layout.entries, strict=True)
    }
    outputs = graph_replace([total.astype("float64"), flat], pieces, strict=False)
    fixed = [v for v in graph_inputs(outputs) if _is_data(v)]
    constants = {v: v.type(name=v.name) for v in dict.fromkeys(fixed)}
    outputs = graph_replace(outputs, constants, strict=False)
    values = tuple(np.array(v.get_value() if isinstance(v, SharedVariable) else v.data) for v in constants)
    unknown = set(explicit_graph_inputs(outputs)) - {z, *blocks, *constants.values()}
    if unknown:
        raise ModelError(
            f"the log density depends on {sorted(map(str, unknown))}, which have no value; give them one with pm.Data "
            "or pm.do"
        )
    return Program(z, blocks, tuple(constants.values()), values, (outputs[0], outputs[1]))


def _is_data(variable: TensorLike) -> bool:
    if isinstance(variable, SharedVariable):
        return True
    return isinstance(variable, Constant) and getattr(variable.data, "size", 1) > _INLINE_SIZE


def layout_and_start(model: pm.Model, start: Mapping[str, Any] | None = None) -> tuple[Layout, FloatArray]:
    """The flat vector of a model in the order of ``model.free_RVs``, and its initial point, shape (d,), unconstrained.

    Parameters
    ----------
    model : pm.Model
    start : mapping, optional
        Initial values of free variables by name, in their own space.

    Raises
    ------
    ModelError
        For models without free variables, or with discrete ones.
    ArgumentError
        For names in ``start`` that are not free variables.

    Examples
    --------
    >>> with pm.Model() as model:
    ...     sigma = pm.HalfNormal("sigma")
    >>> layout, initial = layout_and_start(model, {"sigma": 1.0})
    >>> layout.ndim, initial.tolist()
    (1, [0.0])
    """
    _check_free_variables(model)
    point = _initial_point(model, start or {})
    entries, offset = [], 0
    for rv in model.free_RVs:
        value = model.rvs_to_values[rv]
        shape = tuple(int(n) for n in np.shape(point[value.name]))
        stop = offset + int(np.prod(shape, dtype=np.int64))
        dims = tuple(model.named_vars_to_dims.get(rv.name, (None,) * rv.type.ndim))
        entries.append(Entry(rv.name, value.name, shape, offset, stop, dims, describe_transform(model, rv)))
        offset = stop
    used = {d for e in entries for d in e.dims if d is not None}
    coords = {k: tuple(np.asarray(v)) for k, v in model.coords.items() if k in used and v is not None}
    flat = [np.ravel(np.asarray(point[e.value_name], dtype=np.float64)) for e in entries]
    return Layout(tuple(entries), coords), np.concatenate(flat)


def _initial_point(model: pm.Model, start: Mapping[str, Any]) -> dict[str, Any]:
    known = [rv.name for rv in model.free_RVs]
    unknown = [name for name in start if name not in known]
    if unknown:
        near = suggestion(unknown, known)
        raise ArgumentError(f"start names {unknown}, which are not free variables; name some of {known}{near}")
    overrides = {model[name]: np.asarray(value) for name, value in start.items()}
    try:
        function = make_initial_point_fn(model=model, overrides=overrides, jitter_rvs=set(), return_transformed=True)
        point: dict[str, Any] = function(0)
    except TypeError as error:
        raise ArgumentError(
            f"start does not fit the shapes of the variables it names ({error}); give each the shape that "
            "it has in the model"
        ) from error
    for rv in model.free_RVs:
        value = np.asarray(point[model.rvs_to_values[rv].name])
        if not np.isfinite(value).all():
            raise ArgumentError(
                f"{rv.name!r} starts at a value outside its support, so that it is {value} without constraints; give "
                f"start={{{rv.name!r}: ...}} within the support"
            )
    return point
