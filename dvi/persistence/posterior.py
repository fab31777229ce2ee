"""Draws in a Zarr group, written block by block. Whole or absent."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from dvi.data.store import COMPLETE, Target
from dvi.errors import StoreExistsError, StoreNotFoundError
from dvi.persistence.places import CODECS, explained, label_of, open_root, place_of


def write_posterior(store: Any, blocks: Iterator[xr.Dataset]) -> xr.DataTree:
    """Write draws as the group ``posterior`` and open it lazily.

    Parameters
    ----------
    store : path, URL or Zarr store
        Where nothing is yet. Folders above a path are made.
    blocks : iterator of Dataset
        Consecutive draws with the dimension ``draw``. All but the last have the length of the first.

    Raises
    ------
    StoreExistsError
        If there is something.
    StoreError
        If it cannot be written.
    """
    target = place_of(store)
    _check_free(target)
    with explained(target, "cannot be written", "Choose a place that you may write to."):
        if target.path is None:
            _write(blocks, target.store)
            where = target.store
        else:
            where = _write_beside(blocks, target, target.path)
        tree: xr.DataTree = xr.open_datatree(where, engine="zarr", chunks=None)
    return tree


def _check_free(target: Target) -> None:
    """Refuse to replace anything but what a write that was stopped has left in a store without rename."""
    try:
        found = open_root(target).attrs.asdict()
    except StoreNotFoundError:
        return
    if target.path is not None or found.get(COMPLETE) is not False:
        raise StoreExistsError(f"{label_of(target)} exists already. Choose another name, or delete it.")


def _write_beside(blocks: Iterator[xr.Dataset], target: Target, path: Path) -> Path:
    """Write in a hidden folder beside the path, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        _write(blocks, work / "new")
        _check_free(target)  # once more: drawing takes a while
        (work / "new").replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def _write(blocks: Iterator[xr.Dataset], where: Any) -> None:
    """Write the draws, and after them the attribute that makes them a whole."""
    zarr.open_group(where, mode="a", zarr_format=3, attributes={COMPLETE: False}).attrs.put({COMPLETE: False})
    first = next(blocks)
    first.to_zarr(
        where, group="posterior", mode="w", zarr_format=3, consolidated=False, write_empty_chunks=True,
        encoding={name: _encoding(v) for name, v in first.variables.items()},
    )  # fmt: skip
    for block in blocks:
        block.to_zarr(where, group="posterior", append_dim="draw", consolidated=False, write_empty_chunks=True)
    group = zarr.open_group(where, mode="r+", use_consolidated=False)
    group.attrs.put({COMPLETE: True})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(group.store, path=group.path or None)


def _encoding(variable: xr.Variable) -> dict[str, Any]:
    """One chunk for each block, with a checksum."""
    return {"compressors": CODECS, "chunks": tuple(int(n) for n in np.maximum(1, variable.shape))}
