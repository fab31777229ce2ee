"""What the commands print for people, for scripts and for pipes, and what they write."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from distributed import LocalCluster
from typer.testing import CliRunner

import dvi
from dvi import cli

ROOT = Path(__file__).parents[1]
MODEL = """
import dvi, pymc as pm

def build(data):
    x, y = dvi.Minibatch(data["x"], data["y"], batch_size=50)
    with pm.Model() as model:
        pm.Normal("obs", x * pm.Normal("slope", 0, 1), 1, observed=y)
    return model
"""

runner = CliRunner()


def command(*arguments: object) -> Any:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, other rows, a model and a fit."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for name, n in (("data", 200), ("new", 7)):
        x = rng.normal(size=n)
        dvi.ingest({"x": x, "y": 2 * x}, folder / f"{name}.zarr", shuffle=False, progressbar=False)
    (folder / "slopes.py").write_text(MODEL)
    ds = xr.open_zarr(folder / "data.zarr")
    x, y = dvi.Minibatch(ds["x"], ds["y"], batch_size=50)
    with pm.Model():
        pm.Normal("obs", x * pm.Normal("slope", 0, 1), 1, observed=y)
        approx = dvi.fit(300, random_seed=1, progressbar=False)
    approx.save(folder / "fit.zarr")
    return folder


def test_info_of_arrays_as_json(run: Path) -> None:
    told = json.loads(command("info", run / "data.zarr", "--json").stdout)
    assert (told["kind"], told["rows"], told["nbytes"]) == ("arrays", 200, 3200)
    assert told["stored"] > 0
    assert told["ingested"]["shuffled"] is False
    assert told["arrays"][0] == {
        "name": "x", "shape": [200], "dtype": "float64", "chunk": [200], "chunks": 1, "nbytes": 1600,
    }  # fmt: skip


def test_info_of_an_approximation_as_json(run: Path) -> None:
    told = json.loads(command("info", run / "fit.zarr", "--json").stdout)
    losses = dvi.load(run / "fit.zarr").hist
    assert (told["kind"], told["family"], told["seed"], told["steps"]) == ("approximation", "MeanField", 1, 300)
    assert told["elbo"] == pytest.approx(-losses[-15:].mean())
    assert told["findings"] is None
    assert told["variables"] == [{"name": "slope", "shape": [], "dimensions": []}]


def test_predictions_on_the_workers_of_a_scheduler(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(run)
    given = ["predict", "fit.zarr", "-m", "slopes:build", "--data", "data.zarr", "--draws", 20]
    with LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        told = json.loads(command(*given, "-o", "there.zarr", "--scheduler", address, "--json").stdout)
        assert cluster.scheduler.computations  # of which there are none where nothing was computed
    assert told["store"] == "there.zarr"
    assert {(array["name"], *array["shape"]) for array in told["arrays"]} >= {("mean/obs", 200), ("sd/obs", 200)}
    assert "mean/obs" in command("info", "there.zarr").stdout
    command(*given, "-o", "here.zarr", "--threads", 1)
    with xr.open_datatree("there.zarr", engine="zarr") as there, xr.open_datatree("here.zarr", engine="zarr") as here:
        xr.testing.assert_equal(there, here)


@pytest.mark.parametrize("name", ["fit", "predict", "resume"])
def test_a_scheduler_and_threads_exclude_each_other(name: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(run)
    given = {"fit": ["slopes:build"], "predict": ["fit.zarr", "-m", "slopes:build"]}
    given["resume"] = given["predict"]
    both = ["-o", "never.zarr", "--data", "data.zarr", "--scheduler", "tcp://127.0.0.1:1", "--threads", "2"]
    refused = runner.invoke(cli.app, [name, *given[name], *both])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "exclude each other; give one of them" in refused.stderr
    assert not (run / "never.zarr").exists()


def test_an_ingest_as_json(run: Path) -> None:
    np.save(run / "numbers.npy", np.arange(30.0))
    told = json.loads(command("ingest", run / "numbers.npy", run / "numbers.zarr", "--json").stdout)
    assert (told["kind"], told["rows"], told["ingested"]["shuffled"]) == ("arrays", 30, True)


def test_commands_come_in_the_order_in_which_one_needs_them() -> None:
    names = re.findall(r"^\W*([a-z]+) +[A-Z]", command("--help").stdout.partition("Commands")[2], re.MULTILINE)
    assert names == ["demo", "ingest", "info", "fit", "resume", "predict", "report", "retrain"]


def test_nothing_is_cut_off_in_a_pipe(run: Path) -> None:
    name = "a_name_that_is_longer_than_a_terminal_is_wide_" * 3
    dvi.ingest({name: np.zeros(3)}, run / "long.zarr", progressbar=False)
    assert name in command("info", run / "long.zarr").stdout


def test_report_is_named_after_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    assert command("report", "fit.zarr/").stdout == f"{run / 'fit.html'}\n"
    assert "slope" in (run / "fit.html").read_text("utf-8")
    assert command("report", "fit.zarr", "-o", "other.html").stdout.endswith("other.html\n")


def test_predictions_of_other_rows_are_those_of_the_function(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    given = ("predict", "fit.zarr", "-m", "slopes:build", "--data", "data.zarr", "--new", "new.zarr", "-o", "pred.zarr")
    assert command(*given, "--draws", 200, "--seed", 3).stdout == "pred.zarr\n"
    found = xr.open_datatree(run / "pred.zarr", engine="zarr")["mean"]["obs"]
    slope = dvi.load("fit.zarr").state.mean["slope"].item()
    np.testing.assert_allclose(found, slope * xr.open_zarr(run / "new.zarr")["x"], atol=5 / np.sqrt(200))


def test_predictions_of_the_rows_of_the_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    given = ("predict", "fit.zarr", "-m", "slopes:build", "--data", "data.zarr", "-o", "own.zarr")
    command(*given, "--kind", "draws", "--draws", 10)
    tree = xr.open_datatree(run / "own.zarr", engine="zarr")
    assert tree["posterior_predictive"]["obs"].shape == (1, 10, 200)


def test_model_that_is_not_there_is_bad_input(run: Path) -> None:
    result = runner.invoke(cli.app, ["predict", str(run / "fit.zarr"), "-m", "no:no", "-o", str(run / "p.zarr")])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_completion_knows_the_commands() -> None:
    code = "from dvi.cli import main; main()"
    environment = {**os.environ, "_DVI_COMPLETE": "complete_bash", "COMP_WORDS": "dvi re", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert {"report", "retrain"} <= set(done.stdout.split())
    assert "ingest" not in done.stdout


def test_a_closed_pipe_is_no_traceback(run: Path) -> None:
    code = "from dvi.cli import main; main()"
    shell = f'"{sys.executable}" -c "{code}" info "{run / "fit.zarr"}" | true'
    done = subprocess.run(["sh", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_help_says_what_exit_codes_mean() -> None:
    told = " ".join(command("--help").stdout.split())
    assert "0 done; 1 failed" in told
    assert "130 interrupted" in told
