"""Graphs rebuilt with some of their nodes replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph.basic import Variable, clone_get_equiv
from pytensor.graph.traversal import ancestors

from dvi.errors import ArgumentError, ArgumentTypeError, ModelError

type Replacements = Mapping[Variable[Any, Any], Variable[Any, Any]]


def check_replacements(model: pm.Model, more_replacements: object) -> dict[Variable[Any, Any], Variable[Any, Any]]:
    """Return ``more_replacements`` with graphs for values, or say what is wrong with it.

    Parameters
    ----------
    model : pm.Model
    more_replacements : mapping or None
        From nodes of the model's graph, other than its random variables, to variables or values of the same number of
        dimensions.

    Raises
    ------
    ArgumentError, ArgumentTypeError, ModelError
        For a key that is not in the graph or is a random variable of the model, and for a value of another kind.
    """
    if more_replacements is None:
        return {}
    if not isinstance(more_replacements, Mapping):
        raise ArgumentTypeError(
            f"more_replacements is of type {type(more_replacements).__name__}; give a dict from variables of the "
            "model's graph to what stands in their place"
        )
    known = set(ancestors(_graphs_of(model)))
    for old in more_replacements:
        _check_key(model, old, known)
    checked = {old: _value(old, new) for old, new in more_replacements.items()}
    _refuse_chains(checked)
    return checked


def _graphs_of(model: pm.Model) -> list[Variable[Any, Any]]:
    data = [model.rvs_to_values[rv] for rv in model.observed_RVs]
    return [*model.basic_RVs, *data, *model.deterministics, *model.potentials]


def _check_key(model: pm.Model, old: object, known: set[Variable[Any, Any]]) -> None:
    if not isinstance(old, Variable):
        raise ArgumentTypeError(
            f"more_replacements has the key {old!r} of type {type(old).__name__}; give the variable itself, for "
            "instance model['name']"
        )
    if old in model.basic_RVs:
        raise ModelError(
            f"more_replacements has the random variable {old.name!r} of the model as a key; only what it depends on "
            "can be replaced here; use pm.do or pm.observe to make another model"
        )
    if old not in known:
        raise ArgumentError(
            f"more_replacements has the key {old!r}, which is not in the graph of the model; give a variable that "
            f"its random variables, deterministics or potentials depend on"
        )


def _value(old: Any, new: object) -> Any:
    """The graph of a new value, of the number of dimensions and the dtype of the old one."""
    try:
        graph = pt.as_tensor(new)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ArgumentTypeError(
            f"more_replacements has a value of type {type(new).__name__} for {old!r}; give a variable or an array"
        ) from error
    if graph.type.ndim != old.type.ndim or not np.can_cast(graph.dtype, old.dtype, "same_kind"):
        raise ArgumentError(
            f"more_replacements has a value of {graph.type.ndim} dimensions and dtype {graph.dtype} for {old!r} of "
            f"{old.type.ndim} dimensions and dtype {old.dtype}; give one of as many dimensions and of that kind"
        )
    return graph if graph.dtype == old.dtype else graph.astype(old.dtype)


def _refuse_chains(replacements: Replacements) -> None:
    """Refuse values that depend on another key: which of the two comes first would matter."""
    for old, new in replacements.items():
        others = [key for key in ancestors([new]) if key in replacements and key is not old and key is not new]
        if others:
            raise ArgumentError(
                f"more_replacements has for {old!r} a value that depends on {others[0]!r}, which is replaced itself; "
                "write the value with what stands in its place"
            )


def rebuilt(graphs: Sequence[Variable[Any, Any]], replacements: Replacements) -> list[Variable[Any, Any]]:
    """Graphs with some nodes replaced, all other nodes made anew.

    Rebuilt rather than patched, because PyTensor infers fixed shapes from what it replaces. The new values may depend
    on the nodes they stand for, and on other nodes of the graphs.
    """
    if not replacements:
        return list(graphs)
    plain = {"copy_inputs": False, "copy_orphans": False, "strict": False}
    memo: dict[Any, Any] = clone_get_equiv([], list(replacements.values()), memo={}, **plain)
    new = {key: value if value.owner is None else memo[value] for key, value in replacements.items()}
    equivalents = clone_get_equiv(list(new), list(graphs), memo=memo | new, **plain)
    return [equivalents[graph] for graph in graphs]
