"""``resume``: going on with a fit that another process has begun, from its last checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pymc as pm

from dvi.approximation import Approximation
from dvi.errors import ArgumentError, DviError, StoreDamagedError
from dvi.groups import model_of
from dvi.methods import remake_inference
from dvi.persistence import check_model
from dvi.persistence.checkpoints import read_checkpoint
from dvi.persistence.places import label_of, place_of
from dvi.settings import resumed_settings
from dvi.underway import unpacked, with_steps


def resume(
    store: Any,
    model: pm.Model | None = None,
    n: int | None = None,
    *,
    client: Any = None,
    threads: int | None = None,
    callbacks: Any = None,
    progressbar: bool = True,
    obj_optimizer: Any = None,
    more_replacements: Mapping[Any, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Approximation:
    """Go on with a fit that was started with ``checkpoint=``, and end where it would have ended, bit for bit.

    The fit goes on writing its checkpoints there. Seed, lanes, batch sizes and all settings are those it was started
    with; where it runs need not be.

    Parameters
    ----------
    store : path, URL or Zarr store
        What ``checkpoint`` was.
    model : pm.Model, optional
        The model that was being fitted, with the same data, wherever they are now. The model on the context stack by
        default.
    n : int, optional
        Steps of the whole fit, in place of those that it was started with. The stage that is under way then becomes the
        last one, and goes on as if it had had that length from the start: its learning rate is that of the part of its
        length at which it is, and the average begins again. A fit until convergence takes none.
    client, threads, progressbar
        As in :func:`dvi.fit`.
    callbacks : list of callables, optional
        Needed where the fit had some, as no file can hold them; ``[]`` for none. They have forgotten what was before.
    obj_optimizer : optimizer, optional
        Needed where the fit had one that is not of dvi, or whose learning rate is a function or a shared variable.
    more_replacements : dict, optional
        Needed where the fit had some.
    storage_options : mapping, optional
        For a URL, as in :func:`dvi.open_store`.

    Returns
    -------
    Approximation

    Raises
    ------
    ArgumentError
        If the model has other variables, shapes or transforms, if something that is needed is missing, or if more than
        ``n`` steps are done.
    DataError
        If the data have other arrays, shapes, types or chunks, or another batch size.
    StoreNotFoundError, StoreError
        If there is no whole checkpoint.
    StoreExistsError
        If the fit is still running.

    Examples
    --------
    >>> import dvi, pymc as pm
    >>> from zarr.storage import MemoryStore
    >>> store = MemoryStore()
    >>> with pm.Model() as model:
    ...     mu = pm.Normal("mu", 3.0)
    >>> approx = dvi.fit(200, model=model, random_seed=1, checkpoint=store, progressbar=False)
    >>> longer = dvi.resume(store, model, 300, progressbar=False)
    >>> len(approx.hist), len(longer.hist), bool((longer.hist[:200] == approx.hist).all())
    (200, 300, True)
    """
    label, model = label_of(place_of(store, storage_options)), model_of(model)
    saved = read_checkpoint(store, storage_options)
    approx = saved.approximation
    check_model(model, approx.layout, label)
    approx.model = model
    given = {
        "callbacks": callbacks, "obj_optimizer": obj_optimizer, "more_replacements": more_replacements,
        "client": client, "threads": threads, "progressbar": progressbar, "checkpoint": store,
        "storage_options": storage_options,
    }  # fmt: skip
    with _undamaged(label):
        before = saved.record["settings"]["n"]
        settings = resumed_settings(saved.record["settings"], before if n is None else n, given)
        run = unpacked(saved.record["run"], saved.numbers)
        inference = remake_inference(saved.record["method"], approx)
        if run.state.step != len(approx.hist) or run.state.theta.shape != approx.theta.shape:
            raise ValueError(f"step {run.state.step} is not that of the approximation, {len(approx.hist)}")
    if n is not None and before is None:
        raise ArgumentError(f"n={n} is given, and the fit was started with n=None, until two stages agree; leave n out")
    if n is not None:
        run = with_steps(run, before, n)
    return approx if run.finished else inference.resume(run, settings)


@contextmanager
def _undamaged(label: str) -> Iterator[None]:
    """Whatever a record leads to that is not an error of dvi's, as one that is."""
    try:
        yield
    except DviError:
        raise
    except Exception as error:
        raise StoreDamagedError(
            f"{label} is damaged ({type(error).__name__}: {error}). Restore a copy of it, or fit again."
        ) from error
