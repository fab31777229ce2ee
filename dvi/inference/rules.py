r"""The arithmetic of first-order optimizers: one frozen dataclass of settings and two pure functions each.

Every rule is elementwise. Equations, references and defaults are with the functions of the same name in
:mod:`dvi.inference.optimizers`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from dvi.compiled import compiled
from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference.schedules import Live, Schedule
from dvi.inference.settings import count, decay, positive, settle
from dvi.types import FloatArray

type LearningRate = float | Schedule
type State = tuple[FloatArray, ...]


def check_learning_rate(value: Any) -> LearningRate:
    """Return a float, or a schedule; the rule of what a learning rate may be.

    A number, a 0-d array, a function of the step, or a variable with ``get_value``, which becomes a
    :class:`~dvi.inference.schedules.Live` schedule.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if hasattr(value, "get_value") and not isinstance(value, type):
        return Live(value)
    if not callable(value):
        return positive("learning_rate", value)
    if isinstance(value, type):
        raise ArgumentTypeError(f"learning_rate = {value!r} is a class. Pass an instance: {value.__name__}(...).")
    first = value(0)
    if isinstance(first, bool) or not isinstance(first, Real) or not 0.0 <= float(first) < math.inf:
        raise ArgumentError(
            f"learning_rate(0) = {first!r} is not allowed. Pass a schedule that returns a finite float, at least 0."
        )
    schedule: Schedule = value
    return schedule


