"""Steps in units of their own for each parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dvi.types import FloatArray, Optimizer


@dataclass(frozen=True, slots=True, eq=False)
class InUnits:
    r"""An optimizer of :math:`\theta / u`, whose gradient is :math:`u g`, elementwise.

    Rules such as Adam take steps of about one learning rate in every parameter. In these units, that is a bold step for
    none of them and a timid one for none, whatever their scales.

    Parameters
    ----------
    optimizer : Optimizer
    units : array, shape (p,)
        Above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from dvi.inference.optimizers import adam
    >>> optimizer = InUnits(adam(0.1), np.array([1.0, 100.0]))
    >>> theta = np.zeros(2)
    >>> optimizer.update(0, theta, np.array([1.0, 1.0]), optimizer.init(theta))[0].round(6).tolist()
    [-0.1, -10.0]
    """

    optimizer: Optimizer
    units: FloatArray

    @property
    def learning_rate(self) -> Any:
        """That of the optimizer, in these units."""
        return getattr(self.optimizer, "learning_rate", None)

    def init(self, theta: FloatArray) -> tuple[FloatArray, ...]:
        """State for parameters ``theta (p,)``."""
        return self.optimizer.init(theta / self.units)

    def update(
        self, step: int, theta: FloatArray, gradient: FloatArray, state: tuple[FloatArray, ...], scale: float = 1.0
    ) -> tuple[FloatArray, tuple[FloatArray, ...]]:
        """Parameters and state after a step. No argument is written to."""
        out, slots = self.optimizer.update(step, theta / self.units, gradient * self.units, state, scale)
        out *= self.units
        return out, slots
