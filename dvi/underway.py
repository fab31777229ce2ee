"""A fit that is under way, as values: what has to be known to go on with it, bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from dvi.errors import ArgumentError, ArgumentTypeError, DataError
from dvi.legs import Leg
from dvi.stages import Outcome
from dvi.types import FloatArray, State


@dataclass(frozen=True, slots=True, eq=False)
class Underway:
    """A run so far.

    Parameters
    ----------
    begun : int
        Step at which it began.
    leg : Leg
    state : State
    outcomes : tuple of Outcome
        Of the stages before that of the leg, without their curvature, which has had its effect.
    seconds : float
        That it took so far.
    finished : bool
        Whether it came to its end.
    """

    begun: int
    leg: Leg
    state: State
    outcomes: tuple[Outcome, ...]
    seconds: float
    finished: bool

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.state.step - self.begun


def with_steps(run: Underway, before: int, n: int) -> Underway:
    """A run of ``before`` steps as one of ``n``.

    The stage under way becomes the last one, and goes on as if it had had its new length from the start: its learning
    rate is that of the part of the whole at which it is, and the average begins again. A first stage that is shorter
    than the run keeps its length, as its results decide about the next one.

    Raises
    ------
    ArgumentError
        If more steps than that are done.
    """
    if n < run.steps:
        raise ArgumentError(f"n={n} is less than the {run.steps} steps that are done; give at least as many, or none")
    leg, end = run.leg, run.begun + n
    if n == before or (leg.end < run.begun + before and leg.end < end):
        return run
    if run.state.step == end:
        return replace(run, leg=replace(leg, steps=end - leg.begun))
    average = tuple(np.zeros_like(array) for array in run.state.average)
    state = replace(run.state, average=average)
    return replace(run, leg=replace(leg, steps=end - leg.begun), state=state, finished=False)


def packed(run: Underway) -> tuple[dict[str, Any], FloatArray]:
    """A run as JSON, and one vector of the numbers ``(n,)`` of all its arrays.

    Raises
    ------
    ArgumentTypeError
        If the optimizer keeps arrays of other numbers than floats of 64 bits.
    """
    pieces: list[FloatArray] = []
    record: dict[str, Any] = _packed(run, pieces)
    return record, np.concatenate([np.empty(0), *pieces])


def _packed(value: Any, pieces: list[FloatArray]) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype != np.float64:
            raise ArgumentTypeError(
                f"the optimizer keeps an array of {value.dtype}; a checkpoint holds floats of 64 bits, so keep such"
            )
        start = sum(len(piece) for piece in pieces)
        pieces.append(value.ravel())
        return {"shape": list(value.shape), "start": start}
    if isinstance(value, tuple):
        return [_packed(item, pieces) for item in value]
    if is_dataclass(value):
        return {field.name: _packed(getattr(value, field.name), pieces) for field in fields(value)}
    return value


def unpacked(record: Mapping[str, Any], numbers: FloatArray) -> Underway:
    """The inverse of :func:`packed`. What was damaged raises ValueError, or whatever comes of it."""
    found = _unpacked(record, numbers)
    run = Underway(
        **{
            **found,
            "leg": Leg(**found["leg"]),
            "state": State(**found["state"]),
            "outcomes": tuple(Outcome(**outcome) for outcome in found["outcomes"]),
        }
    )
    steps = (run.begun, run.leg.begun, run.leg.steps, run.leg.origin, run.state.step)
    if not all(type(step) is int and step >= 0 for step in steps) or not run.leg.begun <= run.state.step <= run.leg.end:
        raise ValueError(f"the run is at impossible steps: {steps}")
    return run


def _unpacked(record: Any, numbers: FloatArray) -> Any:
    if isinstance(record, list):
        return tuple(_unpacked(item, numbers) for item in record)
    if not isinstance(record, dict):
        return record
    if record.keys() != {"shape", "start"}:
        return {name: _unpacked(value, numbers) for name, value in record.items()}
    start, size = record["start"], math.prod(record["shape"])
    if not 0 <= start <= start + size <= len(numbers):
        raise ValueError(f"{record} is not among the {len(numbers)} numbers of the training")
    return numbers[start : start + size].reshape(record["shape"]).copy()


def check_same_data(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse data, or an order in which they are read, that are not those with which a run began.

    Places do not count: data may have moved.

    Parameters
    ----------
    before, after : mapping
        ``data`` and ``lanes`` of ``approx.run``.

    Raises
    ------
    DataError
        That names the array and what has changed.
    """
    old, new = json.loads(json.dumps([before, after]))
    difference = _difference(_arrays(old["data"]), _arrays(new["data"])) or _difference(
        {f"term {i}": lanes for i, lanes in enumerate(old["lanes"])},
        {f"term {i}": lanes for i, lanes in enumerate(new["lanes"])},
    )
    if difference is not None:
        raise DataError(
            f"the fit cannot go on with other data than it began with: {difference}. Give those, or fit anew."
        )


def lanes_of(run: Mapping[str, Any], most: Sequence[int]) -> list[int] | None:
    """The lanes of each term that were chosen when a run began, which another version may not choose.

    None where they cannot be those of these terms, which have at most so many.
    """
    chosen = [int(term["lanes"]) for term in run["lanes"]]
    fit = len(chosen) == len(most) and all(1 <= n <= m for n, m in zip(chosen, most, strict=True))
    return chosen if fit else None


def _arrays(data: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is known of each array, by its name."""
    arrays = [array for source in data for array in source["arrays"]]
    return {array["name"]: {key: value for key, value in array.items() if key != "label"} for array in arrays}


def _difference(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first thing that differs, for people."""
    for name in [*before, *after]:
        if name not in after or name not in before:
            return f"{name} is {'missing' if name in before else 'new'}"
        for key, old in before[name].items():
            if after[name].get(key) != old and key == "content":
                return f"the rows of {name} have changed"
            if after[name].get(key) != old:
                return f"{name} has {key.replace('_', ' ')} {after[name].get(key)}, and had {old}"
    return None
