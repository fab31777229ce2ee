"""numba's decorator of functions that are written in LLVM's language, with the type that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.extending

intrinsic: Callable[..., Any] = numba.extending.intrinsic  # mypy takes the context for an argument of what it makes
