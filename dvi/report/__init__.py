"""A fit on one HTML page: for those who were not there, and for later.

The page holds its style and its figures, so that it can be sent by mail and opened without a network. It has the model
as far as it is known, data and settings, the ELBO, the last diagnosis, a table of the posterior and the resources used.
A diagnosis comes from ``dvi.diagnose`` before, the graph of the model needs the model, and figures need matplotlib.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvi.data.locations import Options, open_store
from dvi.data.store import Target
from dvi.errors import ArgumentError, ArgumentTypeError, StoreError
from dvi.persistence.objects import Objects
from dvi.persistence.places import explained, label_of, place_of
from dvi.report.contents import contents_of

if TYPE_CHECKING:
    from dvi.approximation import Approximation

__all__ = ["page", "write_report"]


def write_report(approx: Approximation, path: Any, storage_options: Options | None = None) -> Path | str:
    """Write the report of an approximation. The page is whole, or what was there before.

    Parameters
    ----------
    approx : Approximation
    path : path or URL
        Of the page.
    storage_options : mapping, optional
        For a URL, as in :func:`dvi.open_store`.

    Returns
    -------
    pathlib.Path or str
        Where it is.

    Raises
    ------
    StoreError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile, dvi, pymc as pm
    >>> with pm.Model():
    ...     mu = pm.Normal("mu")
    ...     approx = dvi.fit(100, random_seed=1, progressbar=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = approx.report(f"{folder}/fit.html")
    ...     path.read_text("utf-8")[:15]
    '<!DOCTYPE html>'
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentTypeError(f"path={path!r} is of type {type(path).__name__}; give the name of a file")
    folder, _, name = os.fspath(path).rpartition("/")
    if "://" in folder and not folder.startswith("file:"):
        _put(place_of(folder, storage_options), name, page(approx))
        return os.fspath(path)
    opened = open_store(path, storage_options)
    if not isinstance(opened, str | os.PathLike) or not Path(opened).name:
        raise ArgumentError(f"path={path!r} names no file; give the name of one, such as fit.html")
    target, text = Path(opened).absolute(), page(approx)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise StoreError(
            f"the report could not be written to {path} ({error.strerror}); give a file in a folder that is there"
        ) from error
    return target


def _put(folder: Target, name: str, text: str) -> None:
    """Write a page into a store that has no files, by one write that is whole or absent."""
    if not name:
        raise ArgumentError(f"{label_of(folder)}/ names no page; give the URL of a file, such as .../fit.html")
    with explained(folder, "was not given the report", "Give a URL that you may write to."):
        Objects(folder.store).write(name, text.encode())


def page(approx: Approximation) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dvi.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.jinja").render(contents=contents_of(approx))
