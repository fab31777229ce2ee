"""A callback that saves the approximation while a fit runs."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvi.callbacks.base import Callback
from dvi.errors import ArgumentTypeError, DviWarning
from dvi.inference.settings import count
from dvi.types import FloatArray

if TYPE_CHECKING:
    from dvi.approximation import Approximation

logger = logging.getLogger(__name__)


class Checkpoint(Callback):
    """Saves the approximation every ``every`` steps, for :func:`dvi.load`.

    A save that fails warns once, and the fit goes on: a full disk should not cost the hours before it. To be able to go
    on with a fit, give ``checkpoint=`` to :func:`dvi.fit`, which also writes what :func:`dvi.resume` needs.

    Parameters
    ----------
    store : path, URL or Zarr store
        Where to save, as in ``approx.save``. What was saved there before is replaced, and nothing else ever is.
    every : int
        Steps between two saves.
    keep : int
        Number of saves to keep, at least 1. With more than one ``store`` is a path or URL, whose name gets a number
        from 0 to ``keep - 1``; each save replaces the oldest.
    storage_options : mapping, optional
        For a URL, as in :func:`dvi.open_store`.

    Attributes
    ----------
    latest
        Where the last save went, None before the first.

    Raises
    ------
    StoreError
        At construction, if something else than a saved approximation is there.

    Examples
    --------
    >>> import tempfile
    >>> checkpoint = Checkpoint(f"{tempfile.mkdtemp()}/flights.zarr", every=5_000)
    >>> dvi.fit(100_000, callbacks=[checkpoint])  # doctest: +SKIP
    >>> dvi.load(checkpoint.latest)  # doctest: +SKIP
    """

    def __init__(self, store: Any, *, every: int = 1_000, keep: int = 1, storage_options: Any = None) -> None:
        from dvi.persistence.places import check_free, place_of

        self.every = count("every", every, 1)
        self.stores = _stores(store, count("keep", keep, 1))
        self._options = storage_options
        for place in self.stores:
            check_free(place_of(place, storage_options), overwrite=True)
        self.latest: Any = None
        self._step = 0  # of the last save that was tried
        self._saves = 0
        self._warned = False

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.stores[0])!r}, every={self.every}, keep={len(self.stores)})"

    def __call__(self, approx: Approximation, losses: FloatArray, i: int, /) -> None:
        if i < self._step:  # another fit
            self._step = 0
        if i - self._step < self.every:
            return
        self._step = i
        store = self.stores[self._saves % len(self.stores)]
        try:
            approx.save(store, overwrite=True, storage_options=self._options)
        except OSError as error:
            self._report(f"the checkpoint at step {i} was not saved: {error}")
            return
        self.latest = store
        self._saves += 1

    def _report(self, message: str) -> None:
        """A warning the first time, a line in the log later."""
        if self._warned:
            logger.warning(message)
            return
        self._warned = True
        warnings.warn(f"{message} The fit goes on; later failures are logged.", DviWarning, stacklevel=3)


def _stores(store: Any, keep: int) -> tuple[Any, ...]:
    """Where the saves go in turn."""
    if keep == 1:
        return (store,)
    if not isinstance(store, str | os.PathLike):
        raise ArgumentTypeError(
            f"keep={keep} needs a path or URL whose name can be numbered; a {type(store).__name__} keeps one save"
        )
    name = os.fspath(store).rstrip("/")
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  it may be a URL
    numbered = tuple(f"{stem}-{k}{suffix}" for k in range(keep))
    return tuple(map(Path, numbered)) if isinstance(store, Path) else numbered
