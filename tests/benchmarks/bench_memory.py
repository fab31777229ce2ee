"""Peak resident memory of the client and of each worker while fitting a store that is larger than that.

For each place to run, the peak above what importing PyMC costs in a process of its own, and how it grows with the
store. ``DVI_BENCH_GB`` sets the sizes of the stores, ``0.4,4,12`` by default.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.benchmarks.measuring import Measurement

SIZES = [float(gb) for gb in os.environ.get("DVI_BENCH_GB", "0.4,4,12").split(",")]
COLUMNS, CHUNK_ROWS = 100, 5000
LIMIT_MB = 800

PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))
"""

FIT = """
import json, sys
{peak}
def main():
    import numpy as np, pymc as pm, zarr, cloudpickle, dvi
    from distributed import Client, LocalCluster
    store, workers = sys.argv[1], int(sys.argv[2])
    x, y = dvi.Minibatch(zarr.open_array(store + "/x"), zarr.open_array(store + "/y"), batch_size=20_000)
    with pm.Model() as model:
        pm.Normal("obs", x @ pm.Normal("b", 0, 1, shape=x.type.shape[1]), pm.HalfNormal("s"), observed=y)
    steps = {steps}
    if workers == 0:
        dvi.fit(steps, model=model, random_seed=1, threads=2, progressbar=False)
        print(json.dumps({{"client": peak()}}))
        return
    settings = {{"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0"}}
    with LocalCluster(**settings) as cluster, Client(cluster) as client:
        dvi.fit(steps, model=model, random_seed=1, client=client, progressbar=False)
        print(json.dumps({{"client": peak(), **client.run(peak)}}))
if __name__ == "__main__":
    main()
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def make_store(folder: Path, gb: float) -> Path:
    n_chunks = max(1, int(gb * 1e9 / (COLUMNS * CHUNK_ROWS * 8)))
    n_rows = n_chunks * CHUNK_ROWS
    x = zarr.create_array(
        folder / "x", shape=(n_rows, COLUMNS), chunks=(CHUNK_ROWS, COLUMNS), dtype="f8", compressors=None
    )
    y = zarr.create_array(folder / "y", shape=(n_rows,), chunks=(CHUNK_ROWS,), dtype="f8", compressors=None)
    rng = np.random.default_rng(0)
    for chunk in range(n_chunks):
        rows = slice(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS)
        block = rng.standard_normal((CHUNK_ROWS, COLUMNS))
        x[rows], y[rows] = block, block[:, 0] + rng.standard_normal(CHUNK_ROWS)
    return folder


def peak_above_pymc(folder: Path, gb: float, workers: int) -> float:
    """Largest peak of all processes over half an epoch, in MB."""
    steps = max(10, int(gb * 1e9 / (COLUMNS * 8) / 20_000 / 2))
    base = float(run("import pymc\n" + PEAK + "print(peak())"))
    script = folder / "fit.py"
    script.write_text(FIT.format(peak=textwrap.dedent(PEAK), steps=steps))
    done = subprocess.run(
        [sys.executable, str(script), str(folder / f"{gb}"), str(workers)], capture_output=True, text=True, check=True
    )
    return max(json.loads(done.stdout.strip().splitlines()[-1]).values()) - base


@pytest.mark.parametrize("workers", [0, 2])
def bench_memory(report: Callable[[Measurement], None], tmp_path: Path, workers: int) -> None:
    """Peak above importing PyMC for each store against that for the next smaller one.

    It grows up to stores of which not all rows can be kept between epochs, and no further.
    """
    peaks = {}
    for gb in SIZES:
        store = make_store(tmp_path / f"{gb}", gb)
        peaks[gb] = peak_above_pymc(tmp_path, gb, workers)
        shutil.rmtree(store)
        assert peaks[gb] < LIMIT_MB
    where = f"{workers} workers" if workers else "threads"
    for (less, small), (more, large) in pairwise(peaks.items()):
        work = f"peak memory for {more:g} GB, {where}"
        report(Measurement(15, work, f"{less:g} GB", large, small, "MB", (small / large,), 0.9))
