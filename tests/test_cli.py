"""The command line, in this process where it can be and in one of its own where the difference matters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

from dvi import cli, demo, errors
from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.model.layout import Entry, Layout, Transform

ROOT = Path(__file__).parents[1]

runner = CliRunner()


def command(*arguments: object) -> Any:
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    rows = {"x": [1.0, 2.0, 3.0, np.nan], "z": [5, 6, 7, 8], "who": ["a", "b", "a", "b"]}
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_help_lists_the_commands() -> None:
    result = command("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("demo", "ingest", "info", "--version"))


def test_version() -> None:
    result = command("--version")
    assert result.exit_code == 0
    assert result.output.startswith("dvi ")


def test_ingest_and_info(tmp_path: Path, table: Path) -> None:
    store = tmp_path / "table.zarr"
    result = command("ingest", table, store, "--pack", "m=x,z", "--dropna", "--no-shuffle", "--chunk-bytes", 32)
    assert result.exit_code == 0, result.output
    ds = xr.open_zarr(store, chunks=None)
    assert ds["m"].values.tolist() == [[1, 5], [2, 6], [3, 7]]
    assert ds["m"].encoding["chunks"] == (2, 2)
    assert ds["who"].attrs["categories"] == ["a", "b"]
    told = command("info", store)
    assert told.stdout == result.stdout
    for expected in ("3 rows", "not shuffled, 1 row dropped", "float64", "3 x 2", "2 x 2", "48 bytes", "kB stored"):
        assert expected in told.output


def test_options_of_ingest_reach_it(tmp_path: Path, table: Path) -> None:
    stores = [tmp_path / f"{name}.zarr" for name in "abc"]
    for store, seed in zip(stores, (1, 2, 1), strict=True):
        assert command("ingest", table, store, "--columns", "z", "--seed", seed).exit_code == 0
    orders = [xr.open_zarr(store, chunks=None)["z"].values.tolist() for store in stores]
    assert sorted(orders[0]) == [5, 6, 7, 8]
    assert orders[0] == orders[2] != orders[1]
    assert list(xr.open_zarr(stores[0], chunks=None).data_vars) == ["z"]
    refused = command("ingest", table, stores[0], "--columns", "z")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "exists already" in refused.stderr
    assert command("ingest", table, stores[0], "--columns", "z", "--overwrite").exit_code == 0


@pytest.mark.parametrize("pack", ["x", "=x", "m=", "m=x,,z"])
def test_pack_that_makes_no_sense_is_bad_input(pack: str, tmp_path: Path, table: Path) -> None:
    result = command("ingest", table, tmp_path / "s.zarr", "--pack", pack)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--pack x=distance,hour" in result.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_info_of_an_array(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "y.zarr", shape=(10, 3), chunks=(4, 3), dtype="int16")
    result = command("info", tmp_path / "y.zarr")
    assert result.exit_code == 0, result.output
    for expected in ("10 rows", "10 x 3", "int16", "4 x 3", "60 bytes"):
        assert expected in result.output


def test_info_of_an_approximation(tmp_path: Path) -> None:
    entries = (
        Entry("beta", "beta", (2,), 0, 2, ("column",), Transform("identity")),
        Entry("sigma", "sigma_log__", (), 2, 3, (), Transform("log")),
    )
    layout = Layout(entries, {"column": ("a", "b")})
    run = {"method": "advi", "seed": 7}
    approx = Approximation(MeanFieldFamily(3), np.zeros(6), layout, np.array([30.0, 20.0, 10.0]), run)
    approx.save(tmp_path / "fit.zarr")
    result = command("info", tmp_path / "fit.zarr")
    assert result.exit_code == 0, result.output
    for expected in ("MeanField", "3 dimensions", "advi, seed 7, 3 steps", "ELBO -10 ", "-30 at", "beta", "column"):
        assert expected in result.output


@pytest.mark.parametrize(("name", "code"), [("nothing", 2), ("folder", 1), ("file.txt", 1)])
def test_info_of_what_is_no_store(name: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("not Zarr")
    result = command("info", tmp_path / name)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (code, "", 1)
    assert name in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ArgumentError, 2), (errors.ArgumentTypeError, 2), (errors.ModelError, 2), (errors.DataError, 2),
        (errors.NonFiniteError, 2), (errors.StoreNotFoundError, 2), (errors.StoreExistsError, 2),
        (errors.StoreError, 1), (errors.ClusterError, 1), (errors.DviError, 1),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_a_code(
    error: type[errors.DviError], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error(f"no [bold]good[/]:\n {'long ' * 40}end")

    monkeypatch.setattr(demo, "run", fail)
    result = command("demo")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"no [bold]good[/]: {'long ' * 40}end\n"


def test_interrupt_says_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        error = KeyboardInterrupt()
        error.add_note("The work so far is kept.")
        raise error

    monkeypatch.setattr(demo, "run", interrupt)
    result = command("demo")
    assert (result.exit_code, result.stderr) == (130, "Interrupted. The work so far is kept.\n")


def test_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(demo, "run", crash)
    assert isinstance(command("demo").exception, ZeroDivisionError)


def test_options_of_demo_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[demo.Settings] = []
    monkeypatch.setattr(demo, "run", lambda settings, console: seen.append(settings))
    assert command("demo").exit_code == 0
    given = ("--out", "here", "--workers", 3, "--copies", 4, "--steps", 5, "--seed", 6)
    assert command("demo", *given).exit_code == 0
    assert command("demo", *given, "--threads").exit_code == 0
    here = Path("here")
    assert seen == [
        demo.Settings(Path("dvi-demo")),
        demo.Settings(here, copies=4, steps=5, workers=3, seed=6),
        demo.Settings(here, copies=4, steps=5, workers=0, seed=6),
    ]


@pytest.mark.parametrize("option", ["--copies", "--steps", "--workers"])
def test_demo_refuses_nothing_at_all(option: str) -> None:
    assert command("demo", option, 0).exit_code == 2


def run_dvi(*arguments: str, after: str = "pass") -> subprocess.CompletedProcess[str]:
    imports = "import sys\nfrom dvi.cli import main\n"
    code = f"{imports}try:\n    main()\nfinally:\n    {after}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def test_help_imports_nothing_slow_and_has_no_colours_in_a_pipe() -> None:
    slow = "arviz dask distributed matplotlib numba pandas pymc pytensor xarray zarr"
    done = run_dvi("--help", after=f"print('slow:', sorted(set('{slow}'.split()) & set(sys.modules)))")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: dvi" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stdout.endswith("slow: []\n")


def test_source_that_is_not_there_is_one_line_and_code_2(tmp_path: Path) -> None:
    done = run_dvi("ingest", str(tmp_path / "nothing.csv"), str(tmp_path / "store.zarr"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "nothing.csv" in done.stderr
    assert "\x1b" not in done.stderr
    assert not list(tmp_path.iterdir())
