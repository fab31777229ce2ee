"""Fit a store on worker jobs of its own, and go on where an earlier run stopped: sbatch driver.sh fit.py STORE RUN."""

import argparse

import numpy as np
import pymc as pm
import xarray as xr
from dask_jobqueue import SLURMCluster
from distributed import Client

import dvi


def build(store: str) -> pm.Model:
    """Your model: here, a robust linear regression of the array ``y`` on the columns of ``x``."""
    ds = xr.open_zarr(store, chunks=None)
    x, y = dvi.Minibatch(ds["x"], ds["y"], batch_size=8192)
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 1, shape=ds["x"].shape[1])
        sigma = pm.HalfNormal("sigma", 1)
        pm.StudentT("obs", nu=4, mu=pm.Normal("alpha", 0, 10) + x @ beta, sigma=sigma, observed=y)
    return model


def report(approx: dvi.Approximation, losses: np.ndarray, i: int) -> None:
    print(f"step {i:,}: loss {losses[-1000:].mean():,.1f}")


report.every = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="Zarr store with x and y, on a disk that all nodes share")
    parser.add_argument("run", help="where checkpoints and the result go")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()

    model = build(arguments.store)
    with SLURMCluster() as cluster, Client(cluster) as client, dvi.cluster.keep(cluster):
        cluster.scale(jobs=arguments.jobs)
        where = {"client": client, "callbacks": [report], "progressbar": False}
        try:
            approx = dvi.resume(arguments.run, model, **where)
        except dvi.errors.StoreNotFoundError:  # the first time
            approx = dvi.fit(arguments.steps, model=model, random_seed=1, checkpoint=arguments.run, **where)
    print(approx)


if __name__ == "__main__":
    main()
