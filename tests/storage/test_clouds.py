"""Every place that takes a URL, with what opens it given as storage_options alone, on an emulator of each cloud."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from typer.testing import CliRunner

import dvi
from dvi.cli import app
from dvi.errors import ArgumentError, StoreError, StoreExistsError
from dvi.persistence.leases import take
from dvi.persistence.places import place_of
from tests.retraining.models import config_of, deliver, delivery
from tests.storage import clouds
from tests.storage.clouds import Cloud
from tests.storage.service import Service
from tests.storage.test_s3 import CHUNK, QUIET, N, table

STEPS = 40
Places = Any


@pytest.fixture(scope="module", params=["amazon", "azure", "google"])
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ExitStack() as stack:
        match request.param:
            case "amazon":
                yield clouds.amazon(request.getfixturevalue("service"))
            case "azure":
                yield stack.enter_context(clouds.azure(tmp_path_factory.mktemp("azure")))
            case "google":
                yield stack.enter_context(clouds.google())


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    """An environment that knows no store."""
    for name in service.environment:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def model_of(rows: Any, **options: Any) -> pm.Model:
    x, y = dvi.Minibatch(f"{rows}/x", f"{rows}/y", batch_size=CHUNK, **options)
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 10), pm.Normal("b", 0, 10)
        pm.Normal("y", a + b * x, 1, observed=y)
    return model


def stop_half_way(_: Any, losses: Any, i: int) -> None:
    if i == STEPS // 2:
        raise StoppedError


class StoppedError(Exception):
    """What ends a fit."""


def everything(place: Any, **options: Any) -> list[bytes]:
    """All of dvi in one folder, as bits."""
    dvi.ingest(table(), place("rows.zarr"), chunk_bytes=CHUNK * 8, progressbar=False, **options)
    model = model_of(place("rows.zarr"), **options)
    where = {"checkpoint": place("checkpoint"), "checkpoint_every": 1e-3, **options}
    with pytest.raises(StoppedError):
        dvi.fit(STEPS, model=model, threads=1, callbacks=[stop_half_way], **where, **QUIET)
    approx = dvi.resume(place("checkpoint"), model, threads=1, callbacks=[], progressbar=False, **options)
    whole = dvi.fit(STEPS, model=model, threads=1, **QUIET)
    assert approx.theta.tobytes() == whole.theta.tobytes()
    approx.save(place("posterior.zarr"), **options)
    loaded = dvi.load(place("posterior.zarr"), model, **options)
    drawn: dict[str, Any] = {"draws": 20, "threads": 1, **QUIET, **options}
    predicted = dvi.predict(loaded, store=place("predictions.zarr"), **drawn)["posterior_predictive"]["y"]
    likely = dvi.log_likelihood(loaded, place("likelihood.zarr"), **drawn)["log_likelihood"]["y"]
    assert predicted.sizes[predicted.dims[-1]] == likely.sizes[likely.dims[-1]] == N
    saving = dvi.callbacks.Checkpoint(place("saved.zarr"), every=10, keep=2, **options)
    dvi.fit(20, model=model, threads=1, callbacks=[saving], **QUIET)
    saved = dvi.load(saving.latest, **options)
    return [loaded.theta.tobytes(), predicted.values.tobytes(), likely.values.tobytes(), saved.theta.tobytes()]


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("disk")
    return everything(lambda name: str(folder / name))


def test_all_of_it_has_the_bits_of_a_disk(cloud: Cloud, on_disk: list[bytes]) -> None:
    root = cloud.url("all")
    assert everything(lambda name: f"{root}/{name}", storage_options=cloud.options) == on_disk


def test_a_lease_is_exclusive(cloud: Cloud) -> None:
    url = cloud.url("lease")
    first = take(place_of(url, cloud.options))
    with pytest.raises(StoreExistsError, match="Another run"):
        take(place_of(url, cloud.options))
    first.release()
    take(place_of(url, cloud.options)).release()


def test_a_report(cloud: Cloud, tmp_path: Path) -> None:
    url = cloud.url("reports")
    with pm.Model():
        pm.Normal("mu")
        approx = dvi.fit(10, **QUIET)
    assert approx.report(f"{url}/fit.html", storage_options=cloud.options) == f"{url}/fit.html"
    page = clouds.read(cloud, f"{url}/fit.html")
    assert page[:15] == b"<!DOCTYPE html>"
    with pytest.raises(ArgumentError, match="names no page"):
        approx.report(f"{url}/", storage_options=cloud.options)


def test_a_scheduled_run(cloud: Cloud) -> None:
    folder = cloud.url("scheduled")
    options = {"storage_options": cloud.options}
    deliver(dvi.open_store(f"{folder}/rows.zarr", cloud.options), delivery(0))
    config = config_of(folder, data=options, runs=options)
    assert dvi.retrain(config).kind == "promoted"
    assert dvi.retrain(config).kind == "nothing new"
    deliver(dvi.open_store(f"{folder}/rows.zarr", cloud.options), delivery(1))
    assert dvi.retrain(config).kind == "promoted"


def command(*arguments: Any) -> str:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output
    return found.stdout


def test_commands(cloud: Cloud, tmp_path: Path) -> None:
    pd.DataFrame({"y": table()["y"]}).to_csv(tmp_path / "rows.csv", index=False)
    settings = [f"--storage-option={name}={value}" for name, value in cloud.options.items()]
    root, build = cloud.url("commands"), "tests.retraining.models:mean"
    rows, run, went = f"{root}/rows.zarr", f"{root}/posterior.zarr", f"{root}/checkpoint"
    assert "2,000 rows" in command("ingest", tmp_path / "rows.csv", rows, *settings)
    fitted = ["--data", rows, "--threads", 1, *settings]
    command("fit", build, "--out", run, "--steps", 20, "--seed", 1, "--checkpoint", went, *fitted)
    command("resume", went, "--model", build, "--steps", 30, "--out", f"{root}/longer.zarr", *fitted)
    assert '"steps": 30' in command("info", f"{root}/longer.zarr", "--json", *settings)
    command("predict", run, "--model", build, "--out", f"{root}/predicted.zarr", "--draws", 20, *fitted)
    tree = xr.open_datatree(dvi.open_store(f"{root}/predicted.zarr", cloud.options), engine="zarr", chunks=None)
    assert tree["mean"]["y"].shape == (N,)
    page = f"{root}/fit.html"
    assert command("report", run, "--out", page, *settings) == f"{page}\n"


@pytest.mark.parametrize("settings", [["endpoint"], ["endpoint=http://x"]])
def test_settings_that_no_command_takes(settings: list[str], tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["info", str(tmp_path), *(f"--storage-option={text}" for text in settings)])
    assert found.exit_code == 2
    assert "--storage-option" in found.stderr


def test_options_without_a_url_are_refused(tmp_path: Path) -> None:
    options = {"storage_options": {"region": "x"}}
    with pm.Model() as model:
        pm.Normal("mu")
    approx = dvi.fit(5, model=model, **QUIET)
    for call in (
        lambda: dvi.Minibatch([1.0, 2.0], batch_size=1, **options),
        lambda: dvi.fit(5, model=model, **options),
        lambda: dvi.fit(5, model=model, checkpoint=tmp_path / "x", **options),
        lambda: dvi.resume(tmp_path / "x", model, **options),
        lambda: dvi.load(tmp_path / "x", **options),
        lambda: approx.report(tmp_path / "x.html", **options),
        lambda: dvi.callbacks.Checkpoint(tmp_path / "x", **options),
    ):
        with pytest.raises(ArgumentError, match="storage_options are for"):
            call()


def test_a_report_into_what_cannot_be_written(tmp_path: Path) -> None:
    with pm.Model():
        pm.Normal("mu")
        approx = dvi.fit(5, **QUIET)
    with pytest.raises(StoreError, match="was not given the report"):
        approx.report("http://127.0.0.1:9/fit.html")
