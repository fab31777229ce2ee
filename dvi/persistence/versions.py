"""Versions of what is in a place: each is written under a name of its own, and then made current by one small object.

That object is the metadata of the root group, which a store replaces as a whole. So whatever is stopped when, the
current version is a whole one: the previous or the new one. No store has to rename for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from dvi.data.store import COMPLETE, Target
from dvi.errors import StoreError
from dvi.persistence.objects import Objects
from dvi.persistence.places import CODECS, FORMAT, VERSION, chunks_of, explained, flush, flush_paths
from dvi.types import AnyArray

CURRENT = "dvi_current"  # attribute of the root: the name of the current version

_NAME = re.compile(r"version-([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a version consists of.

    Parameters
    ----------
    arrays : mapping of str to array
        By their paths.
    attributes : dict
        JSON. They make the version a whole, and are the last to be written.
    """

    arrays: Mapping[str, AnyArray]
    attributes: dict[str, Any]


def current(root: zarr.Group, label: str) -> zarr.Group:
    """The current version, which is the root itself where there are no versions.

    Raises
    ------
    StoreError
        If there is none.
    """
    name = root.attrs.get(CURRENT)
    if name is None:
        return root
    if isinstance(name, str) and _NAME.fullmatch(name):
        found = root.get(name)
        if isinstance(found, zarr.Group):
            return found
    raise StoreError(f"{label} names {name!r} as its current version, which is not there. Restore a copy of it.")


def add(target: Target, contents: Contents, keep: int = 1) -> None:
    """Write a version, make it current, and delete all but the last ``keep``.

    Raises
    ------
    StoreError
        If that cannot be done. What was current before still is, unless all was done but to delete.
    """
    with explained(target, "cannot be written", "Choose a place that you may write to."):
        store = store_of(target)
        unfinished: dict[str, Any] = {FORMAT: VERSION, COMPLETE: False}
        root = _root(store, unfinished)
        number = 1 + _number(root.attrs.get(CURRENT))
        name = f"version-{number}"
        _write(root.create_group(name, overwrite=True), contents)
        if target.path is not None:
            flush(target.path / name)
        root.attrs.put({**unfinished, COMPLETE: True, CURRENT: name})
        if target.path is not None:
            flush_paths([target.path / "zarr.json", target.path])
            _sweep(target.path)
        prune(store, range(number - keep + 1, number + 1))


def _root(store: Store, attributes: dict[str, Any]) -> zarr.Group:
    """The root, made with some attributes where there is none.

    A service that does not replace objects as a whole, and is killed while it does, leaves a part of one. Whoever comes
    here has looked at the root when the run began, so that such a part was written by this run.
    """
    try:
        return zarr.open_group(store, mode="a", zarr_format=3, use_consolidated=False, attributes=attributes)
    except json.JSONDecodeError:
        Objects(store).delete("zarr.json")
        return zarr.open_group(store, mode="a", zarr_format=3, use_consolidated=False, attributes=attributes)


def prune(store: Store, kept: range = range(0)) -> None:
    """Delete versions but those of some numbers, whole or not."""
    objects = Objects(store)
    for name in objects.names():
        if _NAME.fullmatch(name) and _number(name) not in kept:
            objects.delete_below(name)


def _sweep(folder: Path) -> None:
    """Delete what Zarr has left of a root that it was writing when its process was killed."""
    for path in folder.glob("zarr.*.partial"):
        path.unlink(missing_ok=True)


def store_of(target: Target) -> Store:
    """The store of a place."""
    store: Store = target.store if target.path is None else LocalStore(target.path)
    return store


def _number(name: object) -> int:
    """The number of a version by its name, 0 for what is not one."""
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    return int(found[1]) if found else 0


def _write(group: zarr.Group, contents: Contents) -> None:
    for path, values in contents.arrays.items():
        parent, _, name = path.rpartition("/")
        array = (group.require_group(parent) if parent else group).create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=chunks_of(values), compressors=CODECS,
            config={"write_empty_chunks": True},
        )  # fmt: skip
        array[...] = values
    group.attrs.put(contents.attributes)
