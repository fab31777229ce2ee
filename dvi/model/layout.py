"""The flat vector of unconstrained values, and the named, shaped variables that it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from dvi.errors import ArgumentError, suggestion
from dvi.types import AnyArray, FloatArray


@dataclass(frozen=True, slots=True)
class Transform:
    """How an unconstrained value becomes a variable, in terms that JSON can hold.

    ``kind`` is ``identity``, ``log``, ``logodds``, ``interval``, ``ordered``, ``simplex`` or ``zerosum`` with its
    numbers in ``parameters``, or ``model`` where only the model can tell.
    """

    kind: str
    parameters: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}{self.parameters or ''}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One free variable: elements ``start`` to ``stop`` of the flat vector, in C order."""

    name: str
    value_name: str  # as PyMC names the unconstrained value, for instance sigma_log__
    shape: tuple[int, ...]
    start: int
    stop: int
    dims: tuple[str | None, ...]  # of the constrained variable
    transform: Transform


@dataclass(frozen=True, slots=True)
class Layout:
    """All free variables of a model in the order of the flat vector, with the coordinates of their dimensions.

    Examples
    --------
    >>> entry = Entry("sigma", "sigma_log__", (), 0, 1, (), Transform("log"))
    >>> Layout((entry,), {}).ndim
    1
    """

    entries: tuple[Entry, ...]
    coords: dict[str, tuple[Any, ...]]

    @property
    def ndim(self) -> int:
        """Length ``d`` of the flat vector."""
        return self.entries[-1].stop

    def split(self, z: FloatArray) -> dict[str, FloatArray]:
        """Views of the last axis of ``z (..., d)`` by variable name, shaped."""
        return {e.name: z[..., e.start : e.stop].reshape((*z.shape[:-1], *e.shape)) for e in self.entries}

    def join(self, values: dict[str, AnyArray]) -> FloatArray:
        """Flat vector ``(d,)`` of unconstrained values given by variable name."""
        return np.concatenate([np.ravel(np.asarray(values[e.name], dtype=np.float64)) for e in self.entries])

    def entry(self, name: str) -> Entry:
        """The entry of a variable, by its name or by the name of its unconstrained value."""
        for e in self.entries:
            if name in (e.name, e.value_name):
                return e
        known = [e.name for e in self.entries]
        near = suggestion(name, known)
        raise ArgumentError(f"there is no free variable {name!r}; the model has {', '.join(known)}{near}")

    def names(self) -> list[str]:
        """A label for each element of the flat vector."""
        labels = []
        for e in self.entries:
            if not e.shape:
                labels.append(e.value_name)
            else:
                labels += [f"{e.value_name}[{', '.join(map(str, i))}]" for i in np.ndindex(*e.shape)]
        return labels

    def label(self, index: int) -> str:
        """The label of one element of the flat vector."""
        e = next(e for e in self.entries if e.start <= index < e.stop)
        if not e.shape:
            return e.value_name
        return f"{e.value_name}[{', '.join(map(str, np.unravel_index(index - e.start, e.shape)))}]"

    def difference(self, other: Layout) -> str | None:
        """What differs from another layout in one sentence, or None where a flat vector means the same in both."""
        mine = {e.name: e for e in self.entries}
        theirs = {e.name: e for e in other.entries}
        if mine.keys() != theirs.keys():
            return f"variables {sorted(mine)} against {sorted(theirs)}"
        for name, e in mine.items():
            o = theirs[name]
            if (e.shape, e.start, e.transform) != (o.shape, o.start, o.transform):
                return (
                    f"{name!r} has shape {e.shape}, offset {e.start} and transform {e.transform} "
                    f"against {o.shape}, {o.start} and {o.transform}"
                )
        return None

    def to_json(self) -> dict[str, Any]:
        """The layout as plain JSON values."""
        entries = [
            {
                "name": e.name,
                "value_name": e.value_name,
                "shape": list(e.shape),
                "dims": list(e.dims),
                "transform": [e.transform.kind, list(e.transform.parameters)],
            }
            for e in self.entries
        ]
        return {"entries": entries, "coords": {k: list(v) for k, v in self.coords.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The layout that ``to_json`` wrote."""
        entries, start = [], 0
        for item in data["entries"]:
            shape = tuple(int(n) for n in item["shape"])
            stop = start + int(np.prod(shape, dtype=np.int64))
            kind, parameters = item["transform"]
            dims = tuple(item["dims"])
            entries.append(
                Entry(item["name"], item["value_name"], shape, start, stop, dims, Transform(kind, tuple(parameters)))
            )
            start = stop
        return cls(tuple(entries), {k: tuple(v) for k, v in data["coords"].items()})
