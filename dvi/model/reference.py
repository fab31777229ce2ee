"""Models by name: what a command line, or a settings file, says in place of a model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymc as pm

from dvi.errors import ArgumentError, ArgumentTypeError, suggestion

_FORM = "package.module:function, such as models.flights:build"


def model_from(reference: str, **arguments: Any) -> pm.Model:
    """Import a function by name, call it, and return the model that it builds.

    The module is looked for in the current directory too. It is code that runs: pass only what you trust.

    Parameters
    ----------
    reference : str
        ``"package.module:function"``.
    **arguments
        Passed to the function.

    Raises
    ------
    ArgumentError
        If the reference has another form or names nothing, if what it names cannot be called with these arguments, or
        if a call gives something else than a model. What the module or the function itself raises is not changed.

    Examples
    --------
    >>> model_from("dvi.model.reference:model_form")
    Traceback (most recent call last):
    ...
    dvi.errors.ArgumentError: module dvi.model.reference has no 'model_form'; did you mean 'model_from'?
    """
    if not isinstance(reference, str):
        raise ArgumentTypeError(f"model={reference!r} is of type {type(reference).__name__}; give {_FORM}")
    module, colon, name = reference.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ArgumentError(f"{reference!r} does not name a function that builds a model; give {_FORM}")
    with _current_directory_importable():
        build = _function(module, name)
        _check_arguments(reference, build, arguments)
        model = build(**arguments)
    if not isinstance(model, pm.Model):
        raise ArgumentTypeError(
            f"{reference} returned {model!r}, of type {type(model).__name__}; have it return the pm.Model"
        )
    return model


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """As in ``python -m``, for as long as this lasts."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _function(module: str, name: str) -> Callable[..., Any]:
    """What a module calls by a name, if it can be called."""
    parts = module.split(".")
    for n in range(1, len(parts) + 1):  # a parent at a time, so that only what is missing counts as not found
        parent = ".".join(parts[:n])
        if not _exists(parent):
            raise ArgumentError(
                f"there is no module {parent}, neither installed nor in {Path.cwd()}; give {_FORM}, from the folder "
                "that it is in"
            )
    names = vars(importlib.import_module(module))
    if name not in names:
        callables = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
        hint = suggestion(name, names) or f"; it has {', '.join(callables) or 'no functions'}"
        raise ArgumentError(f"module {module} has no {name!r}{hint}")
    found: Any = names[name]
    if not callable(found):
        raise ArgumentTypeError(
            f"{module}:{name} is of type {type(found).__name__}; give a function that builds a model and returns it"
        )
    function: Callable[..., Any] = found
    return function


def _exists(module: str) -> bool:
    """Whether there is such a module in a package that has been found."""
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def _check_arguments(reference: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        given = ", ".join(arguments) or "no arguments"
        raise ArgumentTypeError(f"{reference} cannot be called with {given}: {error}") from None
