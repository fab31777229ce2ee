"""Transforms of free variables as plain descriptions, and back, so that a saved approximation needs no model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
from pymc.distributions import transforms as tr
from pymc.logprob.transforms import IntervalTransform
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import graph_inputs

from dvi.model.constants import value_of
from dvi.model.layout import Transform

_PLAIN = {"log": tr.log, "logodds": tr.logodds, "ordered": tr.ordered, "simplex": tr.simplex, "circular": tr.circular}


def describe_transform(model: pm.Model, rv: Variable[Any, Any]) -> Transform:
    """What JSON can hold of the transform of a free variable; kind ``model`` where that is not enough."""
    transform = model.rvs_to_transforms[rv]
    if transform is None:
        return Transform("identity")
    if isinstance(transform, IntervalTransform):
        return _describe_interval(transform, rv)
    if _PLAIN.get(transform.name) is not None and type(transform) is type(_PLAIN[transform.name]):
        return Transform(transform.name)
    if isinstance(transform, tr.ZeroSumTransform):
        return Transform("zerosum", tuple(int(axis) for axis in transform.zerosum_axes))
    return Transform("model")


def _describe_interval(transform: IntervalTransform, rv: Variable[Any, Any]) -> Transform:
    bounds = []
    for bound in transform.args_fn(*rv.owner.inputs):
        if isinstance(bound, Variable):
            if any(not isinstance(v, Constant) for v in graph_inputs([bound])):
                return Transform("model")
            bound = value_of(bound)  # noqa: PLW2901
        if bound is not None and len(np.unique(bound)) != 1:
            return Transform("model")
        finite = bound is not None and bool(np.isfinite(bound).all())
        bounds.append(float(np.ravel(bound)[0]) if finite else None)
    return Transform("interval", tuple(bounds))


def build_transform(description: Transform) -> Any:
    """The PyMC transform of a description, or None for the identity."""
    if description.kind == "identity":
        return None
    if description.kind == "interval":
        return tr.Interval(*description.parameters)
    if description.kind == "zerosum":
        return tr.ZeroSumTransform(list(description.parameters))
    return _PLAIN[description.kind]
