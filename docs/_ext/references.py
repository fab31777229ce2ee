"""A warning for every public name that the reference lacks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import dvi
from dvi import callbacks, cluster, errors, schedules

logger = logging.getLogger(__name__)

_PAGE = "reference/index"


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of what is public and has no page."""
    described = env.get_domain("py").objects
    for name in sorted(set(public()) - described.keys()):
        logger.warning("%s is public and has no page; name it in docs/%s.md", name, _PAGE, location=_PAGE)


def public() -> Iterator[str]:
    """Qualified names that users may use."""
    modules = {"callbacks", "cluster", "errors", "schedules"}
    yield from (f"dvi.{name}" for name in dvi.__all__ if name not in modules)
    yield from (f"dvi.callbacks.{name}" for name in callbacks.__all__)
    functions = inspect.getmembers(cluster, inspect.isfunction)
    yield from (f"dvi.cluster.{n}" for n, f in functions if f.__module__ == cluster.__name__ and not n.startswith("_"))
    yield from (f"dvi.schedules.{name}" for name in schedules.__all__)
    own = inspect.getmembers(errors, inspect.isclass)
    yield from (f"dvi.errors.{name}" for name, kind in own if kind.__module__ == errors.__name__)
