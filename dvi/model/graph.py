"""A ``pm.Model`` split into a prior term and data terms: pure graph code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.initial_point import make_initial_point_fn
from pymc.logprob.basic import transformed_conditional_logp
from pymc.logprob.utils import replace_rvs_by_values
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pymc.vartypes import continuous_types
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable, clone_get_equiv
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors, explicit_graph_inputs, graph_inputs
from pytensor.tensor.type_other import NoneConst

from dvi.data.source import Source
from dvi.errors import ArgumentError, DviWarning, ModelError
from dvi.model.compile import Program
from dvi.model.convert import convert_pymc_minibatches
from dvi.model.layout import Entry, Layout
from dvi.model.minibatch import Batch, Binding, binding, bound_variables
from dvi.model.transforms import describe_transform
from dvi.types import FloatArray

type TensorLike = Variable[Any, Any]

_INLINE_SIZE = 16  # larger constant arrays become inputs, because they would be compiled into the kernel


@dataclass(frozen=True, eq=False)
class DataTerm:
    """The log likelihood of the rows of one batch: what to compile and what to read. Holds no data.

    Parameters
    ----------
    names : tuple of str
        Observed variables and potentials that the term sums.
    batch : Batch
        Restricted to the arrays that the term uses.
    program : Program
    """

    names: tuple[str, ...]
    batch: Batch
    program: Program


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
    """

    layout: Layout
    start: FloatArray
    prior: Program
    terms: tuple[DataTerm, ...]


@dataclass(frozen=True, slots=True)
class _Term:
    """One summand of the joint log density. ``total_size`` is as given to PyMC, None where it was left out."""

    name: str
    logp: TensorLike  # not yet summed
    total_size: tuple[int | None, ...] | None
    value: TensorLike | None  # of an observed variable


def split(model: pm.Model, start: Mapping[str, Any] | None = None) -> SplitModel:
    """Split the joint log density of a model into a prior term and one data term for each Minibatch source.

    Parameters
    ----------
    model : pm.Model
    start : mapping, optional
        Initial values of free variables by name, in their own space.

    Raises
    ------
    ModelError
        For models without free variables, with discrete ones, or whose terms have no defined scale on a batch.
    """
    _check_free_variables(model)
    priors, terms = _terms(model)
    _refuse_batches_in_priors(priors)
    layout, initial = _layout(model, start or {})
    by_batch: dict[Batch, list[_Term]] = {}
    for term in terms:
        batch = _batch_of(term)
        if batch is None:
            priors.append(term)
        else:
            by_batch.setdefault(batch, []).append(term)
    value_vars = [model.rvs_to_values[rv] for rv in model.free_RVs]
    total = sum((_scaled_sum(term, None) for term in priors), start=pt.constant(0.0))
    prior = _program(total, value_vars, layout, ())
    data = tuple(_data_term(batch, group, value_vars, layout) for batch, group in by_batch.items())
    return SplitModel(layout, initial, prior, data)


def _check_free_variables(model: pm.Model) -> None:
    if not model.free_RVs:
        raise ModelError("the model has no free variables; add at least one continuous random variable to infer")
    discrete = [rv.name for rv in model.free_RVs if rv.dtype not in continuous_types]
    if discrete:
        raise ModelError(
            f"the free variables {discrete} are discrete; variational inference needs continuous ones: "
            "marginalise them (for instance with pm.Mixture) or use a sampler"
        )


def _unwrap(rv: TensorLike) -> tuple[TensorLike, tuple[int | None, ...] | None]:
    """The random variable under PyMC's ``total_size`` wrapper, and the total sizes by axis."""
    if rv.owner is None or not isinstance(rv.owner.op, MinibatchRandomVariable):
        return rv, None
    inner, *sizes = rv.owner.inputs
    totals = tuple(None if NoneConst.equals(size) else int(size.eval()) for size in sizes)
    for total in totals:
        if total is not None and total <= 0:
            raise ArgumentError(f"total_size={total} of {rv.name!r} is not positive; leave total_size out")
    return inner, totals


