"""Where a group is written so that it is whole or absent, and where it is then found.

A local group is made in a hidden folder beside its path and renamed. Object stores have no rename: there, the root's
attributes are written last, and a group without them is not read.
"""

from __future__ import annotations

import glob
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from dvi.data.chunks import without_secrets
from dvi.data.store import COMPLETE, Target, target_of
from dvi.errors import DviError, StoreError, StoreExistsError, StoreNotFoundError

FORMAT = "dvi_format"  # attribute of every root that is written here
VERSION = 1  # its value
_ATTEMPTS = 3  # to open a group that is being replaced
_STALE_SECONDS = 24 * 3600.0  # after which a folder of work is that of a process that was killed

_CHUNK_BYTES = 32 * 2**20
_CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec())


def place_of(store: Any) -> Target:
    """Where a group is; links are followed, so that a save through one replaces what it points to."""
    if isinstance(store, str | os.PathLike) and "://" not in os.fspath(store):
        store = os.path.expanduser(os.fspath(store))  # noqa: PTH111  Path("") would be the current folder
    target = target_of(store)
    return target if target.path is None else replace(target, path=target.path.resolve())


def label_of(target: Target) -> str:
    """The name of a store in messages."""
    return without_secrets(target.label)


@contextmanager
def explained(target: Target, what: str, remedy: str) -> Iterator[None]:
    """Every failure of a store as one kind of error. Stores and damaged files raise whatever they like."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, DviError | ValueError) else f"{type(error).__name__}: {error}"
        raise StoreError(f"{label_of(target)} {what} ({without_secrets(reason)}). {remedy}") from error


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
        place = _place(path)
        if place is None:
            raise StoreNotFoundError(f"There is nothing at {label}. Check the path.")
        try:
            return zarr.open_group(LocalStore(place, read_only=True), mode="r", use_consolidated=False)
        except FileNotFoundError:  # moved meanwhile, or not a group
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def put(target: Target, tree: xr.DataTree, attributes: dict[str, Any], overwrite: bool) -> None:
    """Write groups and the attributes of their root, and replace what `check_free` lets replace.

    Parameters
    ----------
    target : Target
    tree : DataTree
        Groups of arrays in memory, one level deep.
    attributes : dict
        JSON. They make the group a whole, and are the last to be written.
    """
    with explained(target, "cannot be written", "Choose a place that you may write to."):
        if target.path is None:
            check_free(target, overwrite)
            _write_in_place(tree, attributes, target.store)
        else:
            _write_beside(tree, attributes, target, target.path, overwrite)


def _write(tree: xr.DataTree, attributes: dict[str, Any], store: Any, mode: Any = "w-") -> None:
    """Write the groups, and after them the attributes that make them a whole."""
    encoding = {node.path: {k: _encoding(v) for k, v in node.variables.items()} for node in tree.leaves}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", category=UserWarning)
        tree.to_zarr(store, mode=mode, zarr_format=3, encoding=encoding, write_empty_chunks=True)
    zarr.open_group(store, mode="r+").attrs.put(attributes)


def _encoding(variable: xr.Variable) -> dict[str, Any]:
    """Checksums everywhere, so that a damaged byte is an error; chunks of bounded size, cut along the longest axis."""
    chunks = [max(1, n) for n in variable.shape]
    if chunks:
        axis = int(np.argmax(chunks))
        row = math.prod(chunks) // chunks[axis] * variable.dtype.itemsize
        chunks[axis] = min(chunks[axis], max(1, _CHUNK_BYTES // row))
    return {"compressors": _CODECS, "chunks": tuple(chunks)}


def _write_in_place(tree: xr.DataTree, attributes: dict[str, Any], store: Any) -> None:
    """For stores that cannot rename. What is there is marked as not complete before any of it goes."""
    try:
        group = zarr.open_group(store, mode="r+", use_consolidated=False)
    except FileNotFoundError:
        _write(tree, attributes, store)
        return
    group.attrs.put({FORMAT: VERSION, COMPLETE: False})
    for name in tree.children:
        with suppress(KeyError):
            del group[name]
    _write(tree, attributes, store, mode="a")


def _write_beside(tree: xr.DataTree, attributes: dict[str, Any], target: Target, path: Path, overwrite: bool) -> None:
    """For folders: what is there stays until the moment in which the new group takes its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        _write(tree, attributes, LocalStore(work / "new"))
        _flush(work / "new")
        check_free(target, overwrite)  # once more: sampling and writing take a while
        _publish(work / "new", path, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Delete what saves that were killed have left."""
    for work in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):
            if time.time() - work.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(work, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Have the disk hold all files of a folder, so that not even a power cut leaves a renamed but empty store."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError:
            if not path.is_dir():  # some file systems do not know it for folders
                raise
        finally:
            os.close(descriptor)


def _publish(new: Path, path: Path, work: Path) -> None:
    """Move a group to its path, and what was there to the work folder. At every moment :func:`_place` finds one."""
    aside = _aside(path)
    if _is_free(path):
        _move(new, path)
    else:
        if aside.exists():  # left by a save that was killed after its second move
            _move(aside, work / "stale")
        _move(path, aside)
        try:
            _move(new, path)
        except OSError:
            _move(aside, path)
            raise
    if aside.exists():
        _move(aside, work / "replaced")


def _move(old: Path, new: Path) -> None:
    old.replace(new)


def _aside(path: Path) -> Path:
    """Where a group is between the two moves that replace it."""
    return path.with_name(f".{path.name}.replaced")


def _place(path: Path) -> Path | None:
    """Where to read: the path, or beside it while, or since, a save was stopped between its two moves.

    Another process may make the second move between the first two looks; then the third finds the new group.
    """
    return next((place for place in (path, _aside(path), path) if not _is_free(place)), None)


def _is_free(path: Path) -> bool:
    """Whether a local path holds nothing; an empty folder is nothing."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
