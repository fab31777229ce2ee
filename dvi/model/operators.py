"""What a family computes as operators of a PyTensor graph, in whatever mode the graph is compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, grad_not_implemented
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import generate_fallback_impl, register_funcify_and_cache_key

from dvi.errors import ArgumentError
from dvi.types import AnyArray, Family, FloatArray

type Storage = list[list[AnyArray | None]]


class NumpyOp(Op):  # type: ignore[misc]
    """An operator that NumPy computes."""

    def __str__(self) -> str:
        return type(self).__name__


@register_funcify_and_cache_key(NumpyOp)  # type: ignore[untyped-decorator]
def _leave_numba(op: NumpyOp, node: Apply, **settings: Any) -> tuple[Callable[..., Any], None]:
    """Have numba call Python, as is meant here. There is nothing to cache."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Numba will use object mode", UserWarning)
        return generate_fallback_impl(op, node, **settings), None


class Draw(NumpyOp):
    """Draws ``Z (S, d)`` from ``theta (p,)`` and noise ``eps (S, noise_dim)``; the mean in place of each if asked."""

    __props__ = ("family",)

    def __init__(self, family: Family) -> None:
        self.family = family

    def make_node(self, theta: Any, eps: Any, deterministic: Any) -> Apply:
        inputs = [pt.as_tensor(theta), pt.as_tensor(eps), pt.as_tensor(deterministic)]
        shape = (inputs[1].type.shape[0], self.family.ndim)
        return Apply(self, inputs, [pt.matrix("draws", shape=shape, dtype="float64")])

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: Storage) -> None:
        theta, eps, deterministic = inputs
        Z = np.tile(self.family.mean(theta), (len(eps), 1)) if deterministic else self.family.draw(theta, eps)
        output_storage[0][0] = Z

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True], [True], [False]]

    def pullback(self, inputs: Sequence[Any], outputs: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        theta, eps, deterministic = inputs
        gradient = _DrawPullback(self.family)(theta, eps, deterministic, cotangents[0])
        return [gradient, grad_not_implemented(self, 1, eps), DisconnectedType()()]


class _DrawPullback(NumpyOp):
    """Gradient ``(p,)`` in theta of the sum of ``<v, draws>``."""

    __props__ = ("family",)

    def __init__(self, family: Family) -> None:
        self.family = family

    def make_node(self, theta: Any, eps: Any, deterministic: Any, v: Any) -> Apply:
        return Apply(self, [theta, eps, deterministic, pt.as_tensor(v)], [pt.vector("gradient", dtype="float64")])

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: Storage) -> None:
        theta, eps, deterministic, v = inputs
        if deterministic:
            eps = np.zeros_like(eps)
            if not np.allclose(self.family.draw(theta, eps[:1])[0], self.family.mean(theta)):
                raise ArgumentError(
                    f"the gradient of the mean of {type(self.family).__name__} is not known; "
                    "differentiate draws, with deterministic=False"
                )
        output_storage[0][0] = len(v) * self.family.pullback(theta, eps, np.asarray(v, dtype=np.float64))


class LogDensity(NumpyOp):
    """Log density ``(S,)`` of the draws that come of noise ``eps (S, noise_dim)``."""

    __props__ = ("family",)

    def __init__(self, family: Family) -> None:
        self.family = family

    def make_node(self, theta: Any, eps: Any) -> Apply:
        return Apply(self, [pt.as_tensor(theta), pt.as_tensor(eps)], [pt.vector("logq", dtype="float64")])

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: Storage) -> None:
        output_storage[0][0] = self.family.log_q(*inputs)


class LogJoint(NumpyOp):
    """Log joint density ``(S,)`` of the full data at unconstrained draws ``(S, d)``."""

    __props__ = ("evaluate",)

    def __init__(self, evaluate: Callable[[FloatArray], FloatArray]) -> None:
        self.evaluate = evaluate

    def make_node(self, Z: Variable[Any, Any]) -> Apply:
        return Apply(self, [pt.as_tensor(Z)], [pt.vector("logp", dtype="float64")])

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: Storage) -> None:
        output_storage[0][0] = self.evaluate(inputs[0])