def _terms(model: pm.Model) -> tuple[list[_Term], list[_Term]]:
    """Terms of the free variables, and those of observed variables and potentials."""
    rvs, data, potentials = _without_pymc_minibatches(model)
    values = {rv: data.get(name, model.rvs_to_values[model[name]]) for name, rv in rvs.items()}
    blanks = {rvs[name]: value.type(name=f"{name}_observed") for name, value in data.items()}
    try:
        logps = _log_densities(model, rvs, values | blanks)
    except (AttributeError, NotImplementedError) as error:
        if rvs == {rv.name: rv for rv in model.basic_RVs}:
            raise
        raise ModelError(
            f"the batch size that pm.Minibatch fixed in the model cannot be lifted ({error}); "
            "use dvi.Minibatch in its place"
        ) from error
    filled = graph_replace(list(logps.values()), {blank: values[rv] for rv, blank in blanks.items()}, strict=False)
    graphs = dict(zip(logps, _strip_wrappers(filled), strict=True))
    free = [_Term(name, g, None, None) for name, g in graphs.items() if name not in data]
    observed = [_Term(name, graphs[name], _unwrap(rvs[name])[1], data[name]) for name in data]
    transforms = {rv: model.rvs_to_transforms[model[name]] for name, rv in rvs.items()}
    replaced = replace_rvs_by_values(list(potentials.values()), rvs_to_values=values, rvs_to_transforms=transforms)
    sizes = {p.name: getattr(p.tag, "dvi_total_size", None) for p in model.potentials}
    extra = [_Term(n, g, sizes[n], None) for n, g in zip(potentials, _strip_wrappers(replaced), strict=True)]
    return free, observed + extra


def _without_pymc_minibatches(
    model: pm.Model,
) -> tuple[dict[str, TensorLike], dict[str, TensorLike], dict[str, TensorLike]]:
    """Random variables, observed data and potentials by name, ``pm.Minibatch`` replaced by batches of dvi.

    Rebuilt rather than patched, because PyTensor infers fixed shapes from a fixed batch size.
    """
    data = [model.rvs_to_values[rv] for rv in model.observed_RVs]
    graphs = [*model.basic_RVs, *data, *model.potentials]
    replacements = convert_pymc_minibatches(graphs)
    if replacements:
        rebuilt = clone_get_equiv(
            list(replacements), graphs, copy_inputs=False, copy_orphans=False, memo=dict(replacements), strict=False
        )
        graphs = [rebuilt[g] for g in graphs]
    n, m = len(model.basic_RVs), len(data)
    return (
        {rv.name: g for rv, g in zip(model.basic_RVs, graphs[:n], strict=True)},
        {rv.name: g for rv, g in zip(model.observed_RVs, graphs[n : n + m], strict=True)},
        {p.name: g for p, g in zip(model.potentials, graphs[n + m :], strict=True)},
    )


def _log_densities(
    model: pm.Model, rvs: Mapping[str, TensorLike], values: Mapping[TensorLike, TensorLike]
) -> dict[str, TensorLike]:
    """Elementwise log densities by name. Each observed variable has a value of its own, even where data is shared."""
    unwrapped = {name: _unwrap(rv)[0] for name, rv in rvs.items()}
    transforms = {unwrapped[name]: model.rvs_to_transforms[model[name]] for name in rvs}
    by_rv = {unwrapped[name]: values[rv] for name, rv in rvs.items()}
    logps = transformed_conditional_logp(list(by_rv), rvs_to_values=by_rv, rvs_to_transforms=transforms)
    return dict(zip(rvs, logps, strict=True))


def _strip_wrappers(graphs: Sequence[TensorLike]) -> list[TensorLike]:
    """Remove what is left of PyMC's ``total_size`` wrappers, which do nothing but name a size."""
    wrappers = [v for v in ancestors(graphs) if v.owner is not None and isinstance(v.owner.op, MinibatchRandomVariable)]
    return list(graph_replace(list(graphs), {v: v.owner.inputs[0] for v in wrappers}, strict=False))


def _refuse_batches_in_priors(priors: list[_Term]) -> None:
    for term in priors:
        if bound_variables([term.logp]):
            raise ModelError(
                f"the free variable {term.name!r} depends on a Minibatch, so it would have other values for every "
                "batch; give each row's parameter through an index into a vector of fixed length"
            )


