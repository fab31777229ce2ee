"""PyTensor shared variables that follow an approximation, and that it follows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.sharedvar import TensorSharedVariable

from dvi.errors import ArgumentError
from dvi.types import Family, FloatArray


class Parameter(TensorSharedVariable):  # type: ignore[misc]
    """A shared variable that hands on what a user sets it to, in place of keeping it."""

    changed: Callable[[FloatArray], None] | None = None

    def set_value(self, new_value: Any, borrow: bool = False) -> None:
        if self.changed is None:
            super().set_value(new_value, borrow=borrow)
        else:
            self.changed(np.array(new_value, dtype=np.float64))

    def hold(self, value: FloatArray) -> None:
        """Take over a value from the approximation."""
        super().set_value(np.array(value), borrow=True)


class Parameters:
    """The shared variables that have been asked for, one for each name.

    Parameters
    ----------
    family : Family
        Its parameters can be set; ``mean``, ``std``, ``cov`` and ``theta`` only read.
    theta : callable
        Gives the present parameters ``(p,)``.
    changed : callable
        Is given the parameters ``(p,)`` that a user has set.
    """

    def __init__(self, family: Family, theta: Callable[[], FloatArray], changed: Callable[[FloatArray], None]) -> None:
        self._family, self._theta, self._changed = family, theta, changed
        self._variables: dict[str, Parameter] = {}

    def __getitem__(self, name: str) -> Parameter:
        if name not in self._variables:
            array = np.array(self._value(name), dtype=np.float64)
            variable = Parameter(pt.TensorType("float64", (None,) * array.ndim), array, strict=False, name=name)
            variable.changed = partial(self._set, name)
            self._variables[name] = variable
        return self._variables[name]

    def refresh(self) -> None:
        """Have every variable hold its present value."""
        for name, variable in self._variables.items():
            variable.hold(self._value(name))

    def _value(self, name: str) -> FloatArray:
        theta = self._theta()
        match name:
            case "theta":
                return theta
            case "mean":
                return self._family.mean(theta)
            case "std":
                return self._family.std(theta)
            case "cov":
                return self._family.cov(theta)
        return self._family.unpack(theta)[name]

    def _set(self, name: str, value: FloatArray) -> None:
        params = self._family.unpack(self._theta())
        if name not in params:
            raise ArgumentError(f"{name} follows from the parameters; set one of {', '.join(params)}")
        if value.shape != params[name].shape:
            raise ArgumentError(f"{name} has the shape {params[name].shape}; the value given has {value.shape}")
        if not np.isfinite(value).all():
            raise ArgumentError(f"the value given for {name} is not finite; give finite numbers")
        self._changed(self._family.pack({**params, name: value}))
