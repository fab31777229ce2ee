"""Momentum on top of another optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dvi.errors import ArgumentTypeError
from dvi.inference.rules import LearningRate, State
from dvi.inference.settings import decay, settle
from dvi.types import FloatArray, Optimizer


def apply_momentum(optimizer: Optimizer, momentum: float = 0.9) -> ApplyMomentum:
    r"""Momentum on top of another rule, :math:`v \leftarrow m v + u(\theta) - \theta,\; \theta \leftarrow \theta + v`.

    Where PyMC's function of this name takes the updates of a rule, this one takes the rule :math:`u` itself.

    Parameters
    ----------
    optimizer : Optimizer
    momentum : float
        Part :math:`m` of the velocity that a step keeps, in [0, 1).

    References
    ----------
    Polyak, *Some methods of speeding up the convergence of iteration methods*, doi:10.1016/0041-5553(64)90137-5.

    Examples
    --------
    >>> import dvi
    >>> apply_momentum(dvi.rmsprop(0.01))
    ApplyMomentum(optimizer=RmsProp(learning_rate=0.01, rho=0.9, epsilon=1e-06), momentum=0.9)
    """
    return ApplyMomentum(optimizer, momentum)


def apply_nesterov_momentum(optimizer: Optimizer, momentum: float = 0.9) -> ApplyNesterovMomentum:
    r"""Nesterov's momentum on another rule.

    .. math::

        v \leftarrow m v + u(\theta) - \theta, \quad \theta \leftarrow m v + u(\theta)

    Parameters
    ----------
    optimizer : Optimizer
        The rule :math:`u`.
    momentum : float
        Part :math:`m` of the velocity that a step keeps, in [0, 1).

    References
    ----------
    Bengio, Boulanger-Lewandowski and Pascanu, *Advances in optimizing recurrent networks*, arXiv:1212.0901.

    Examples
    --------
    >>> import dvi
    >>> apply_nesterov_momentum(dvi.sgd(0.1), momentum=0.5).learning_rate
    0.1
    """
    return ApplyNesterovMomentum(optimizer, momentum)


@dataclass(frozen=True, slots=True)
class ApplyMomentum:
    """Settings of :func:`apply_momentum`. Its state is the velocity ``(p,)`` and after it that of the optimizer."""

    optimizer: Optimizer
    momentum: float

    def __post_init__(self) -> None:
        _check(self, self.optimizer, self.momentum)

    @property
    def learning_rate(self) -> LearningRate | None:
        """Of the optimizer."""
        return getattr(self.optimizer, "learning_rate", None)

    def init(self, theta: FloatArray) -> State:
        return (np.zeros_like(theta), *self.optimizer.init(theta))

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        updated, inner = self.optimizer.update(step, theta, gradient, state[1:], scale)
        velocity = self.momentum * state[0]
        velocity += updated - theta
        return theta + velocity, (velocity, *inner)


@dataclass(frozen=True, slots=True)
class ApplyNesterovMomentum:
    """Settings of :func:`apply_nesterov_momentum`. Its state is that of :class:`ApplyMomentum`."""

    optimizer: Optimizer
    momentum: float

    def __post_init__(self) -> None:
        _check(self, self.optimizer, self.momentum)

    @property
    def learning_rate(self) -> LearningRate | None:
        """Of the optimizer."""
        return getattr(self.optimizer, "learning_rate", None)

    def init(self, theta: FloatArray) -> State:
        return (np.zeros_like(theta), *self.optimizer.init(theta))

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        updated, inner = self.optimizer.update(step, theta, gradient, state[1:], scale)
        velocity = self.momentum * state[0]
        velocity += updated - theta
        return self.momentum * velocity + updated, (velocity, *inner)


def _check(settings: object, optimizer: object, momentum: float) -> None:
    if isinstance(optimizer, type) or not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ArgumentTypeError(
            f"optimizer = {optimizer!r} is not an optimizer. Pass one such as dvi.sgd(learning_rate=0.01)."
        )
    settle(settings, momentum=decay("momentum", momentum))
