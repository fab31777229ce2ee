"""numba's decorator of functions that are written in LLVM's language, with the type that it has, and one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.extending
from numba import types

intrinsic: Callable[..., Any] = numba.extending.intrinsic  # mypy takes the context for an argument of what it makes


@intrinsic
def select(typing_context: Any, condition: Any, x: Any, y: Any) -> Any:
    """``x if condition else y`` of two numbers that are at hand, without a branch, which ends loops of several rows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return types.float64(types.boolean, types.float64, types.float64), generate