def _batch_of(term: _Term) -> Batch | None:
    """The batch that a term reaches, or None for a term that belongs to the prior."""
    reached = bound_variables([term.logp])
    if not reached:
        return None
    batches = list(dict.fromkeys(_bound(v).batch for v in reached))
    if len(batches) > 1:
        names = [v.name for v in reached]
        raise ModelError(
            f"{term.name!r} uses rows of {len(batches)} separate Minibatch calls ({names}), which do not share rows; "
            "pass the arrays to one Minibatch call"
        )
    if term.value is None and term.total_size is None:
        raise ModelError(
            f"the potential {term.name!r} reaches a Minibatch and has no defined scale there; "
            f"use dvi.Potential({term.name!r}, ..., total_size=) with one value for each row"
        )
    if term.value is not None and not bound_variables([term.value]):
        raise ModelError(
            f"the observed variable {term.name!r} depends on the Minibatch {reached[0].name!r} but its own data is "
            "not one; pass the observed array to the same Minibatch call"
        )
    if term.logp.type.ndim == 0 or term.logp.type.broadcastable[0]:
        raise ModelError(
            f"the log density of {term.name!r} does not have one value for each row of its Minibatch, so it cannot be "
            "scaled; the leading dimension of the observed variable has to be its rows, independent of each other"
        )
    return batches[0]


def _bound(variable: TensorLike) -> Binding:
    found = binding(variable)
    assert found is not None
    return found


def _scaled_sum(term: _Term, n_rows: int | None) -> TensorLike:
    """Sum of a term with the scale that ``total_size`` asks for.

    For a data term (``n_rows`` is the length of its source) the leading axis is scaled by the sampler; here only a
    ``total_size`` that contradicts the array counts.
    """
    total = pt.sum(term.logp, dtype="float64")
    subject = term.logp if term.value is None else term.value
    factor: Any = 1.0
    for axis, size in enumerate(term.total_size or ()):
        if size is None:
            continue
        static = subject.type.shape[axis]
        present = n_rows if axis == 0 and n_rows is not None else static
        if present is None:
            factor = factor * (size / subject.shape[axis].astype("float64"))
        elif size != present:
            factor = factor * (size / present)
            if n_rows is not None:
                _warn_contradiction(term.name, axis, size, present)
    return total if isinstance(factor, float) and factor == 1.0 else total * factor


def _warn_contradiction(name: str, axis: int, size: int, present: int) -> None:
    what = "rows" if axis == 0 else f"elements along axis {axis}"
    warnings.warn(
        f"total_size={size} of {name!r} contradicts its array, which has {present} {what}; the likelihood is scaled to "
        f"{size} as asked; leave total_size out to use {present}",
        DviWarning,
        stacklevel=2,
    )


def _data_term(batch: Batch, terms: list[_Term], value_vars: list[TensorLike], layout: Layout) -> DataTerm:
    total = sum((_scaled_sum(term, batch.source.n_rows) for term in terms), start=pt.constant(0.0))
    used = sorted(bound_variables([total]), key=lambda v: _bound(v).column)
    columns = tuple(dict.fromkeys(_bound(v).column for v in used))
    blocks = {c: pt.tensor(batch.source.names[c], dtype=v.type.dtype, shape=v.type.shape)
              for c, v in ((_bound(v).column, v) for v in used)}  # fmt: skip
    total = graph_replace([total], {v: blocks[_bound(v).column] for v in used}, strict=False)[0]
    program = _program(total, value_vars, layout, tuple(blocks[c] for c in columns))
    source = batch.source
    kept = Source(tuple(source.names[c] for c in columns), tuple(source.readers[c] for c in columns), source.starts)
    restricted = Batch(kept, batch.batch_size)
    return DataTerm(tuple(t.name for t in terms), restricted, program)


def _program(
    total: TensorLike, value_vars: list[TensorLike], layout: Layout, blocks: tuple[TensorLike, ...]
) -> Program:
    """Value and gradient of a log density as a function of the flat vector, everything else made an explicit input."""
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
        raise ModelError(f"the log density depends on {sorted(map(str, unknown))}, which have no value")
    return Program(z, blocks, tuple(constants.values()), values, (outputs[0], outputs[1]))


def _is_data(variable: TensorLike) -> bool:
    if isinstance(variable, SharedVariable):
        return True
    return isinstance(variable, Constant) and getattr(variable.data, "size", 1) > _INLINE_SIZE


def _layout(model: pm.Model, start: Mapping[str, Any]) -> tuple[Layout, FloatArray]:
    """The flat vector of a model in the order of ``model.free_RVs``, and its initial point."""
    point = _initial_point(model, start)
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
        raise ArgumentError(f"start names {unknown}, which are not free variables; the model has {known}")
    overrides = {model[name]: np.asarray(value) for name, value in start.items()}
    function = make_initial_point_fn(model=model, overrides=overrides, jitter_rvs=set(), return_transformed=True)
    point: dict[str, Any] = function(0)
    return point
