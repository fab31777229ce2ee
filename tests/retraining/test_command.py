"""``dvi retrain``: exit codes, logs and metrics."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import prometheus_client.parser
import pytest
from typer.testing import CliRunner

from dvi.cli import app
from dvi.cli.retraining import DO_NOT_RETRY, REJECTED, retrain_exit_code
from dvi.errors import ArgumentError, ClusterError, DataError, DviError, StoreDamagedError, StoreError
from dvi.retraining import runs
from dvi.retraining.config import MetricsConfig
from dvi.retraining.metrics import metrics
from tests.retraining.models import config_of, deliver, delivery, to_toml


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("dvi")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def gauges(text: str) -> dict[str, float]:
    families = prometheus_client.parser.text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_a_schedule(tmp_path: Path) -> None:
    begun = time.time()
    deliver(tmp_path / "rows.zarr", delivery(0))
    textfile = tmp_path / "dvi.prom"
    config = config_of(str(tmp_path), metrics={"textfile": str(textfile)})
    path = to_toml(config, tmp_path / "retrain.toml")

    found = CliRunner().invoke(app, ["retrain", str(path), "--log-format", "json"])
    assert found.exit_code == 0
    lines = [json.loads(line) for line in found.stderr.splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[-1].keys()
    assert (lines[-1]["outcome"], lines[-1]["run"][:6]) == ("promoted", "000001")
    shown = gauges(textfile.read_text())
    assert (shown["dvi_steps"], shown["dvi_lanes"], shown["dvi_rows"], shown["dvi_last_run_promoted"]) == (
        300,
        1,
        1000,
        1,
    )
    assert shown["dvi_rows_per_second"] > 0
    promotion = shown["dvi_last_promotion_timestamp_seconds"]
    assert begun <= promotion <= time.time()

    found = CliRunner().invoke(app, ["retrain", str(path)])
    assert (found.exit_code, found.stdout.partition(":")[0]) == (0, "nothing new")
    assert gauges(textfile.read_text())["dvi_last_promotion_timestamp_seconds"] == promotion

    deliver(tmp_path / "rows.zarr", delivery(1, mu=3.5))
    to_toml(config | {"judge": config["judge"] | {"max_drift": 1e-6}}, path)
    found = CliRunner().invoke(app, ["retrain", str(path)])
    assert (found.exit_code, found.stdout.partition(":")[0]) == (REJECTED, "rejected")
    assert gauges(textfile.read_text())["dvi_last_promotion_timestamp_seconds"] == promotion


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: me, user: {}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
current-context: here
"""
MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/overlays/cluster/daskcluster.yaml"


def test_an_api_server_that_is_not_there_is_asked_again_later(tmp_path: Path) -> None:
    deliver(tmp_path / "rows.zarr", delivery(0))
    config = config_of(str(tmp_path)) | {"cluster": {"kind": "kubernetes", "manifest": str(MANIFEST)}}
    path = to_toml(config, tmp_path / "retrain.toml")
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    environment = os.environ | {"KUBECONFIG": str(tmp_path / "kubeconfig"), "PYTHONPATH": str(Path.cwd())}
    run = "from dvi.cli import main; main()"
    command = [sys.executable, "-c", run, "retrain", str(path), "--log-format", "json"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "The cluster of kind 'kubernetes' is not there" in found.stderr
    assert not (tmp_path / "runs" / "promoted.json").exists()


@pytest.mark.parametrize(
    "text", ["", "[data", "[data]\nstore = 'none.zarr'\n[model]\nfunction='a:b'\n[runs]\nfolder='r'"]
)
def test_what_would_fail_again_is_78(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "retrain.toml").write_text(text)
    found = CliRunner().invoke(app, ["retrain", "retrain.toml"])
    assert found.exit_code == DO_NOT_RETRY
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("folder", ["/proc", "/proc/runs", "/proc/none/runs", "/", "file", "file/runs"])
def test_runs_that_nobody_can_write_are_78(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    path = to_toml(config_of(str(tmp_path), runs={"folder": folder}), tmp_path / "retrain.toml")
    found = CliRunner().invoke(app, ["retrain", str(path)])
    assert found.exit_code == DO_NOT_RETRY
    assert f"runs.folder = {folder!r} cannot be written to" in found.stderr
    assert "Give a folder in which, and beside which, files can be written" in found.stderr
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", path]


@pytest.mark.parametrize(
    ("folder", "reason", "code"),
    [
        ("runs", errno.EROFS, 78),
        ("runs", errno.EACCES, 78),
        ("runs", errno.ENOSPC, 1),
        ("runs", errno.EIO, 1),
        ("memory://runs", errno.EACCES, 1),
    ],
)
def test_what_may_pass_is_1(
    folder: str, reason: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(target: object) -> None:
        raise OSError(reason, "planted")

    monkeypatch.setattr(runs, "take", fail)
    monkeypatch.chdir(tmp_path)
    path = to_toml(config_of(str(tmp_path), runs={"folder": folder}), tmp_path / "retrain.toml")
    found = CliRunner().invoke(app, ["retrain", str(path)])
    assert found.exit_code == code
    assert "planted" in found.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(ArgumentError, 78), (DataError, 78), (StoreDamagedError, 78), (StoreError, 1), (ClusterError, 1)],
)
def test_exit_codes_of_errors(error: type[DviError], code: int) -> None:
    assert retrain_exit_code(error("why")) == code


def test_metrics_are_served_while_a_run_lasts() -> None:
    with metrics(MetricsConfig(port=0)) as found:
        found.set("elbo", -12.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{found.port}/metrics") as page:
            assert gauges(page.read().decode())["dvi_elbo"] == -12.5
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{found.port}/metrics")
