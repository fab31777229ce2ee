"""An ingest that stops, anywhere and in any way, leaves no store, and goes on when it is called again."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from dvi.data import ingest as driver
from dvi.data.arrays import ArrayRows, array_rows
from dvi.data.ingest import ingest
from dvi.data.schema import Batch
from dvi.data.store import open_ingested, target_of
from dvi.errors import StoreError
from tests.stopping import ENDLESS, StoppingStore

N = 600
OPTIONS: dict[str, Any] = {"memory_bytes": 20_000, "chunk_bytes": 800, "progressbar": False}


class StopError(Exception):
    """What stops the work in these tests."""


class Watched:
    """A source of rows that records where it is read from, and fails before batch number ``batches``."""

    def __init__(self, inner: ArrayRows, batches: int = -1, fail: Callable[[], None] = lambda: None) -> None:
        self.inner, self.batches, self.fail = inner, batches, fail
        self.starts: list[int] = []
        self.label, self.fingerprint, self.row_dim = inner.label, inner.fingerprint, inner.row_dim
        self.n_rows, self.names, self.known, self.layout = inner.n_rows, inner.names, inner.known, inner.layout

    def read(self, start: int, names: Sequence[str], nbytes: int, text: Collection[str] = ()) -> Iterator[Batch]:
        self.starts.append(start)
        for number, batch in enumerate(self.inner.read(start, names, nbytes, text)):
            if number == self.batches:
                self.fail()
            yield batch


def interrupt() -> None:
    raise StopError


def rows() -> ArrayRows:
    x = np.arange(N * 3.0).reshape(N, 3)
    return array_rows({"x": x, "y": np.where(np.arange(N) % 5 == 0, np.nan, x[:, 0])}, "test")


def content(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", params=[(True, False), (False, False), (True, True), (False, True)], ids=str)
def uninterrupted(request, tmp_path_factory) -> tuple[dict[str, Any], dict[str, bytes]]:
    shuffle, dropna = request.param
    options = {**OPTIONS, "shuffle": shuffle, "dropna": dropna}
    store = tmp_path_factory.mktemp("whole") / "store.zarr"
    ingest(rows(), store, **options)
    return options, content(store)


@pytest.mark.parametrize("batches", [0, 1, 4])
def test_a_source_that_fails(batches, uninterrupted, tmp_path) -> None:
    options, expected = uninterrupted
    store = tmp_path / "store.zarr"
    with pytest.raises(StopError) as caught:
        ingest(Watched(rows(), batches, interrupt), store, **options)
    assert "call dvi.ingest again with the same arguments" in caught.value.__notes__[0]
    assert not store.exists()
    again = Watched(rows())
    ingest(again, store, **options)
    assert content(store) == expected
    assert (again.starts[0] > 0) == (batches > 0)


@pytest.mark.parametrize("slabs", [0, 1, 5])
def test_a_writer_that_fails(slabs, uninterrupted, tmp_path, monkeypatch) -> None:
    options, expected = uninterrupted
    written: list[int] = []

    def failing(arrays: Any, start: int, records: Any, write: Any = driver.write_rows) -> None:
        write(arrays[: 1 if len(written) == slabs else None], start, records)
        if len(written) == slabs:
            interrupt()
        written.append(start)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "write_rows", failing)
        with pytest.raises(StopError):
            ingest(rows(), tmp_path / "store.zarr", **options)
    assert not (tmp_path / "store.zarr").exists()
    again = Watched(rows())
    ingest(again, tmp_path / "store.zarr", **options)
    assert content(tmp_path / "store.zarr") == expected
    if options["shuffle"]:
        assert again.starts == []


@pytest.mark.parametrize("step", ["finish_group", "publish", "create_group"])
def test_a_step_that_fails(step, uninterrupted, tmp_path, monkeypatch) -> None:
    options, expected = uninterrupted
    store = tmp_path / "store.zarr"
    ingest({"x": np.zeros(3)}, store, progressbar=False)
    before = content(store)
    with monkeypatch.context() as patch:
        patch.setattr(driver, step, lambda *args: interrupt())
        with pytest.raises(StopError):
            ingest(rows(), store, overwrite=True, **options)
    assert content(store) == before
    ingest(rows(), store, overwrite=True, **options)
    assert content(store) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["store.zarr"]


def test_after_the_group_was_moved_it_is_made_again(tmp_path, monkeypatch) -> None:
    store = tmp_path / "store.zarr"
    with monkeypatch.context() as patch:
        patch.setattr("dvi.data.workspace.Workspace.remove", lambda self: interrupt())
        with pytest.raises(StopError):
            ingest(rows(), store, **OPTIONS)
    before = content(store)
    ingest(rows(), store, overwrite=True, **OPTIONS)
    assert content(store) == before


@pytest.mark.parametrize("change", ["source", "seed", "memory"])
def test_with_another_source_or_argument_it_starts_again(change, tmp_path) -> None:
    store = tmp_path / "store.zarr"
    with pytest.raises(StopError):
        ingest(Watched(rows(), 3, interrupt), store, **OPTIONS)
    source = rows() if change != "source" else array_rows({"x": np.ones((N, 3)), "y": np.ones(N)}, "test")
    changes = {"seed": {"random_seed": 1}, "memory": {"memory_bytes": 30_000}}
    again = Watched(source)
    ds = ingest(again, store, **OPTIONS | changes.get(change, {}))
    assert again.starts == [0]
    assert np.array_equal(np.sort(ds["x"].values, axis=0), np.sort(source.dataset["x"].values, axis=0))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_go_on_where_they_stopped(suffix, tmp_path, monkeypatch) -> None:
    frame = pd.DataFrame({"a": np.arange(3000.0), "c": ["u", "v", "w"] * 1000})
    source = tmp_path / f"table.{suffix}"
    frame.to_csv(source, index=False) if suffix == "csv" else frame.to_parquet(source, row_group_size=500)
    options = {**OPTIONS, "memory_bytes": 100_000}
    expected = ingest(source, tmp_path / "expected.zarr", **options)
    append = driver.Buckets.append
    saved: list[int] = []
    again: list[int] = []

    def failing(self: Any, records: Any) -> None:
        if len(saved) == 3:
            interrupt()
        saved.append(len(records))
        append(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(driver.Buckets, "append", failing)
        with pytest.raises(StopError):
            ingest(source, tmp_path / "store.zarr", **options)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "scan", None)  # what was found is known
        patch.setattr(
            driver.Buckets, "append", lambda self, records: again.append(len(records)) or append(self, records)
        )
        ds = ingest(source, tmp_path / "store.zarr", **options)
    assert sum(again) == len(frame) - sum(saved) < len(frame)
    assert ds.identical(expected.assign_attrs(ds.attrs))


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_ingest_restart import OPTIONS, Watched, ingest, rows
ingest(Watched(rows(), 4, lambda: os.kill(os.getpid(), signal.SIGKILL)), sys.argv[1], **OPTIONS)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process(tmp_path) -> None:
    store = tmp_path / "store.zarr"
    command = [sys.executable, "-c", KILLED, str(store), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False, cwd=Path.cwd()).returncode == -signal.SIGKILL
    assert not store.exists()
    again = Watched(rows())
    ingest(again, store, **OPTIONS)
    ingest(rows(), tmp_path / "expected.zarr", **OPTIONS)
    assert again.starts[0] > 0
    assert content(store) == content(tmp_path / "expected.zarr")


def test_an_unfinished_group_in_a_store_that_cannot_rename_is_refused(monkeypatch) -> None:
    store = zarr.storage.MemoryStore()
    with monkeypatch.context() as patch:
        patch.setattr(driver, "finish_group", lambda *args: interrupt())
        with pytest.raises(StopError):
            ingest(rows(), store, **OPTIONS)
    with pytest.raises(StoreError, match="was not written to its end"):
        open_ingested(target_of(store))
    with pytest.raises(StoreError, match="was not written to its end"):
        ingest(zarr.open_group(store), "never.zarr", progressbar=False)
    assert ingest(rows(), store, **OPTIONS).attrs["dvi_complete"] is True


def test_an_ingest_that_is_stopped_at_any_write_to_a_store_that_cannot_rename_can_be_repeated() -> None:
    expected = zarr.storage.MemoryStore()
    ingest(rows(), expected, **OPTIONS)
    for left in itertools.chain(range(10), itertools.count(10, step=20)):
        store = StoppingStore()
        store.left = left
        with suppress(ConnectionError):
            ingest(rows(), store, **OPTIONS)
            break
        store.left = ENDLESS
        ingest(rows(), store, **OPTIONS)
        assert np.array_equal(zarr.open_group(store)["x"][...], zarr.open_group(expected)["x"][...])
    assert left > 10
