"""The terms of the joint log density of a model, and the batch that each belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pymc as pm
from pymc.logprob.basic import transformed_conditional_logp
from pymc.logprob.utils import replace_rvs_by_values
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors
from pytensor.tensor.type_other import NoneConst

from dvi.errors import ArgumentError, ModelError
from dvi.model.batch import Batch, binding, bound_variables
from dvi.model.constants import value_of
from dvi.model.convert import convert_pymc_minibatches
from dvi.model.replacements import Replacements, rebuilt
from dvi.model.scale import TensorLike, Term


@dataclass(frozen=True, slots=True)
class _Graphs:
    """Random variables, observed data and potentials of a model by name, with everything replaced in them."""

    rvs: dict[str, TensorLike]
    data: dict[str, TensorLike]
    potentials: dict[str, TensorLike]
    converted: bool  # from pm.Minibatch


def collect_terms(model: pm.Model, replacements: Replacements) -> tuple[list[Term], list[Term]]:
    """Terms of the free variables, and those of observed variables and potentials.

    Parameters
    ----------
    model : pm.Model
    replacements : mapping
        As `check_replacements` returns them.
    """
    graphs = _graphs(model, replacements)
    rvs, data = graphs.rvs, graphs.data
    values = {rv: data.get(name, model.rvs_to_values[model[name]]) for name, rv in rvs.items()}
    blanks = {rvs[name]: value.type(name=f"{name}_observed") for name, value in data.items()}
    try:
        logps = _log_densities(model, rvs, values | blanks)
    except (AttributeError, NotImplementedError) as error:
        if not graphs.converted:
            raise
        raise ModelError(
            f"the batch size that pm.Minibatch fixed in the model cannot be lifted ({error}); "
            "use dvi.Minibatch in its place"
        ) from error
    filled = graph_replace(list(logps.values()), {blank: values[rv] for rv, blank in blanks.items()}, strict=False)
    named = dict(zip(logps, _strip_wrappers(filled), strict=True))
    free = [Term(name, g, None, None) for name, g in named.items() if name not in data]
    observed = [Term(name, named[name], _unwrap(rvs[name])[1], data[name]) for name in data]
    transforms = {rv: model.rvs_to_transforms[model[name]] for name, rv in rvs.items()}
    potentials = graphs.potentials
    replaced = replace_rvs_by_values(list(potentials.values()), rvs_to_values=values, rvs_to_transforms=transforms)
    sizes = {p.name: getattr(p.tag, "dvi_total_size", None) for p in model.potentials}
    extra = [Term(n, g, sizes[n], None) for n, g in zip(potentials, _strip_wrappers(replaced), strict=True)]
    return free, observed + extra


def _graphs(model: pm.Model, replacements: Replacements) -> _Graphs:
    """Graphs of a model after its replacements, ``pm.Minibatch`` replaced by batches of dvi."""
    data = [model.rvs_to_values[rv] for rv in model.observed_RVs]
    graphs = rebuilt([*model.basic_RVs, *data, *model.potentials], replacements)
    conversions = convert_pymc_minibatches(graphs)
    graphs = rebuilt(graphs, conversions)
    n, m = len(model.basic_RVs), len(data)
    return _Graphs(
        {rv.name: g for rv, g in zip(model.basic_RVs, graphs[:n], strict=True)},
        {rv.name: g for rv, g in zip(model.observed_RVs, graphs[n : n + m], strict=True)},
        {p.name: g for p, g in zip(model.potentials, graphs[n + m :], strict=True)},
        bool(conversions),
    )


def _unwrap(rv: TensorLike) -> tuple[TensorLike, tuple[int | None, ...] | None]:
    """The random variable under PyMC's ``total_size`` wrapper, and the total sizes by axis."""
    if rv.owner is None or not isinstance(rv.owner.op, MinibatchRandomVariable):
        return rv, None
    inner, *sizes = rv.owner.inputs
    totals = tuple(None if NoneConst.equals(size) else int(value_of(size)) for size in sizes)
    for total in totals:
        if total is not None and total <= 0:
            raise ArgumentError(f"total_size={total} of {rv.name!r} is not positive; leave total_size out")
    return inner, totals


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


def refuse_batches(priors: list[Term]) -> None:
    """Refuse free variables that depend on a batch."""
    for term in priors:
        if bound_variables([term.logp]):
            raise ModelError(
                f"the free variable {term.name!r} depends on a Minibatch, so it would have other values for every "
                "batch; give each row's parameter through an index into a vector of fixed length"
            )


def batch_of(term: Term) -> Batch | None:
    """The batch that a term reaches, or None for a term that belongs to the prior."""
    reached = bound_variables([term.logp])
    batches = list(dict.fromkeys(bound.batch for v in reached if (bound := binding(v)) is not None))
    if not batches:
        return None
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
