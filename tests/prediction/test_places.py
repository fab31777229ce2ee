"""Predictions are the same wherever they run, and whatever stops them half way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zarr
from distributed import Client, LocalCluster
from zarr.storage import MemoryStore

import dvi
from dvi.approximation import Approximation
from dvi.errors import (
    StoreError,
    StoreExistsError,
)
from dvi.prediction import predict, running
from tests.prediction.cases import QUIET, data, same


@pytest.mark.usefixtures("small_items")
@pytest.mark.parametrize("kind", ["draws", "summary"])
def test_every_place_gives_the_same_bits(kind: str, approx: Approximation, tmp_path: Path) -> None:
    expected = predict(approx, kind=kind, threads=1, **QUIET)
    same(predict(approx, kind=kind, threads=3, **QUIET), expected)
    same(predict(approx, store=tmp_path / "threads.zarr", kind=kind, threads=2, **QUIET), expected)
    same(predict(approx, store=MemoryStore(), kind=kind, threads=2, **QUIET), expected)
    settings: dict[str, Any] = {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**settings) as cluster, Client(cluster) as client:
        same(predict(approx, kind=kind, client=client, **QUIET), expected)
        same(predict(approx, store=tmp_path / "workers.zarr", kind=kind, **QUIET), expected)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("small_items")
def test_processes_give_the_same_bits_though_one_is_killed(
    approx: Approximation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predict(approx, threads=1, **QUIET)
    stored = dvi.ingest(
        dict(zip(("x", "y", "counts"), data(), strict=True)), tmp_path / "data.zarr", shuffle=False, progressbar=False
    )
    new = {"minibatch.0": stored["x"]}
    original, killed = running.items_of, []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        same(predict(approx, client=client, **QUIET), expected)

        def kill_at_third(*args: Any, **kwargs: Any) -> Any:
            for i, item in enumerate(original(*args, **kwargs)):
                if i == 2:
                    killed.append(min(client.run(os.getpid).values()))
                    os.kill(killed[0], signal.SIGKILL)
                yield item

        with monkeypatch.context() as patch:
            patch.setattr(running, "items_of", kill_at_third)
            tree = predict(approx, new, tmp_path / "p.zarr", client=client, **QUIET)
    assert killed
    assert tree["predictions"]["y"].values.tobytes() == expected["posterior_predictive"]["y"].values.tobytes()


class StopError(Exception):
    """Ends a call half way."""


def stop_after(monkeypatch: pytest.MonkeyPatch, n_items: int) -> None:
    original = running.compute
    done = []

    def stopping(jobs: Any, place: Any, item: Any) -> Any:
        if len(done) == n_items:
            raise StopError
        done.append(item.start)
        return original(jobs, place, item)

    monkeypatch.setattr(running, "compute", stopping)


@pytest.mark.usefixtures("small_items")
@pytest.mark.parametrize("remote", [False, True], ids=["folder", "store without rename"])
def test_a_call_that_was_stopped_finishes_what_is_missing(
    remote: bool, approx: Approximation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = MemoryStore() if remote else tmp_path / "p.zarr"
    expected = predict(approx, **QUIET)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StopError):
            predict(approx, store=store, threads=1, **QUIET)
    assert remote or not store.exists()
    with pytest.raises(StoreExistsError, match=r"random_seed was 3\. Repeat that call"):
        predict(approx, store=store, **{**QUIET, "random_seed": 4})
    with pytest.raises(StoreExistsError, match="model, data, draws or kind differ"):
        predict(approx, store=store, kind="summary", **QUIET)
    computed: list[int] = []
    original = running.compute

    def counting(jobs: Any, place: Any, item: Any) -> Any:
        computed.append(item.start)
        return original(jobs, place, item)

    with monkeypatch.context() as patch:
        patch.setattr(running, "compute", counting)
        tree = predict(approx, store=store, threads=1, **{**QUIET, "random_seed": None})  # that of the call before
    assert sorted(computed) == [1200, 1800, 2400]
    same(tree, expected)
    assert set(tree.children) == {"posterior_predictive"} and not list(tmp_path.glob("*partial*"))
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        predict(approx, store=store, **QUIET)
    same(predict(approx, store=store, overwrite=True, **QUIET), expected)


@pytest.mark.usefixtures("small_items")
def test_overwrite_discards_the_unfinished_result_of_another_call(
    approx: Approximation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StopError):
            predict(approx, store=tmp_path / "p.zarr", threads=1, **QUIET)
    settings = {**QUIET, "random_seed": 5}
    tree = predict(approx, store=tmp_path / "p.zarr", kind="summary", overwrite=True, **settings)
    same(tree, predict(approx, kind="summary", **settings))


def test_nothing_else_is_replaced(approx: Approximation, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "data.zarr" / "x", shape=(3,), dtype="f8")
    zarr.open_group(tmp_path / "data.zarr", mode="a")
    with pytest.raises(StoreExistsError, match="Choose another name"):
        predict(approx, store=tmp_path / "data.zarr", **QUIET)
    with pytest.raises(StoreError, match="is not replaced"):
        predict(approx, store=tmp_path / "data.zarr", overwrite=True, **QUIET)
    assert (tmp_path / "data.zarr" / "x").exists()


def test_two_processes_do_not_write_one_store(approx: Approximation, tmp_path: Path) -> None:
    import filelock

    folder = tmp_path / "p.zarr.partial"
    folder.mkdir()
    with filelock.FileLock(folder / "lock"), pytest.raises(StoreError, match="Another process is writing"):
        predict(approx, store=tmp_path / "p.zarr", **QUIET)


@pytest.mark.slow
def test_a_killed_process_is_finished_by_another(tmp_path: Path) -> None:
    """The whole process goes, without a chance to tidy up."""
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.prediction import cases as t
from dvi.prediction import running, predict
from dvi.prediction.grid import Grid
running.grid_of = lambda n_rows, *_, **__: Grid(n_rows, 600, 200, 64)
if sys.argv[1] == "kill":
    original, done = running.compute, []
    def compute(jobs, place, item):
        if len(done) == 3:
            os._exit(9)
        done.append(item)
        return original(jobs, place, item)
    running.compute = compute
import numpy as np, pymc as pm, dvi
x, y, counts = dvi.Minibatch(*t.data(), batch_size=100)
with pm.Model() as model:
    pm.Normal("y", x @ pm.Normal("beta", shape=3), pm.HalfNormal("s"), observed=y)
tree = predict(t.approximation(model), store=sys.argv[2], threads=1, **t.QUIET)
same = predict(t.approximation(model), threads=1, **t.QUIET)
t.same(tree, same)
"""
    store = tmp_path / "p.zarr"
    for mode, status in (("kill", 9), ("finish", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, mode, str(store)], check=False, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        assert store.exists() == (status == 0)
