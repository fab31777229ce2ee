"""Reading what is in a place, which another process may be replacing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import zarr

from dvi.data.store import Target
from dvi.errors import StoreDamagedError, StoreError
from dvi.persistence.places import explained, label_of, open_root
from dvi.persistence.records import GROUPS, check_format
from dvi.persistence.versions import current

_ATTEMPTS = 3  # to read a store that is being replaced


def read[T](target: Target, build: Callable[[zarr.Group, Mapping[str, Any], tuple[str, ...]], T]) -> T:
    """What a function builds from the current version, read again where another process replaced it meanwhile.

    Parameters
    ----------
    target : Target
    build : callable
        Of a group, its attributes, and the names of the groups that have to be in it. Whatever it raises means that the
        store is damaged.

    Raises
    ------
    StoreNotFoundError
        If there is nothing.
    StoreDamagedError
        If it is damaged.
    StoreError
        If there is something else, or if it was not written to its end.
    """
    label = label_of(target)
    for _ in range(_ATTEMPTS):
        root = open_root(target)
        before = root.attrs.asdict()
        try:
            check_format(before, label)
            with explained(target, "is damaged", "Restore a copy of it, or fit again.", StoreDamagedError):
                group = current(root, label)
                attributes = group.attrs.asdict()
                check_format(attributes, label)
                built = build(group, attributes, GROUPS if group == root else GROUPS[1:])
        except StoreError:
            if open_root(target).attrs.asdict() == before:
                raise
            continue
        if open_root(target).attrs.asdict() == before:
            return built
    raise StoreError(f"{label} was replaced again and again while it was read. Try later.")
