"""What is kept of the values of a row: all draws, or their mean, standard deviation and quantiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dvi.errors import ArgumentError, ArgumentTypeError, suggestion
from dvi.types import AnyArray


@dataclass(frozen=True, slots=True)
class Part:
    """One array that is kept of a variable: the axes in front of its rows, and the group that it belongs to."""

    group: str
    dims: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()


class Kind(Protocol):
    """What is kept of values ``(S, rows, ...)``."""

    @property
    def parts(self) -> tuple[Part, ...]: ...

    @property
    def coords(self) -> dict[str, AnyArray]: ...

    def dtypes(self, values: np.dtype[Any]) -> tuple[np.dtype[Any], ...]:
        """A dtype for each part."""
        ...

    def arrays(self, values: AnyArray) -> tuple[AnyArray, ...]:
        """An array ``(*part.shape, rows, ...)`` for each part."""
        ...


@dataclass(frozen=True, slots=True)
class Draws:
    """All draws, as one chain."""

    group: str
    draws: int

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part(self.group, ("chain", "draw"), (1, self.draws)),)

    @property
    def coords(self) -> dict[str, AnyArray]:
        return {"chain": np.zeros(1, dtype=np.int64), "draw": np.arange(self.draws)}

    def dtypes(self, values: np.dtype[Any]) -> tuple[np.dtype[Any], ...]:
        return (values,)

    def arrays(self, values: AnyArray) -> tuple[AnyArray, ...]:
        return (values[None],)


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean, standard deviation and exact quantiles over the draws."""

    quantiles: tuple[float, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("mean"), Part("sd"), Part("quantiles", ("quantile",), (len(self.quantiles),)))

    @property
    def coords(self) -> dict[str, AnyArray]:
        return {"quantile": np.array(self.quantiles)}

    def dtypes(self, values: np.dtype[Any]) -> tuple[np.dtype[Any], ...]:
        return (np.dtype(np.float64),) * 3

    def arrays(self, values: AnyArray) -> tuple[AnyArray, ...]:
        values = np.asarray(values, dtype=np.float64)
        return values.mean(axis=0), values.std(axis=0), np.quantile(values, self.quantiles, axis=0)


def kind_of(kind: object, group: str, draws: int, quantiles: object) -> Kind:
    """The kind that the words of a user name.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For other words, and for quantiles outside of 0 to 1.
    """
    if kind == "draws":
        return Draws(group, draws)
    if kind != "summary":
        raise ArgumentError(
            f"kind={kind!r} is not allowed; give 'draws' for all draws of a row, or 'summary' for mean, sd, quantiles"
            f"{suggestion(kind, ('draws', 'summary'))}"
        )
    try:
        levels = tuple(float(q) for q in np.atleast_1d(np.asarray(quantiles, dtype=np.float64)))
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"quantiles={quantiles!r} are not numbers; give some from 0 to 1") from error
    if not levels or not all(0 <= q <= 1 for q in levels) or list(levels) != sorted(set(levels)):
        raise ArgumentError(f"quantiles={quantiles!r} must increase from 0 to 1; give for instance (0.05, 0.5, 0.95)")
    return Summary(levels)
