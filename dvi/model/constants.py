"""What a graph that depends on nothing evaluates to."""

from __future__ import annotations

from typing import Any

from pytensor.compile.mode import Mode
from pytensor.graph.basic import Constant, Variable

_MODE = Mode(linker="py", optimizer=None)


def value_of(graph: Variable[Any, Any]) -> Any:
    """The value of a graph without open inputs, from the interpreter: compiling it takes a thousand times as long.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> int(value_of(pt.constant(2) * 3))
    6
    """
    return graph.data if isinstance(graph, Constant) else graph.eval(mode=_MODE)
