"""Models that configurations name, and the data they are for: a mean, whose posterior is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

import dvi

CHUNK = 100
MODEL = "tests.retraining.models:mean"


def mean(data: xr.Dataset, prior_sd: float = 10.0) -> pm.Model:
    y = dvi.Minibatch(data["y"], batch_size=min(CHUNK, data.sizes["row"]))
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, prior_sd), 1, observed=y)
    return model


def broken(data: xr.Dataset) -> pm.Model:
    raise KeyError("no such column")


def with_other_data(data: xr.Dataset) -> pm.Model:
    model = mean(data)
    with model:
        pm.Normal("other", model["mu"], 1, observed=np.zeros(3))
    return model


def delivery(seed: int, n: int = 1_000, mu: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mu, 1, n)


def deliver(store: Any, y: np.ndarray) -> None:
    """Append rows to a store, or make it."""
    try:
        xr.open_zarr(store, consolidated=False, chunks=None)
    except FileNotFoundError:
        dvi.ingest(xr.Dataset({"y": ("row", y)}), store, shuffle=False, chunk_bytes=8 * CHUNK, progressbar=False)
    else:
        xr.Dataset({"y": ("row", y)}).to_zarr(store, append_dim="row", consolidated=False, zarr_format=3)


def config_of(folder: str, **tables: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose data and runs are below a folder or URL."""
    config: dict[str, Any] = {
        "data": {"store": f"{folder}/rows.zarr"},
        "model": {"function": MODEL},
        "runs": {"folder": f"{folder}/runs"},
        "fit": {"steps": 300, "seed": 7},
        "cluster": {"workers": 1},
        "judge": {"rows": 100, "draws": 100},
    }
    return {name: config.get(name, {}) | tables.get(name, {}) for name in config | tables}


def to_toml(config: dict[str, Any], path: Path) -> Path:
    lines = []
    for table, entries in config.items():
        lines.append(f"[{table}]")
        for key, value in entries.items():
            text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
            lines.append(f"{key} = {text}")
    path.write_text("\n".join(lines))
    return path
