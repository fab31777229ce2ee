"""The scale of a term of the log density: how many values of the full data those of a batch stand for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.elemwise import DimShuffle, Elemwise

from dvi.errors import DviWarning, ModelError
from dvi.model.batch import Batch, binding, bound_variables

type TensorLike = Variable[Any, Any]


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of the joint log density. ``total_size`` is as given to PyMC, None where it was left out."""

    name: str
    logp: TensorLike  # not yet summed
    total_size: tuple[int | None, ...] | None
    value: TensorLike | None  # of an observed variable

    @property
    def subject(self) -> TensorLike:
        """What ``total_size`` counts the elements of: the observed value, or a potential itself."""
        return self.logp if self.value is None else self.value


def prior_sum(term: Term) -> TensorLike:
    """Sum of a term without batches, with the scale that ``total_size`` asks for."""
    factor: Any = 1.0
    for axis, size in enumerate(term.total_size or ()):
        present = term.subject.type.shape[axis]
        if size is None:
            continue
        if present is None:
            factor = factor * (size / term.subject.shape[axis].astype("float64"))
        elif size != present:
            factor = factor * (size / present)
    return _scaled(term, factor)


def data_sum(term: Term, batch: Batch) -> TensorLike:
    """Sum of a term over what a batch takes, on the scale of the full data but for the rows.

    The rule: the rows are scaled where they are read. Along an axis of which a step takes ``b_k`` of ``N_k`` elements
    the scale is ``N_k / b_k``. Along the others it is 1. A ``total_size`` that contradicts the array is honoured, with
    a warning.
    """
    picked = picked_axes(term.subject) if batch.picks.axes else {}
    _check_picked(term, picked)
    sizes = dict(enumerate(term.total_size or ()))
    factor: Any = 1.0
    for axis in range(term.subject.type.ndim):
        static = term.subject.type.shape[axis]
        full = batch.source.n_rows if axis == 0 else picked.get(axis, static)
        size = full if sizes.get(axis) is None else sizes[axis]
        present = full if axis == 0 else static
        if size is None:
            continue
        if present is None:
            factor = factor * (size / term.subject.shape[axis].astype("float64"))
            continue
        if size != present:
            factor = factor * (size / present)
        if size != full:
            _warn_contradiction(term.name, axis, size, full)
    return _scaled(term, factor)


def _scaled(term: Term, factor: Any) -> TensorLike:
    total = pt.sum(term.logp, dtype="float64")
    return total if isinstance(factor, float) and factor == 1.0 else total * factor


def _warn_contradiction(name: str, axis: int, size: int, full: int) -> None:
    what = "rows" if axis == 0 else f"elements along axis {axis}"
    warnings.warn(
        f"total_size={size} of {name!r} contradicts its array, which has {full} {what}; the likelihood is scaled to "
        f"{size} as asked; leave total_size out to use {full}",
        DviWarning,
        stacklevel=2,
    )


def picked_axes(graph: TensorLike, known: dict[TensorLike, dict[int, int]] | None = None) -> Mapping[int, int]:
    """Axes of a graph along which its elements are those that a step takes of a longer axis, with its length.

    Known of a Minibatch variable, and of what is computed from one element by element.
    """
    known = {} if known is None else known
    if graph not in known:
        known[graph] = dict(_picked_axes(graph, known))
    return known[graph]


def _picked_axes(graph: TensorLike, known: dict[TensorLike, dict[int, int]]) -> Mapping[int, int]:
    bound = binding(graph)
    if bound is not None:
        picks = bound.batch.picks
        return {a: n for a, n in zip(picks.axes, picks.lengths, strict=True) if a < graph.type.ndim}
    if graph.owner is None:
        return {}
    inputs: Sequence[TensorLike] = graph.owner.inputs
    if isinstance(graph.owner.op, Elemwise):
        found = [(axis, n) for one in inputs for axis, n in picked_axes(one, known).items()]
        return {axis: n for axis, n in found if graph.type.shape[axis] != 1}
    if isinstance(graph.owner.op, DimShuffle):
        inner = picked_axes(inputs[0], known)
        return {axis: inner[old] for axis, old in enumerate(graph.owner.op.new_order) if old in inner}
    return {}


def _check_picked(term: Term, picked: Mapping[int, int]) -> None:
    """Refuse or warn where the picked elements do not add up to the full axis, so that no scale is right."""
    joint = [axis for axis in picked if term.value is not None and axis >= term.logp.type.ndim]
    if joint:
        raise ModelError(
            f"{term.name!r} has one density for all elements along axis {joint[0]}, of which batch_size takes a part, "
            "so it cannot be scaled; give None for that axis in batch_size"
        )
    for variable in bound_variables([term.logp]):
        for axis, length in picked_axes(variable).items():
            named = term.total_size is not None and len(term.total_size) > axis and term.total_size[axis] is not None
            if axis not in picked and not named:
                warnings.warn(
                    f"the log density of {term.name!r} uses {variable.type.shape[axis]} of the {length} elements of "
                    f"{variable.name!r} along axis {axis} but has no such axis itself, so it is not scaled and its "
                    "gradient is biased unless it is linear in them; give None for that axis in batch_size, or "
                    "total_size=",
                    DviWarning,
                    stacklevel=2,
                )
