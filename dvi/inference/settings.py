"""What a setting may be, and how an object of settings is written as JSON-able values and read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any, cast

from dvi.errors import ArgumentError, ArgumentTypeError, NonFiniteError, suggestion


def _number(name: str, value: object, allowed: Callable[[float], bool], rule: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(f"{name} = {value!r} is of type {type(value).__name__}. Pass {rule}.")
    number = float(value)
    if not math.isfinite(number):
        raise NonFiniteError(f"{name} = {value!r} is not finite. Pass {rule}.")
    if not allowed(number):
        raise ArgumentError(f"{name} = {value!r} is not allowed. Pass {rule}.")
    return number


def positive(name: str, value: object) -> float:
    """Return ``value`` as a float; the rule for sizes: finite and above 0."""
    return _number(name, value, lambda number: number > 0, "a finite number above 0, for example 0.01")


def not_negative(name: str, value: object) -> float:
    """Return ``value`` as a float; the rule for tolerances: finite and at least 0."""
    return _number(name, value, lambda number: number >= 0, "a finite number, at least 0")


def fraction(name: str, value: object) -> float:
    """Return ``value`` as a float; the rule for parts of a whole: from 0 to 1, both included."""
    return _number(name, value, lambda number: 0 <= number <= 1, "a number from 0 to 1, both included")


def decay(name: str, value: object) -> float:
    """Return ``value`` as a float; the rule for what is kept of a running average: from 0 to below 1."""
    return _number(name, value, lambda number: 0 <= number < 1, "a number from 0 to below 1, for example 0.9")


def count(name: str, value: object, least: int) -> int:
    """Return ``value`` as an int; the rule for numbers of steps: an integer, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ArgumentTypeError(
            f"{name} = {value!r} is of type {type(value).__name__}. Pass an integer, at least {least}."
        )
    if value < least:
        raise ArgumentError(f"{name} = {value!r} is not allowed. Pass an integer, at least {least}.")
    return int(value)


def settle(settings: object, **values: object) -> None:
    """Replace fields of a frozen dataclass by their checked values; for use in ``__post_init__`` only."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def describe(settings: object, classes: Mapping[str, type[object]], kind: str) -> dict[str, Any]:
    """Name and fields of a settings object whose class is among ``classes``, JSON-able if its fields are."""
    for name, known in classes.items():
        if type(settings) is known:
            return {"name": name} | {field: getattr(settings, field) for field in _field_names(known)}
    raise ArgumentTypeError(f"{settings!r} cannot be saved. Use {kind} that dvi knows: {', '.join(classes)}.")


def rebuild[T](record: Any, classes: Mapping[str, type[T]], kind: str) -> T:
    """The settings object that :func:`describe` described."""
    name = record.get("name") if isinstance(record, Mapping) else record
    if not isinstance(record, Mapping) or not isinstance(name, str) or name not in classes:
        near = suggestion(name, classes)
        raise ArgumentError(f"{name!r} is not the name of {kind}. Give one of {', '.join(classes)}{near}")
    build: Callable[..., T] = classes[name]
    given = {key: value for key, value in record.items() if key != "name"}
    known = _field_names(build)
    required = {field.name for field in fields(cast(Any, build)) if field.default is MISSING}
    if not required <= given.keys() <= set(known):
        raise ArgumentError(f"{name} has the settings {', '.join(known)}; {sorted(given)} were given. Pass these.")
    return build(**given)


def _field_names(settings_class: Any) -> list[str]:
    return [field.name for field in fields(settings_class)]
