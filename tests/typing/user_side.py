"""What a type checker sees of dvi from a user's side. Checked by mypy --strict, and not run."""

from __future__ import annotations

from typing import assert_type

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import dvi
from dvi.evaluation import ElboEstimate
from dvi.sampling import VIState

approx = dvi.fit(10, method="fullrank_advi", random_seed=1, obj_optimizer=dvi.adam(learning_rate=0.01))
assert_type(approx, dvi.Approximation)
assert_type(approx.hist, NDArray[np.float64])
assert_type(approx.ndim, int)
assert_type(approx.params, dict[str, NDArray[np.float64]])
assert_type(approx.state, VIState)
assert_type(approx.state.mean, xr.Dataset)
assert_type(approx.mean_data, xr.Dataset)
assert_type(approx.elbo(100), ElboEstimate)
assert_type(float(approx.elbo(100)), float)
assert_type(approx.sample_unconstrained(10), NDArray[np.float64])

assert_type(dvi.load("fit.zarr"), dvi.Approximation)
assert_type(dvi.ADVI(random_seed=1).fit(10), dvi.Approximation)
assert_type(dvi.SVGD(n_particles=10).approx, dvi.Approximation)
assert_type(dvi.ingest("a.parquet", "a.zarr"), xr.Dataset)
assert_type(dvi.predict(approx), xr.DataTree)
assert_type(dvi.log_likelihood(approx), xr.DataTree)
assert_type(dvi.diagnose(approx), dvi.Diagnosis)
assert_type(dvi.diagnose(approx).ok, bool)
assert_type(dvi.diagnose(approx).resample(100), xr.DataTree)
assert_type(dvi.callbacks.Tracker(loss=len).hist["loss"], list[object])  # type: ignore[assert-type]


def stop_early(approx: dvi.Approximation, losses: NDArray[np.float64], i: int) -> None:
    """A function is a callback."""


callback: dvi.callbacks.Callback = stop_early

dvi.fitt(10)  # type: ignore[attr-defined]
dvi.load()  # type: ignore[call-arg]
approx.hist = "text"  # type: ignore[assignment]
dvi.ingest("a.parquet", "a.zarr", shufle=True)  # type: ignore[call-arg]
dvi.diagnose("fit.zarr")  # type: ignore[arg-type]
