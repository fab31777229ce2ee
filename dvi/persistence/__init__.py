"""Approximations in Zarr groups: ``posterior``, ``approximation`` and ``history``, and attributes that say the rest.

A save is whole or absent. Everything is JSON and arrays, and nothing that is read becomes code, an attribute or a path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dvi.approximation import Approximation
from dvi.errors import ArgumentError
from dvi.model.layout import Layout
from dvi.persistence.places import check_free, label_of, place_of
from dvi.persistence.publishing import put
from dvi.persistence.reading import read
from dvi.persistence.records import attributes_of, rebuilt, tree_of

if TYPE_CHECKING:
    import pymc as pm

    from dvi.data.locations import Options

__all__ = ["check_model", "check_writable", "load", "save"]


def save(
    approximation: Approximation, store: Any, *, overwrite: bool = False, storage_options: Options | None = None
) -> None:
    """Save an approximation as a Zarr group that :func:`load`, ArviZ and ``xarray.open_datatree`` read.

    Group ``posterior`` holds 1,000 draws, ``approximation`` the parameters, ``history`` the loss of every step. What is
    replaced stays until the new one is whole; in a store without rename, the new one is written twice for that.

    Parameters
    ----------
    approximation : Approximation
    store : path, URL or Zarr store
        Folders above a path are made.
    overwrite : bool
        Replace a saved approximation. Nothing else is ever replaced.
    storage_options : mapping, optional
        For a URL, as in :func:`dvi.open_store`.

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
    target = place_of(store, storage_options)
    check_free(target, overwrite)
    attributes = attributes_of(approximation)
    put(target, tree_of(approximation), attributes, overwrite)


def check_writable(store: Any, overwrite: bool) -> None:
    """Refuse what :func:`save` would refuse to replace, before the work of a fit. Errors are those of :func:`save`."""
    check_free(place_of(store), overwrite)


def load(store: Any, model: pm.Model | None = None, *, storage_options: Options | None = None) -> Approximation:
    """Read an approximation that was saved, or that a checkpoint of a fit holds. Needs no model.

    Parameters
    ----------
    store : path, URL or Zarr store
    model : pm.Model, optional
        The model it was fitted to. With it, draws have the deterministics too.
    storage_options : mapping, optional
        For a URL, as in :func:`dvi.open_store`.

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
    target = place_of(store, storage_options)
    saved = read(target, rebuilt)
    if model is not None:
        check_model(model, saved.layout, label_of(target))
        saved.model = model
    return saved


def check_model(model: pm.Model, layout: Layout, label: str) -> None:
    """Refuse a model that is not the one of a layout.

    Raises
    ------
    ArgumentError
        That says how it differs.
    """
    from dvi.model.graph import layout_of

    difference = layout_of(model).difference(layout)
    if difference is not None:
        raise ArgumentError(f"model is not the one that {label} was fitted to: {difference}. Give that one, or none.")
