"""Where a group is found, what may be replaced, and how failures of stores are told."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from dvi.data.chunks import without_secrets
from dvi.data.locations import Options, checked_path
from dvi.data.store import COMPLETE, Target, target_of
from dvi.errors import DviError, StoreError, StoreExistsError, StoreNotFoundError
from dvi.types import AnyArray

FORMAT = "dvi_format"  # attribute of every root that is written here
VERSION = 2  # its value; since 1 the parameters of full and low rank have another meaning
_ATTEMPTS = 3  # to open a group that is being replaced

_CHUNK_BYTES = 32 * 2**20
CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec())


def place_of(store: Any, storage_options: Options | None = None) -> Target:
    """Where a group is; links are followed, so that a save through one replaces what it points to."""
    if isinstance(store, str | os.PathLike) and "://" not in os.fspath(store):
        store = os.path.expanduser(os.fspath(checked_path(store)))  # noqa: PTH111  Path("") would be the current folder
    target = target_of(store, storage_options)
    return target if target.path is None else replace(target, path=target.path.resolve())


def label_of(target: Target) -> str:
    """The name of a store in messages."""
    return without_secrets(target.label)


@contextmanager
def explained(target: Target, what: str, remedy: str, kind: type[StoreError] = StoreError) -> Iterator[None]:
    """Every failure of a store as one kind of error. Stores and damaged files raise whatever they like."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, DviError | ValueError) else f"{type(error).__name__}: {error}"
        raise kind(f"{label_of(target)} {what} ({without_secrets(reason)}). {remedy}") from error


def check_free(target: Target, overwrite: bool) -> None:
    """Refuse to replace a saved approximation unasked, and ever to replace anything else.

    Raises
    ------
    StoreExistsError
        If there is something and ``overwrite`` is False.
    StoreError
        If there is something that was not written here.
    """
    try:
        found = open_root(target).attrs.asdict()
    except StoreNotFoundError:
        return
    except StoreError:
        if target.path is None:
            raise
        found = {}
    ours = FORMAT in found
    if ours and target.path is None and found.get(COMPLETE) is not True:  # left by a save that was stopped
        return
    if not overwrite:
        remedy = "Read it with dvi.load, pass overwrite=True to replace it, or choose" if ours else "Choose"
        raise StoreExistsError(f"{label_of(target)} exists already. {remedy} another name.")
    if not ours:
        raise StoreError(
            f"{label_of(target)} is not a saved approximation and is not replaced. Choose another name, or delete it."
        )


def open_root(target: Target) -> zarr.Group:
    """The group as it is now, without consolidated metadata, which may be older than it.

    Raises
    ------
    StoreNotFoundError
        If there is nothing.
    StoreError
        If there is something else.
    """
    with explained(target, "is not a Zarr group that can be read", "Pass what approx.save wrote."):
        if target.path is not None:
            return _open_local(target.path, label_of(target))
        try:
            return zarr.open_group(target.store, mode="r", use_consolidated=False)
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"There is no Zarr group at {label_of(target)}. Check the address.") from error


def _open_local(path: Path, label: str) -> zarr.Group:
    for attempt in range(_ATTEMPTS):
        place = found(path)
        if place is None:
            raise StoreNotFoundError(f"There is nothing at {label}. Check the path.")
        try:
            return zarr.open_group(LocalStore(place, read_only=True), mode="r", use_consolidated=False)
        except FileNotFoundError:  # moved meanwhile, or not a group
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def chunks_of(values: xr.Variable | AnyArray) -> tuple[int, ...]:
    """Chunks of bounded size, cut along the longest axis."""
    chunks = [max(1, n) for n in values.shape]
    if chunks:
        axis = int(np.argmax(chunks))
        row = math.prod(chunks) // chunks[axis] * values.dtype.itemsize
        chunks[axis] = min(chunks[axis], max(1, _CHUNK_BYTES // row))
    return tuple(chunks)


def flush(folder: Path) -> None:
    """Have the disk hold all files of a folder, so that not even a power cut leaves a renamed but empty store."""
    flush_paths([*folder.rglob("*"), folder])


def flush_paths(paths: Iterable[Path]) -> None:
    """Have the disk hold files, and the names in folders."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError:
            if not path.is_dir():  # some file systems do not know it for folders
                raise
        finally:
            os.close(descriptor)


def aside(path: Path) -> Path:
    """Where a group is between the two moves that replace it."""
    return path.with_name(f".{path.name}.replaced")


def found(path: Path) -> Path | None:
    """Where to read: the path, or beside it while, or since, a save was stopped between its two moves.

    Another process may make the second move between the first two looks; then the third finds the new group.
    """
    return next((place for place in (path, aside(path), path) if not is_free(place)), None)


def is_free(path: Path) -> bool:
    """Whether a local path holds nothing; an empty folder is nothing."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
