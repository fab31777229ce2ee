r"""Learning rates that depend on the step: frozen settings, called with the number of the step (from 0).

A constant step leaves the mean about two posterior standard deviations off, so that a long fit should either decay its
step, with one of these, or average its iterates (:mod:`dvi.inference.averaging`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference.plateau import ReduceOnPlateau
from dvi.inference.settings import count, decay, describe, fraction, not_negative, positive, rebuild, settle
from dvi.types import FloatArray

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Exponential",
    "Live",
    "ObservingSchedule",
    "OneCycle",
    "ReduceOnPlateau",
    "Schedule",
    "from_json",
    "observe",
    "start_rate",
    "to_json",
]


class Schedule(Protocol):
    """A pure function ``step -> learning rate``, finite and not negative."""

    def __call__(self, step: int, /) -> float: ...


@runtime_checkable
class ObservingSchedule(Protocol):
    """A schedule that is scaled by a factor which depends on the losses so far.

    What it remembers of them is a vector whose element 0 is the factor. It is passed in and returned.
    """

    def __call__(self, step: int, /) -> float: ...

    def init(self) -> FloatArray:
        """What it remembers before the first step; the factor is 1."""
        ...

    def observe(self, memory: FloatArray, loss: float) -> FloatArray:
        """What it remembers after one more step of a loss. No argument is written to."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    r"""The same learning rate at every step.

    Parameters
    ----------
    value : float
        Learning rate, above 0.

    Examples
    --------
    >>> Constant(0.01)(1_000)
    0.01
    """

    value: float

    def __post_init__(self) -> None:
        settle(self, value=positive("value", self.value))

    def __call__(self, step: int, /) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class Exponential:
    r"""Exponential decay, :math:`\eta_t = \eta_0 f^{t / n}`.

    Parameters
    ----------
    initial : float
        Learning rate :math:`\eta_0` of step 0, above 0.
    factor : float
        What is left of it, :math:`f`, above 0 and at most 1, after every ``steps`` steps.
    steps : int
        Number of steps :math:`n`, at least 1.

    Examples
    --------
    >>> rate = Exponential(0.1, factor=0.5, steps=1_000)
    >>> rate(0), rate(1_000), rate(3_000)
    (0.1, 0.05, 0.0125)
    """

    initial: float
    factor: float
    steps: int

    def __post_init__(self) -> None:
        settle(
            self,
            initial=positive("initial", self.initial),
            factor=fraction("factor", positive("factor", self.factor)),
            steps=count("steps", self.steps, least=1),
        )

    def __call__(self, step: int, /) -> float:
        return self.initial * float(self.factor ** (step / self.steps))


@dataclass(frozen=True, slots=True)
class Cosine:
    r"""Linear warm-up, then half a cosine down to a fraction of the peak, which is kept from there on.

    With :math:`w` steps of warm-up out of :math:`n` and the last fraction :math:`f`, step :math:`t` has

    .. math::

        \eta_t = \eta \begin{cases}
            (t + 1) / (w + 1) & t < w \\
            f + (1 - f) \, \tfrac{1}{2} \left(1 + \cos \pi \frac{t - w}{n - w}\right) & w \le t < n \\
            f & t \ge n. \end{cases}

    Parameters
    ----------
    peak : float
        Highest learning rate :math:`\eta`, above 0.
    steps : int
        Number of steps :math:`n` of the whole schedule, at least 1.
    warmup : int
        Number of steps :math:`w` of linear growth, below ``steps``.
    final : float
        Last learning rate as a fraction :math:`f` of the peak, from 0 to 1.

    References
    ----------
    Loshchilov and Hutter, *SGDR: Stochastic gradient descent with warm restarts*, arXiv:1608.03983.
    Goyal et al., *Accurate, large minibatch SGD*, arXiv:1706.02677, for the warm-up.

    Examples
    --------
    >>> rate = Cosine(0.1, steps=1_000, warmup=99, final=0.1)
    >>> [round(rate(step), 4) for step in (0, 49, 99, 1_000, 5_000)]
    [0.001, 0.05, 0.1, 0.01, 0.01]
    """

    peak: float
    steps: int
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        settle(
            self,
            peak=positive("peak", self.peak),
            steps=count("steps", self.steps, least=1),
            warmup=count("warmup", self.warmup, least=0),
            final=fraction("final", self.final),
        )
        if self.warmup >= self.steps:
            raise ArgumentError(f"warmup = {self.warmup} leaves no step to decay in. Pass fewer than {self.steps}.")

    def __call__(self, step: int, /) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        return self.peak * _half_cosine(1.0, self.final, (step - self.warmup) / (self.steps - self.warmup))


@dataclass(frozen=True, slots=True)
class OneCycle:
    r"""Half a cosine up to the peak and half a cosine down, far below the start: the one-cycle policy.

    With :math:`c(a, b, u) = b + (a - b) \tfrac{1}{2} (1 + \cos \pi u)`, :math:`n` steps and a rise of :math:`w = r n`,

    .. math::

        \eta_t = \eta \begin{cases}
            c(f_0, 1, t / w) & t < w \\
            c(1, f_1, (t - w) / (n - w)) & w \le t < n \\
            f_1 & t \ge n. \end{cases}

    Parameters
    ----------
    peak : float
        Highest learning rate :math:`\eta`, above 0.
    steps : int
        Number of steps :math:`n` of the cycle, at least 1.
    rise : float
        Fraction :math:`r` of the steps that climb to the peak, from 0 to below 1.
    initial, final : float
        First and last learning rate as fractions :math:`f_0`, :math:`f_1` of the peak, from 0 to 1.

    References
    ----------
    Smith and Topin, *Super-convergence: very fast training of neural networks using large learning rates*,
    arXiv:1708.07120.

    Examples
    --------
    >>> rate = OneCycle(0.1, steps=1_000)
    >>> [round(rate(step), 5) for step in (0, 300, 1_000, 2_000)]
    [0.004, 0.1, 1e-05, 1e-05]
    """

    peak: float
    steps: int
    rise: float = 0.3
    initial: float = 0.04
    final: float = 1e-4

    def __post_init__(self) -> None:
        settle(
            self,
            peak=positive("peak", self.peak),
            steps=count("steps", self.steps, least=1),
            rise=decay("rise", self.rise),
            initial=fraction("initial", self.initial),
            final=fraction("final", self.final),
        )

    def __call__(self, step: int, /) -> float:
        top = self.rise * self.steps
        if step < top:
            return self.peak * _half_cosine(self.initial, 1.0, step / top)
        return self.peak * _half_cosine(1.0, self.final, (step - top) / (self.steps - top))


def _half_cosine(start: float, stop: float, part: float) -> float:
    """From ``start`` at ``part = 0`` to ``stop`` at ``part = 1`` and after it, flat at both ends."""
    return stop + (start - stop) * 0.5 * (1.0 + math.cos(math.pi * min(part, 1.0)))


class Variable(Protocol):
    """What holds a number that changes, such as a PyTensor shared variable."""

    def get_value(self) -> Any: ...


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """The learning rate that a variable holds now.

    The one schedule that is not a function of the step: a loop that runs steps elsewhere reads it between them, see
    :func:`dvi.inference.optimizers.take_live`.

    Parameters
    ----------
    variable : object with ``get_value``
        For instance a PyTensor shared scalar, above 0 at first and at least 0 later.

    Examples
    --------
    >>> import pytensor
    >>> variable = pytensor.shared(0.1)
    >>> rate = Live(variable)
    >>> variable.set_value(0.01)
    >>> rate(0)
    0.01
    """

    variable: Variable

    def __post_init__(self) -> None:
        positive("learning_rate", self._value())

    def __call__(self, step: int = 0, /) -> float:
        return not_negative("learning_rate", self._value())

    def _value(self) -> object:
        value = np.asarray(self.variable.get_value())
        if value.ndim:
            raise ArgumentTypeError(
                f"learning_rate is a variable of shape {value.shape}. Pass one that holds a number."
            )
        return value.item()


def start_rate(learning_rate: object) -> FloatArray:
    """What is remembered of a learning rate before the first step; element 0 is the factor on it, 1.

    Examples
    --------
    >>> start_rate(0.1)
    array([1.])
    """
    return learning_rate.init() if isinstance(learning_rate, ObservingSchedule) else np.ones(1)


def observe(learning_rate: object, rate: FloatArray, loss: float) -> FloatArray:
    """What is remembered after one more step; the rule for when the losses change the learning rate.

    Parameters
    ----------
    learning_rate : float or Schedule
        Of an optimizer.
    rate : array
        What :func:`start_rate` or the call for the step before returned. It is returned as it is unless the learning
        rate is an :class:`ObservingSchedule`.
    loss : float
        Of the step just done.

    Examples
    --------
    >>> observe(0.1, start_rate(0.1), loss=3.0)
    array([1.])
    """
    return learning_rate.observe(rate, loss) if isinstance(learning_rate, ObservingSchedule) else rate


SCHEDULES: Mapping[str, type[Schedule]] = {
    "constant": Constant,
    "exponential": Exponential,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "reduce_on_plateau": ReduceOnPlateau,
}


def to_json(schedule: Schedule) -> dict[str, Any]:
    """Name and settings of a schedule as JSON-able values; the inverse of :func:`from_json`.

    Examples
    --------
    >>> to_json(Constant(0.01))
    {'name': 'constant', 'value': 0.01}
    """
    return describe(schedule, SCHEDULES, "a schedule")


def from_json(record: Any) -> Schedule:
    """The schedule that :func:`to_json` described.

    Examples
    --------
    >>> from_json({"name": "cosine", "peak": 0.1, "steps": 100})
    Cosine(peak=0.1, steps=100, warmup=0, final=0.0)
    """
    return rebuild(record, SCHEDULES, "a schedule")
