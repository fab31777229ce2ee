"""A digest tells whether the rows of a source are still what they were."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import dvi
from dvi.data import digest
from dvi.data.readers import reader
from dvi.data.source import Source

ROWS = np.random.default_rng(0).normal(size=(2000, 3))


@pytest.fixture(autouse=True)
def few_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "DIGEST_BYTES", 100 * 24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty chunks, which are not shuffled."""
    dvi.ingest({"x": ROWS}, tmp_path / "rows", chunk_bytes=100 * 24, shuffle=False, progressbar=False)
    return tmp_path / "rows"


def of(*arrays: Any) -> list[str]:
    return digest.digests(Source.align([reader(array) for array in arrays]))


def test_a_row_that_has_changed_in_a_store_with_checksums(folder: Path) -> None:
    array = zarr.open_array(folder / "x", mode="r+")
    assert array.chunks == (100, 3)
    before = of(array)
    array[1234, 2] += 1e-9
    assert of(array) != before


def test_where_data_are_and_how_they_are_compressed_does_not_count_in_memory(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert of(folder / "x") == of(tmp_path / "copy" / "x") == of(xr.open_zarr(folder, chunks=None)["x"])
    assert of(ROWS) == of(ROWS.copy()) != of(ROWS + 1)


def test_rows_that_are_added_do_not_change_those_before(folder: Path) -> None:
    array = zarr.open_array(folder / "x", mode="r+")
    before = of(xr.open_zarr(folder, chunks=None)["x"][:1950])
    array.append(ROWS[:50])
    array[1950:] = 0.0
    assert of(xr.open_zarr(folder, chunks=None)["x"][:1950]) == before
    array[1949] = 0.0
    assert of(xr.open_zarr(folder, chunks=None)["x"][:1950]) != before


def test_every_array_has_its_own() -> None:
    one, two = of(ROWS, ROWS[:, 0])
    assert one != two
    assert of(ROWS, ROWS[:, 1])[0] == one
