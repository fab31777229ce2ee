"""``dvi fit`` and ``dvi resume``: from a model's name to a saved approximation, stopped on the way or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import dvi
from dvi import cli

SOURCE = """
import numpy as np, pymc as pm, dvi

Y = np.random.default_rng(3).normal(2.0, 1.0, 2000)

def build(data=None):
    y = Y if data is None else data["y"]
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=dvi.Minibatch(y, batch_size=200))
    return model
"""

runner = CliRunner()


def command(*arguments: object) -> Any:
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "cli_model.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("cli_model", None)


def bits(store: Path) -> tuple[bytes, bytes]:
    approx = dvi.load(store)
    return approx.theta.tobytes(), approx.hist.tobytes()


def test_a_fit_is_saved_and_its_checkpoint_goes_on(folder: Path) -> None:
    done = command("fit", "cli_model:build", "--out", "a", "--steps", 40, "--seed", 1, "--threads", 1, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["steps"], told["seed"], told["method"], told["store"]) == (40, 1, "advi", "a")
    again = ["--out", "b", "--steps", 40, "--seed", 1, "--threads", 1, "--checkpoint", "run"]
    assert command("fit", "cli_model:build", *again).stdout == "b\n"
    assert bits(folder / "a") == bits(folder / "b") == bits(folder / "run")
    refused = command("resume", "run", "--out", "c")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "--model is needed" in refused.stderr
    assert "'cli_model:build': pass it if you trust it" in refused.stderr
    longer = command("resume", "run", "--model", "cli_model:build", "--out", "c", "--steps", 50, "--threads", 1)
    assert longer.exit_code == 0, longer.output
    assert len(dvi.load(folder / "c").hist) == 50
    assert command("info", "run").exit_code == 0


def test_the_data_of_a_store_reach_the_model(folder: Path) -> None:
    xr.Dataset({"y": ("row", np.random.default_rng(3).normal(2.0, 1.0, 2000))}).chunk(row=500).to_zarr("y.zarr")
    done = command("fit", "cli_model:build", "-o", "a", "--data", "y.zarr", "-n", 10, "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "y.zarr" in str(dvi.load(folder / "a").run["data"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit", "cli_model:built", "-o", "a"], 2, "did you mean 'build'"),
        (["fit", "cli_model:build", "-o", "a", "-n", "9", "--until-converged"], 2, "exclude each other"),
        (["fit", "cli_model:build", "-o", "a", "--method", "adv"], 2, "did you mean 'advi'"),
        (["fit", "cli_model:build", "-o", "cli_model.py"], 2, "exists already"),
        (["fit", "cli_model:build", "-o", "a", "--checkpoint", "."], 1, "is not a Zarr group"),
        (["resume", "nothing", "-o", "a", "-m", "cli_model:build"], 2, "There is nothing at"),
    ],
)
def test_what_is_not_possible_is_told_in_one_line(arguments: list[str], code: int, message: str, folder: Path) -> None:
    refused = command(*arguments)
    assert (refused.exit_code, refused.stderr.count("\n")) == (code, 1)
    assert message in refused.stderr
    assert not (folder / "a").exists()
