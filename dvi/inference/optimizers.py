r"""First-order optimizers with PyMC's names, defaults and arithmetic; the settings they return are in ``rules.py``.

Notation: :math:`\theta` parameters ``(p,)``, :math:`g` gradient ``(p,)`` of the loss, :math:`\eta` learning rate,
:math:`\epsilon` a small number that keeps denominators from vanishing, :math:`t` the step, counted from 0. Every rule
is elementwise, so that one flat vector gives what PyMC gives tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dvi.inference import schedules
from dvi.inference.extra_momentum import (
    ApplyMomentum,
    ApplyNesterovMomentum,
    apply_momentum,
    apply_nesterov_momentum,
)
from dvi.inference.norms import norm_constraint, total_norm_constraint
from dvi.inference.rules import (
    Adadelta,
    Adagrad,
    AdagradWindow,
    Adam,
    Adamax,
    LearningRate,
    Momentum,
    NesterovMomentum,
    RmsProp,
    Sgd,
    check_learning_rate,
)
from dvi.inference.settings import describe, rebuild
from dvi.types import Optimizer

__all__ = [
    "OPTIMIZERS",
    "adadelta",
    "adagrad",
    "adagrad_window",
    "adam",
    "adamax",
    "apply_momentum",
    "apply_nesterov_momentum",
    "from_json",
    "learning_rate_of",
    "momentum",
    "nesterov_momentum",
    "norm_constraint",
    "rmsprop",
    "sgd",
    "take_live",
    "to_json",
    "total_norm_constraint",
    "with_learning_rate",
]


def sgd(learning_rate: LearningRate = 1e-3) -> Sgd:
    r"""Stochastic gradient descent, :math:`\theta \leftarrow \theta - \eta g`.

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate :math:`\eta`, above 0; or a function of the step, such as those of :mod:`dvi.inference.schedules`.

    References
    ----------
    Robbins and Monro, *A stochastic approximation method*, doi:10.1214/aoms/1177729586.

    Examples
    --------
    >>> import numpy as np
    >>> sgd(0.5).update(0, np.array([1.0]), np.array([1.0]), ())
    (array([0.5]), ())
    """
    return Sgd(learning_rate)


def momentum(learning_rate: LearningRate = 1e-3, momentum: float = 0.9) -> Momentum:
    r"""Gradient descent with momentum, :math:`v \leftarrow m v - \eta g,\; \theta \leftarrow \theta + v`.

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate :math:`\eta`, above 0, or a function of the step.
    momentum : float
        Part :math:`m` of the velocity that a step keeps, in [0, 1). Steps grow to :math:`1 / (1 - m)` times their size.

    References
    ----------
    Polyak, *Some methods of speeding up the convergence of iteration methods*, doi:10.1016/0041-5553(64)90137-5.

    Examples
    --------
    >>> momentum(0.1)
    Momentum(learning_rate=0.1, momentum=0.9)
    """
    return Momentum(learning_rate, momentum)


def nesterov_momentum(learning_rate: LearningRate = 1e-3, momentum: float = 0.9) -> NesterovMomentum:
    r"""Nesterov's momentum, :math:`v \leftarrow m v - \eta g,\; \theta \leftarrow \theta + m v - \eta g`.

    This is the form that takes the gradient at the current parameters.

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate :math:`\eta`, above 0, or a function of the step.
    momentum : float
        Part :math:`m` of the velocity that a step keeps, in [0, 1).

    References
    ----------
    Bengio, Boulanger-Lewandowski and Pascanu, *Advances in optimizing recurrent networks*, arXiv:1212.0901.

    Examples
    --------
    >>> nesterov_momentum(0.1)
    NesterovMomentum(learning_rate=0.1, momentum=0.9)
    """
    return NesterovMomentum(learning_rate, momentum)


def adagrad(learning_rate: LearningRate = 1.0, epsilon: float = 1e-6) -> Adagrad:
    r"""Adagrad, :math:`s \leftarrow s + g^2,\; \theta \leftarrow \theta - \eta g / \sqrt{s + \epsilon}`.

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate :math:`\eta`, above 0, or a function of the step.
    epsilon : float
        Above 0, in units of the squared gradient.

    References
    ----------
    Duchi, Hazan and Singer, *Adaptive subgradient methods for online learning and stochastic optimization*,
    Journal of Machine Learning Research 12 (2011), 2121-2159.

    Examples
    --------
    >>> adagrad(0.1)
    Adagrad(learning_rate=0.1, epsilon=1e-06)
    """
    return Adagrad(learning_rate, epsilon)


def adagrad_window(learning_rate: LearningRate = 1e-3, epsilon: float = 0.1, n_win: int = 10) -> AdagradWindow:
    r"""Adagrad over a window, :math:`\theta \leftarrow \theta - \eta g_t / \sqrt{\sum_{i=t-n+1}^t g_i^2 + \epsilon}`.

    The default of PyMC's inference methods.

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate :math:`\eta`, above 0, or a function of the step.
    epsilon : float
        Above 0, in units of the squared gradient.
    n_win : int
        Number of gradients :math:`n` in the sum, the newest included, at least 1.

    References
    ----------
    Duchi, Hazan and Singer, as in :func:`adagrad`, for the sum without a window.

    Examples
    --------
    >>> adagrad_window(0.1, n_win=50)
    AdagradWindow(learning_rate=0.1, epsilon=0.1, n_win=50)
    """
    return AdagradWindow(learning_rate, epsilon, n_win)


def rmsprop(learning_rate: LearningRate = 1.0, rho: float = 0.9, epsilon: float = 1e-6) -> RmsProp:
    r"""RMSProp: a step in units of the running root mean square of the gradient.

    .. math::

        s \leftarrow \rho s + (1 - \rho) g^2, \quad
        \theta \leftarrow \theta - \eta g / \sqrt{s + \epsilon}

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate :math:`\eta`, above 0, or a function of the step.
    rho : float
        Part of the running mean of squared gradients that a step keeps, in [0, 1).
    epsilon : float
        Above 0, in units of the squared gradient.

    References
    ----------
    Tieleman and Hinton, *Neural networks for machine learning*, lecture 6.5 (2012); Graves, arXiv:1308.0850.

    Examples
    --------
    >>> rmsprop(0.01)
    RmsProp(learning_rate=0.01, rho=0.9, epsilon=1e-06)
    """
    return RmsProp(learning_rate, rho, epsilon)


def adadelta(learning_rate: LearningRate = 1.0, rho: float = 0.95, epsilon: float = 1e-6) -> Adadelta:
    r"""Adadelta: RMSProp with a step in the units of the parameters, from a running mean of squared moves.

    .. math::

        s \leftarrow \rho s + (1 - \rho) g^2, \quad
        u = g \sqrt{\frac{r + \epsilon}{s + \epsilon}}, \quad
        r \leftarrow \rho r + (1 - \rho) u^2, \quad
        \theta \leftarrow \theta - \eta u

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate :math:`\eta`, above 0, or a function of the step. The paper has none, which is 1.
    rho : float
        Part of the running means that a step keeps, in [0, 1).
    epsilon : float
        Above 0. It sets the size of the first moves.

    References
    ----------
    Zeiler, *ADADELTA: an adaptive learning rate method*, arXiv:1212.5701.

    Examples
    --------
    >>> adadelta()
    Adadelta(learning_rate=1.0, rho=0.95, epsilon=1e-06)
    """
    return Adadelta(learning_rate, rho, epsilon)


def adam(learning_rate: LearningRate = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Adam:
    r"""Adam: a running mean of gradients, in units of their running root mean square.

    .. math::

        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        s \leftarrow \beta_2 s + (1 - \beta_2) g^2, \quad
        \theta \leftarrow \theta - \eta \frac{\sqrt{1 - \beta_2^{t+1}}}{1 - \beta_1^{t+1}} \frac{m}{\sqrt{s} + \epsilon}

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate :math:`\eta`, above 0, or a function of the step.
    beta1, beta2 : float
        Parts of the running means that a step keeps, in [0, 1).
    epsilon : float
        Above 0, in units of the gradient.

    References
    ----------
    Kingma and Ba, *Adam: a method for stochastic optimization*, arXiv:1412.6980.

    Examples
    --------
    >>> adam(learning_rate=0.01)
    Adam(learning_rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-08)
    """
    return Adam(learning_rate, beta1, beta2, epsilon)


def adamax(
    learning_rate: LearningRate = 2e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> Adamax:
    r"""Adamax: a running mean of gradients, in units of their decayed maximum.

    .. math::

        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        u \leftarrow \max(\beta_2 u, |g|), \quad
        \theta \leftarrow \theta - \frac{\eta}{1 - \beta_1^{t+1}} \frac{m}{u + \epsilon}

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate :math:`\eta`, above 0, or a function of the step.
    beta1, beta2 : float
        Parts of the running mean and of the maximum that a step keeps, in [0, 1).
    epsilon : float
        Above 0, in units of the gradient.

    References
    ----------
    Kingma and Ba, *Adam: a method for stochastic optimization*, section 7.1, arXiv:1412.6980.

    Examples
    --------
    >>> adamax(0.01)
    Adamax(learning_rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-08)
    """
    return Adamax(learning_rate, beta1, beta2, epsilon)


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "sgd": Sgd,
    "momentum": Momentum,
    "nesterov_momentum": NesterovMomentum,
    "adagrad": Adagrad,
    "adagrad_window": AdagradWindow,
    "rmsprop": RmsProp,
    "adadelta": Adadelta,
    "adam": Adam,
    "adamax": Adamax,
    "apply_momentum": ApplyMomentum,
    "apply_nesterov_momentum": ApplyNesterovMomentum,
}


def learning_rate_of(optimizer: Optimizer) -> LearningRate | None:
    """The learning rate of an optimizer, None for one of other make that has none.

    Examples
    --------
    >>> learning_rate_of(adam(0.01))
    0.01
    """
    rate: LearningRate | None = getattr(optimizer, "learning_rate", None)
    return rate


def with_learning_rate(optimizer: Optimizer, learning_rate: LearningRate) -> Optimizer:
    """The same rule with another learning rate.

    Examples
    --------
    >>> with_learning_rate(sgd(0.1), 0.01)
    Sgd(learning_rate=0.01)
    """
    settings: Any = optimizer
    if isinstance(optimizer, ApplyMomentum | ApplyNesterovMomentum):
        inner = with_learning_rate(optimizer.optimizer, learning_rate)
        return replace(optimizer, optimizer=inner)
    changed: Optimizer = replace(settings, learning_rate=check_learning_rate(learning_rate))
    return changed


def take_live(optimizer: Optimizer) -> tuple[Optimizer, schedules.Live | None]:
    """The rule at the present value of the variable that is its learning rate, and that variable if it is one.

    For a loop that runs steps elsewhere, where a variable cannot be seen: it calls the second result between blocks
    of steps to learn the present value.

    Examples
    --------
    >>> import pytensor
    >>> optimizer, live = take_live(sgd(learning_rate=pytensor.shared(0.1)))
    >>> optimizer, live()
    (Sgd(learning_rate=0.1), 0.1)
    """
    rate = learning_rate_of(optimizer)
    return (with_learning_rate(optimizer, rate()), rate) if isinstance(rate, schedules.Live) else (optimizer, None)


def to_json(optimizer: Optimizer) -> dict[str, Any]:
    """Name and settings of an optimizer, and of its schedule, as JSON-able values; the inverse of :func:`from_json`.

    Examples
    --------
    >>> to_json(adagrad(0.1))
    {'name': 'adagrad', 'learning_rate': 0.1, 'epsilon': 1e-06}
    """
    record = describe(optimizer, OPTIMIZERS, "an optimizer")
    if "optimizer" in record:
        return record | {"optimizer": to_json(record["optimizer"])}
    rate = record["learning_rate"]
    return record if isinstance(rate, float) else record | {"learning_rate": schedules.to_json(rate)}


def from_json(record: Any) -> Optimizer:
    """The optimizer that :func:`to_json` described.

    Examples
    --------
    >>> from_json({"name": "sgd", "learning_rate": {"name": "constant", "value": 0.1}})
    Sgd(learning_rate=Constant(value=0.1))
    """
    if not isinstance(record, Mapping):
        return rebuild(record, OPTIMIZERS, "an optimizer")
    settings = dict(record)
    for name, build in (("learning_rate", schedules.from_json), ("optimizer", from_json)):
        if isinstance(record.get(name), Mapping):
            settings[name] = build(record[name])
    return rebuild(settings, OPTIMIZERS, "an optimizer")
