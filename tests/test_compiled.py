"""Loops as machine code, where Ctrl-C comes while they return."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest

from dvi.compiled import compiled
from dvi.types import FloatArray


@compiled
def one(x: FloatArray) -> FloatArray:
    return 2.0 * x


@compiled
def number_first(x: FloatArray) -> tuple[float, FloatArray]:
    return 1.0, 2.0 * x


@compiled
def several(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    return 2.0 * x, 3.0 * x, 4.0 * x


@pytest.mark.parametrize(("loop", "array"), [(one, 0), (number_first, 0), (several, 0), (several, 1), (several, 2)])
def test_ctrl_c_while_numba_makes_an_array_is_a_keyboard_interrupt(loop: Any, array: int) -> None:
    x = np.arange(3.0)
    right = loop(x)
    left = array

    def interrupt(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal left
        if frame.f_code.co_name == "_numba_unpickle":
            if left == 0:
                raise KeyboardInterrupt
            left -= 1

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop(x)
    finally:
        sys.settrace(before)
    np.testing.assert_equal(loop(x), right)
