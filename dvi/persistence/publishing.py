"""Writing a group so that it is whole or absent, and replacing one so that there is one at every moment.

A local group is made in a hidden folder beside its path and renamed. Other stores have no rename: there, what is
replaced gives way to a version of the new one, see `dvi.persistence.versions`, until the new one is whole.
"""

from __future__ import annotations

import glob
import shutil
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.storage import LocalStore

from dvi.data.store import Target
from dvi.persistence.places import CODECS, aside, check_free, chunks_of, explained, flush, is_free
from dvi.persistence.versions import Contents, add, prune

_STALE_SECONDS = 24 * 3600.0  # after which a folder of work is that of a process that was killed


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
            _write_in_place(tree, attributes, target)
        else:
            _write_beside(tree, attributes, target, target.path, overwrite)


def _write(tree: xr.DataTree, attributes: dict[str, Any], store: Any, mode: Any = "w-") -> None:
    """Write the groups, and after them the attributes that make them a whole."""
    encoding = {node.path: {k: _encoding(v) for k, v in node.variables.items()} for node in tree.leaves}
    tree.to_zarr(store, mode=mode, zarr_format=3, encoding=encoding, write_empty_chunks=True, consolidated=False)
    zarr.open_group(store, mode="r+", use_consolidated=False).attrs.put(attributes)


def _consolidate(store: Any) -> None:
    """Note in one object what there is, for those who open the group later."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(store)


def _encoding(variable: xr.Variable) -> dict[str, Any]:
    """Checksums everywhere, so that a damaged byte is an error."""
    return {"compressors": CODECS, "chunks": chunks_of(variable)}


def _write_in_place(tree: xr.DataTree, attributes: dict[str, Any], target: Target) -> None:
    """For stores that cannot rename: what is read until all is written is a version of the new one."""
    store = target.store
    try:
        group = zarr.open_group(store, mode="r+", use_consolidated=False)
    except FileNotFoundError:  # xarray makes a root first, and says later what it is
        zarr.create_group(store, zarr_format=3, attributes={str(k): v for k, v in tree.attrs.items()})
        _write(tree, attributes, store, mode="a")
    else:
        arrays = {name: np.asarray(tree[name]) for name in ("approximation/theta", "history/loss")}
        add(target, Contents(arrays, attributes))
        for name in tree.children:
            with suppress(KeyError):
                del group[name]
        tree.attrs = zarr.open_group(store, mode="r", use_consolidated=False).attrs.asdict()
        _write(tree, attributes, store, mode="a")
        prune(store)
    _consolidate(store)


def _write_beside(tree: xr.DataTree, attributes: dict[str, Any], target: Target, path: Path, overwrite: bool) -> None:
    """For folders: what is there stays until the moment in which the new group takes its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        _write(tree, attributes, LocalStore(work / "new"))
        _consolidate(LocalStore(work / "new"))
        flush(work / "new")
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


def _publish(new: Path, path: Path, work: Path) -> None:
    """Move a group to its path, and what was there to the work folder. At every moment `open_root` finds one."""
    beside = aside(path)
    if is_free(path):
        _move(new, path)
    else:
        if beside.exists():  # left by a save that was killed after its second move
            _move(beside, work / "stale")
        _move(path, beside)
        try:
            _move(new, path)
        except OSError:
            _move(beside, path)
            raise
    if beside.exists():
        _move(beside, work / "replaced")


def _move(old: Path, new: Path) -> None:
    old.replace(new)