def check_settings(settings: Any) -> None:
    """Check and normalise every field of an optimizer; this is the rule of what each setting may be."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        checked: object
        match field.name:
            case "learning_rate":
                checked = check_learning_rate(value)
            case "epsilon":
                checked = positive("epsilon", value)
            case "n_win":
                checked = count("n_win", value, least=1)
            case _:
                checked = decay(field.name, value)
        settle(settings, **{field.name: checked})


def _rate(learning_rate: LearningRate, step: int, scale: float) -> float:
    return scale * (learning_rate if isinstance(learning_rate, float) else learning_rate(step))


def _descend(theta: FloatArray, rate: float, gradient: FloatArray, squares: FloatArray, epsilon: float) -> FloatArray:
    r"""Return :math:`\theta - \eta g / \sqrt{s + \epsilon}` for accumulated ``squares`` :math:`s`, all ``(p,)``."""
    out = squares + epsilon
    np.sqrt(out, out=out)
    np.divide(gradient, out, out=out)
    out *= rate
    np.subtract(theta, out, out=out)
    return out


def _blend(weight: float, old: FloatArray, new: FloatArray, scratch: FloatArray) -> FloatArray:
    """Return ``weight * old + (1 - weight) * new``, ``(p,)``. It overwrites ``scratch``, which may be ``new``."""
    out = weight * old
    np.multiply(new, 1.0 - weight, out=scratch)
    out += scratch
    return out


@dataclass(frozen=True, slots=True)
class Sgd:
    """Settings of :func:`sgd`. It has no state."""

    learning_rate: LearningRate

    def __post_init__(self) -> None:
        check_settings(self)

    def init(self, theta: FloatArray) -> State:
        return ()

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        out = _rate(self.learning_rate, step, scale) * gradient
        np.subtract(theta, out, out=out)
        return out, ()


@dataclass(frozen=True, slots=True)
class Momentum:
    """Settings of :func:`momentum`. Its state is the velocity ``(p,)``."""

    learning_rate: LearningRate
    momentum: float

    def __post_init__(self) -> None:
        check_settings(self)

    def init(self, theta: FloatArray) -> State:
        return (np.zeros_like(theta),)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        out = _rate(self.learning_rate, step, scale) * gradient
        velocity = self.momentum * state[0]
        velocity -= out
        np.add(theta, velocity, out=out)
        return out, (velocity,)


@dataclass(frozen=True, slots=True)
class NesterovMomentum:
    """Settings of :func:`nesterov_momentum`. Its state is the velocity ``(p,)``."""

    learning_rate: LearningRate
    momentum: float

    def __post_init__(self) -> None:
        check_settings(self)

    def init(self, theta: FloatArray) -> State:
        return (np.zeros_like(theta),)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        out = _rate(self.learning_rate, step, scale) * gradient
        velocity = self.momentum * state[0]
        velocity -= out
        np.subtract(theta, out, out=out)
        out += self.momentum * velocity
        return out, (velocity,)


@dataclass(frozen=True, slots=True)
class Adagrad:
    """Settings of :func:`adagrad`. Its state is the sum of squared gradients ``(p,)``."""

    learning_rate: LearningRate
    epsilon: float

    def __post_init__(self) -> None:
        check_settings(self)

    def init(self, theta: FloatArray) -> State:
        return (np.zeros_like(theta),)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        squares = gradient * gradient
        squares += state[0]
        return _descend(theta, _rate(self.learning_rate, step, scale), gradient, squares, self.epsilon), (squares,)


@dataclass(frozen=True, slots=True)
class AdagradWindow:
    """Settings of :func:`adagrad_window`.

    Its state is ``n_win + 1`` arrays ``(p,)``, which the next state shares where they do not change. The steps are cut
    into groups of ``n_win``. The first array is the sum of squared gradients of the present group so far; of the
    others, number ``j`` is the squared gradient ``j`` of the present group where it has been seen, and otherwise the
    sum of those from ``j`` on of the group before. So a window is a sum of two arrays, whatever its length.

    References
    ----------
    Tangwongsan, Hirzel, Schneider and Wu, *General incremental sliding-window aggregation*,
    doi:10.14778/2752939.2752940.
    """

    learning_rate: LearningRate
    epsilon: float
    n_win: int

    def __post_init__(self) -> None:
        check_settings(self)

    def init(self, theta: FloatArray) -> State:
        return (np.zeros_like(theta),) * (self.n_win + 1)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        total, *slots = state
        j = step % self.n_win
        slots[j] = gradient * gradient
        total = total + slots[j] if j else slots[j]
        squares = total
        if j + 1 < self.n_win:
            squares = total + slots[j + 1]
        else:
            for i in reversed(range(j)):
                slots[i] = slots[i] + slots[i + 1]
        theta = _descend(theta, _rate(self.learning_rate, step, scale), gradient, squares, self.epsilon)
        return theta, (total, *slots)


@dataclass(frozen=True, slots=True)
class RmsProp:
    """Settings of :func:`rmsprop`. Its state is the running mean ``(p,)`` of squared gradients."""

    learning_rate: LearningRate
    rho: float
    epsilon: float

    def __post_init__(self) -> None:
        check_settings(self)

    def init(self, theta: FloatArray) -> State:
        return (np.zeros_like(theta),)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        squares = gradient * gradient
        squares = _blend(self.rho, state[0], squares, squares)
        return _descend(theta, _rate(self.learning_rate, step, scale), gradient, squares, self.epsilon), (squares,)


@dataclass(frozen=True, slots=True)
class Adadelta:
    """Settings of :func:`adadelta`. Its state is running means ``(p,)`` of squared gradients and of squared moves."""

    learning_rate: LearningRate
    rho: float
    epsilon: float

    def __post_init__(self) -> None:
        check_settings(self)

    def init(self, theta: FloatArray) -> State:
        return np.zeros_like(theta), np.zeros_like(theta)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        old_squares, old_moves = state
        scratch = gradient * gradient
        squares = _blend(self.rho, old_squares, scratch, scratch)
        np.add(squares, self.epsilon, out=scratch)
        move = old_moves + self.epsilon
        move /= scratch
        np.sqrt(move, out=move)
        move *= gradient
        moves = _blend(self.rho, old_moves, np.multiply(move, move, out=scratch), scratch)
        move *= _rate(self.learning_rate, step, scale)
        np.subtract(theta, move, out=move)
        return move, (squares, moves)


@dataclass(frozen=True, slots=True)
class Adam:
    """Settings of :func:`adam`. Its state is the running means ``(p,)`` of gradients and of squared gradients."""

    learning_rate: LearningRate
    beta1: float
    beta2: float
    epsilon: float

    def __post_init__(self) -> None:
        check_settings(self)

    def init(self, theta: FloatArray) -> State:
        return np.zeros_like(theta), np.zeros_like(theta)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        unbias = math.sqrt(1.0 - self.beta2 ** (step + 1)) / (1.0 - self.beta1 ** (step + 1))
        rate = _rate(self.learning_rate, step, scale) * unbias
        out, mean, squares = np.empty_like(theta), np.empty_like(theta), np.empty_like(theta)
        _adam(theta, gradient, state[0], state[1], self.beta1, self.beta2, self.epsilon, rate, out, mean, squares)
        return out, (mean, squares)


@compiled
def _adam(
    theta: FloatArray, gradient: FloatArray, mean: FloatArray, squares: FloatArray,
    beta1: float, beta2: float, epsilon: float, rate: float,
    theta_out: FloatArray, mean_out: FloatArray, squares_out: FloatArray,
) -> None:  # fmt: skip
    for i in range(theta.size):
        g = gradient[i]
        m = beta1 * mean[i] + (1.0 - beta1) * g
        s = beta2 * squares[i] + (1.0 - beta2) * (g * g)
        mean_out[i], squares_out[i] = m, s
        theta_out[i] = theta[i] - rate * (m / (math.sqrt(s) + epsilon))


@dataclass(frozen=True, slots=True)
class Adamax:
    """Settings of :func:`adamax`. Its state is the running mean and the decayed maximum ``(p,)`` of gradients."""

    learning_rate: LearningRate
    beta1: float
    beta2: float
    epsilon: float

    def __post_init__(self) -> None:
        check_settings(self)

    def init(self, theta: FloatArray) -> State:
        return np.zeros_like(theta), np.zeros_like(theta)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: State, scale: float = 1.0
    ) -> tuple[FloatArray, State]:
        out = np.abs(gradient)
        largest = self.beta2 * state[1]
        np.maximum(largest, out, out=largest)
        mean = _blend(self.beta1, state[0], gradient, out)
        np.add(largest, self.epsilon, out=out)
        np.divide(mean, out, out=out)
        out *= _rate(self.learning_rate, step, scale) / (1.0 - self.beta1 ** (step + 1))
        np.subtract(theta, out, out=out)
        return out, (mean, largest)
