"""Scheduled runs over a store that grows, on a disk and in an object store."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import LocalCluster

import dvi
from dvi.errors import ClusterError, DataError, ModelError, StoreDamagedError
from dvi.retraining import running
from dvi.retraining.carrying import carry
from dvi.retraining.runs import Runs
from tests.retraining.models import CHUNK, config_of, deliver, delivery, mean, with_other_data
from tests.storage.service import Service


def damage(folder: str, chunk: int, s3: Service | None) -> bytes:
    """Flip a bit of a chunk, and return what it was."""
    if s3 is None:
        path = Path(folder) / f"rows.zarr/y/c/{chunk}"
        before = path.read_bytes()
        path.write_bytes(flipped(before))
        return before
    key = f"{folder}/rows.zarr/y/c/{chunk}"
    before = s3.client().get_object(Bucket=s3.bucket, Key=key.removeprefix(f"s3://{s3.bucket}/"))["Body"].read()
    s3.put(key, flipped(before))
    return bytes(before)


def flipped(body: bytes) -> bytes:
    return body[:20] + bytes([body[20] ^ 1]) + body[21:]


def repair(folder: str, chunk: int, body: bytes, s3: Service | None) -> None:
    if s3 is None:
        (Path(folder) / f"rows.zarr/y/c/{chunk}").write_bytes(body)
    else:
        s3.put(f"{folder}/rows.zarr/y/c/{chunk}", body)


def check_promoted(runs: Runs, run: str, y: np.ndarray) -> None:
    """The promoted posterior is that of a normal mean with a normal prior."""
    assert runs.promoted() == run
    approx = dvi.load(runs.place(run, "approximation.zarr"))
    sd = 1 / np.sqrt(len(y) + 0.01)
    assert abs(approx.mean.eval()[0] - y.sum() * sd**2) < 0.2 * sd  # fitted by noisy gradients
    assert abs(approx.std.eval()[0] / sd - 1) < 0.1


@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_five_runs(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    s3 = request.getfixturevalue("s3") if kind == "s3" else None
    folder = str(tmp_path) if s3 is None else s3.url("five")
    config, store = config_of(folder, runs={"keep": 2}, fit={"steps": 1_500}), f"{folder}/rows.zarr"
    runs = Runs(config["runs"]["folder"])

    y = delivery(0)
    deliver(store, y)
    first = dvi.retrain(config)
    assert (first.kind, first.run[:6]) == ("promoted", "000001")
    check_promoted(runs, first.run, y[:-100])
    assert dvi.retrain(config).kind == "nothing new"

    deliver(store, delivery(1))
    y = np.append(y, delivery(1))
    second = dvi.retrain(config)
    assert second.kind == "promoted"
    check_promoted(runs, second.run, y[:-100])

    deliver(store, delivery(2))
    y = np.append(y, delivery(2))
    body = damage(folder, 25, s3)
    for _ in range(2):
        with pytest.raises(StoreDamagedError, match=r"rows\.zarr/y.*Its chunk 'c/25' is damaged"):
            dvi.retrain(config)
    assert runs.promoted() == second.run
    repair(folder, 25, body, s3)
    third = dvi.retrain(config)
    assert third.kind == "promoted"
    check_promoted(runs, third.run, y[:-100])

    deliver(store, delivery(3, mu=3.5))
    y = np.append(y, delivery(3, mu=3.5))
    careful = config | {"judge": config["judge"] | {"max_drift": 4.0}}
    fourth = dvi.retrain(careful)
    assert (fourth.kind, fourth.reason.partition(" is ")[0]) == ("rejected", "drift")
    assert runs.promoted() == third.run
    assert dvi.retrain(careful).kind == "nothing new"

    fifth = dvi.retrain(config)
    assert fifth.kind == "promoted"
    check_promoted(runs, fifth.run, y[: runs.plan(fifth.run).stop])
    assert runs.read(f"{fifth.run}/run.json")["verdict"]["evidence"]["difference"] > 0
    assert runs.names() == [fourth.run, fifth.run]
    assert runs.has(f"{fifth.run}/report.html")


def test_only_new_rows_with_the_posterior_carried_on(tmp_path: Path) -> None:
    config = config_of(
        str(tmp_path), data={"window": "new"}, fit={"carry_posterior": True, "steps": 1_500}, judge={"rows": 100}
    )
    y = delivery(0)
    deliver(tmp_path / "rows.zarr", y)
    assert dvi.retrain(config).kind == "promoted"
    deliver(tmp_path / "rows.zarr", delivery(1))
    y = np.append(y, delivery(1))
    outcome = dvi.retrain(config)
    runs = Runs(config["runs"]["folder"])
    plan = runs.plan(outcome.run)
    assert (plan.start, plan.stop, plan.end, plan.carried) == (900, 1900, 2000, True)
    check_promoted(runs, outcome.run, y[:1900])


def test_a_sliding_window(tmp_path: Path) -> None:
    config = config_of(str(tmp_path), data={"window": "sliding", "rows": 500}, fit={"steps": 1_500})
    y = delivery(0)
    deliver(tmp_path / "rows.zarr", y)
    outcome = dvi.retrain(config)
    check_promoted(Runs(config["runs"]["folder"]), outcome.run, y[400:900])


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["local", "address"])
def test_the_same_bits_on_a_cluster(kind: str, tmp_path: Path) -> None:
    deliver(tmp_path / "rows.zarr", delivery(0))
    found = []
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        own = {"kind": "local", "workers": 1}
        address = {"kind": "address", "address": cluster.scheduler_address}
        for where in ({"workers": 1}, own if kind == "local" else address):
            config = config_of(str(tmp_path), runs={"folder": str(tmp_path / f"runs{len(found)}")})
            outcome = dvi.retrain(config | {"cluster": where})
            found.append(dvi.load(f"{config['runs']['folder']}/{outcome.run}/approximation.zarr").theta.tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("cluster", [{"kind": "address", "address": "tcp://127.0.0.1:1", "start_seconds": 0.1}])
def test_a_cluster_that_is_not_there(cluster: dict[str, Any], tmp_path: Path) -> None:
    deliver(tmp_path / "rows.zarr", delivery(0))
    with pytest.raises(ClusterError, match="The cluster of kind 'address' is not there"):
        dvi.retrain(config_of(str(tmp_path), cluster=cluster) | {"cluster": cluster})


def test_other_data_of_a_model_would_count_again() -> None:
    rows = xr.Dataset({"y": ("row", delivery(0))})
    approx = dvi.fit(10, model=mean(rows), random_seed=1, progressbar=False)
    with pytest.raises(ModelError, match="other of the model are not in a Minibatch"):
        carry(with_other_data(rows), approx)


def test_a_store_that_was_replaced_is_refused(tmp_path: Path) -> None:
    config = config_of(str(tmp_path))
    deliver(tmp_path / "rows.zarr", delivery(0))
    dvi.retrain(config)
    dvi.ingest(
        {"y": delivery(5, 5 * CHUNK)}, tmp_path / "rows.zarr", overwrite=True, progressbar=False, chunk_bytes=8 * CHUNK
    )
    with pytest.raises(DataError, match="has 500 rows and does not begin with those of the promoted run 000001"):
        dvi.retrain(config)


@pytest.fixture
def ten_rows(tmp_path: Path) -> dict[str, Any]:
    deliver(tmp_path / "rows.zarr", delivery(0, 10))
    return config_of(str(tmp_path))


def test_a_model_that_fails_is_told(ten_rows: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="models:broken failed: KeyError: 'no such column'"):
        dvi.retrain(ten_rows | {"model": {"function": "tests.retraining.models:broken"}})


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    xr.Dataset({"x": ("a", np.zeros(5)), "y": ("b", np.zeros(6))}).to_zarr(tmp_path / "rows.zarr", consolidated=False)
    with pytest.raises(DataError, match=r"leading dimensions \['a', 'b'\]"):
        dvi.retrain(config_of(str(tmp_path)))


def test_when_a_run_was_promoted_is_known_unless_somebody_does_not_say(tmp_path: Path) -> None:
    runs = Runs(str(tmp_path))
    assert runs.promoted_at() == 0
    runs.promote("000001-0123456789ab")
    assert abs(time.time() - runs.promoted_at()) < 60
    runs.write("promoted.json", {"run": "000001-0123456789ab"})
    assert math.isnan(runs.promoted_at())


def test_a_cluster_that_does_not_go_costs_no_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def endless(config: object) -> Iterator[dict[str, Any]]:
        yield {"client": None, "threads": 1}
        raise ClusterError("planted")

    deliver(tmp_path / "rows.zarr", delivery(0))
    config = config_of(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(running, "computing", endless)
        with pytest.raises(ClusterError, match="planted"):
            dvi.retrain(config)
    monkeypatch.setattr(running, "_judged", None)
    assert dvi.retrain(config).kind == "promoted"
