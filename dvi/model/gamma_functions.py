"""The logarithm of the gamma function and its derivative as graphs of which a loop can do several rows at once.

Counts and positive numbers have them in their likelihoods, and the C library does one number after the other. Both are
taken at least at 8, by the recurrence ``gamma(x + 1) = x gamma(x)``, where a few terms of Stirling's series (NIST
Digital Library of Mathematical Functions, 5.11.1 and 5.11.2) have the precision of the numbers, and below 0 by
reflection (5.5.3 and 5.5.4).

Errors are below 2e-14, or 2e-15 of the value where that is more: near 1 and 2, where the logarithm of the gamma
function is 0, they are small beside 1, not beside the value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.graph.traversal import ancestors
from pytensor.scalar.math import GammaLn, Psi
from pytensor.tensor.elemwise import Elemwise

from dvi.model.vector_math import variants

_SHIFT = 8
_LARGEST = np.float64(2.5563e305)  # of which the logarithm of the gamma function is a number
_LOG_GAMMA = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_PSI = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160)
_SINE = tuple((-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(12))


def gammaln(x: Any) -> Any:
    """``log(abs(gamma(x)))``."""
    below, y, low, z, w = _shifted(x)
    product, _ = _product(y)
    at_z = (z - 0.5) * pt.log(z) - z + 0.5 * math.log(2 * math.pi) + w * _horner(_LOG_GAMMA, w * w)
    rest = pt.log(pt.switch(low, product, 1.0) / pt.switch(below, _sine(abs(_to_integer(x))), 1.0))
    found = pt.switch(below, math.log(math.pi) - at_z + rest, at_z - rest)
    return pt.switch(pt.ge(abs(x), _LARGEST), np.inf, found)


def psi(x: Any) -> Any:
    """The derivative of ``log(gamma(x))``; NaN at integers below 0."""
    below, y, low, z, w = _shifted(x)
    product, slope = _product(y)
    at_z = pt.log(z) - 0.5 * w - w * w * _horner(_PSI, w * w)
    found = at_z - pt.switch(low, slope, 0.0) / pt.switch(low, product, 1.0)
    r = _to_integer(x)
    cotangent = _sine(0.5 - abs(r)) / pt.switch(pt.eq(r, 0.0), np.nan, _sine(r))
    return pt.switch(below, found - math.pi * cotangent, found)


def _shifted(x: Any) -> tuple[Any, ...]:
    """Whether ``x`` is below 0, its reflection then, whether that is low, what it is shifted to then, and 1 over it."""
    below = pt.lt(x, 0.0)
    y = pt.switch(below, 1.0 - x, x)
    low = pt.lt(y, float(_SHIFT))
    z = pt.switch(low, y + float(_SHIFT), y)
    return below, y, low, z, 1.0 / z


def _product(x: Any) -> tuple[Any, Any]:
    """``x (x + 1) ... (x + 7)``, and its derivative."""
    product, slope = x, pt.ones_like(x)
    for k in range(1, _SHIFT):
        slope = slope * (x + float(k)) + product
        product = product * (x + float(k))
    return product, slope


def _horner(coefficients: Sequence[float], v: Any) -> Any:
    """A polynomial, the constant first."""
    return reduce(lambda found, c: found * v + c, reversed(coefficients[:-1]), coefficients[-1])


def _to_integer(x: Any) -> Any:
    """How far ``x`` is from the integer next to it."""
    return x - pt.floor(x + 0.5)


def _sine(r: Any) -> Any:
    """``sin(pi r)``, of ``r`` from a half below 0 to a half."""
    return r * _horner(_SINE, r * r)


def _graph(node: Any) -> Any:
    """What makes the graph of a function of rows, in double precision; None for others."""
    if not isinstance(node.op, Elemwise) or all(node.inputs[0].type.broadcastable):
        return None
    double = node.outputs[0].type.dtype == "float64" and variants("log")
    return {GammaLn: gammaln, Psi: psi}.get(type(node.op.scalar_op)) if double else None


def has_gamma_functions(outputs: Sequence[Any]) -> bool:
    """Whether there is one of them in a graph, of rows."""
    return any(_graph(v.owner) is not None for v in ancestors(outputs) if v.owner is not None)


@node_rewriter([Elemwise])  # type: ignore[untyped-decorator]
def of_simple_functions(fgraph: Any, node: Any) -> Any:
    """Both functions to their graphs."""
    graph = _graph(node)
    return None if graph is None else [graph(node.inputs[0].astype("float64"))]
