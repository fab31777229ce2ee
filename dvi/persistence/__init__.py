"""Approximations in Zarr groups: ``posterior``, ``approximation`` and ``history``, and attributes that say the rest.

A save is whole or absent. Everything is JSON and arrays, and nothing that is read becomes code, an attribute or a path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dvi.approximation import Approximation
from dvi.errors import ArgumentError, ArgumentTypeError, StoreError
from dvi.model.layout import Layout
from dvi.persistence.places import check_free, explained, label_of, open_root, place_of, put
from dvi.persistence.records import attributes_of, check_format, rebuilt, tree_of

if TYPE_CHECKING:
    import pymc as pm

    from dvi.data.store import Target

__all__ = ["load", "save"]

_ATTEMPTS = 3  # to read a store that is being replaced


def save(approximation: Approximation, store: Any, *, overwrite: bool = False) -> None:
    """Save an approximation as a Zarr group that :func:`load`, ArviZ and ``xarray.open_datatree`` read.

    Group ``posterior`` holds 1,000 draws, ``approximation`` the parameters, ``history`` the loss of every step. A local
    group that is replaced stays until the new one is whole; a store without rename loses it when the writing begins.

    Parameters
    ----------
    approximation : Approximation
    store : path, URL or Zarr store
        Folders above a path are made.
    overwrite : bool
        Replace a saved approximation. Nothing else is ever replaced.

    Raises
    ------
    StoreExistsError
        If there is something and ``overwrite`` is False.
    StoreError
        If it cannot be written, or if what is there is not a saved approximation.

    Examples
    --------
    >>> import numpy as np
    >>> from dvi.approximations.meanfield import MeanFieldFamily
    >>> from dvi.model.layout import Entry, Layout, Transform
    >>> from zarr.storage import MemoryStore
    >>> layout = Layout((Entry("sigma", "sigma_log__", (), 0, 1, (), Transform("log")),), {})
    >>> approximation = Approximation(MeanFieldFamily(1), np.array([0.5, -2.0]), layout, np.array([3.0, 2.0]))
    >>> store = MemoryStore()
    >>> save(approximation, store)
    >>> load(store).params
    {'mu': array([0.5]), 'rho': array([-2.])}
    """
    target = place_of(store)
    check_free(target, overwrite)
    attributes = attributes_of(approximation)
    put(target, tree_of(approximation), attributes, overwrite)


def load(store: Any, model: pm.Model | None = None) -> Approximation:
    """Read an approximation that was saved. Needs no model.

    Parameters
    ----------
    store : path, URL or Zarr store
    model : pm.Model, optional
        The model it was fitted to. With it, draws have the deterministics too.

    Raises
    ------
    StoreNotFoundError
        If there is nothing.
    StoreError
        If there is something else, if it is damaged, or if a save into it did not come to its end.
    ArgumentError
        If the model has other variables, shapes or transforms: says which.

    Examples
    --------
    >>> approx = load("runs/flights.zarr")  # doctest: +SKIP
    >>> approx.sample(1_000).posterior["beta"].mean()  # doctest: +SKIP
    """
    target = place_of(store)
    saved = _read(target)
    if model is not None:
        _check_model(model, saved.layout, label_of(target))
        saved.model = model
    return saved


def _read(target: Target) -> Approximation:
    """The saved approximation; read again where another process replaced it meanwhile."""
    for _ in range(_ATTEMPTS):
        root = open_root(target)
        before = root.attrs.asdict()
        try:
            check_format(before, label_of(target))
            with explained(target, "is damaged", "Restore a copy of it, or fit again."):
                saved = rebuilt(root, before)
        except StoreError:
            if open_root(target).attrs.asdict() == before:
                raise
            continue
        if open_root(target).attrs.asdict() == before:
            return saved
    raise StoreError(f"{label_of(target)} was replaced again and again while it was read. Try later.")


def _check_model(model: pm.Model, layout: Layout, label: str) -> None:
    from dvi.model.graph import layout_of

    if not hasattr(model, "free_RVs"):
        raise ArgumentTypeError(f"model={model!r} is of type {type(model).__name__}; give a pm.Model")
    difference = layout_of(model).difference(layout)
    if difference is not None:
        raise ArgumentError(f"model is not the one that {label} was fitted to: {difference}. Give that one, or none.")
