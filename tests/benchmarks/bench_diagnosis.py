"""Peak resident memory of a diagnosis, of a store of one million rows and of one of ten.

Prints, for each, the peak above what importing PyMC costs in a process of its own, and the time that the pass took.
``DVI_BENCH_DIAGNOSIS_ROWS`` sets the numbers of rows, ``1000000,10000000`` by default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import zarr

ROWS = [int(rows) for rows in os.environ.get("DVI_BENCH_DIAGNOSIS_ROWS", "1000000,10000000").split(",")]
COLUMNS, CHUNK_ROWS, DRAWS = 4, 100_000, 100
MOST_GROWTH_MB = 50  # what ten times as many rows may add: the records of ten times as many chunks

PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))
"""

DIAGNOSE = """
import json, sys, time
import numpy as np, pymc as pm, zarr, dvi
from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.model.graph import layout_of
{peak}
data = sys.argv[1]
x, y = dvi.Minibatch(zarr.open_array(data + "/x"), zarr.open_array(data + "/y"), batch_size=1000)
with pm.Model() as model:
    pm.Normal("obs", x @ pm.Normal("b", 0, 1, shape=x.type.shape[1]), pm.HalfNormal("s"), observed=y)
layout = layout_of(model)
family = MeanFieldFamily(layout.ndim)
approx = Approximation(family, family.initial(*np.full((2, layout.ndim), 0.1)), layout, np.empty(0), model=model)
started = time.perf_counter()
dvi.diagnose(approx, draws={draws}, random_seed=1, threads=2, progressbar=False)
print(json.dumps([time.perf_counter() - started, peak()]))
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def make_store(folder: Path, n_rows: int) -> Path:
    x = zarr.create_array(folder / "x", shape=(n_rows, COLUMNS), chunks=(CHUNK_ROWS, COLUMNS), dtype="f8")
    y = zarr.create_array(folder / "y", shape=(n_rows,), chunks=(CHUNK_ROWS,), dtype="f8")
    rng = np.random.default_rng(0)
    for start in range(0, n_rows, CHUNK_ROWS):
        block = rng.standard_normal((min(CHUNK_ROWS, n_rows - start), COLUMNS))
        x[start : start + len(block)], y[start : start + len(block)] = block, block[:, 0]
    return folder


def bench_memory_of_a_diagnosis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Peak above importing PyMC, in MB, for each number of rows."""
    base = float(run("import pymc\n" + PEAK + "print(peak())"))
    script = DIAGNOSE.format(peak=textwrap.dedent(PEAK), draws=DRAWS)
    peaks = []
    for n_rows in ROWS:
        seconds, peak = json.loads(run(script, str(make_store(tmp_path / str(n_rows), n_rows))))
        peaks.append(peak - base)
        with capsys.disabled():
            print(f"\n{n_rows} rows, {DRAWS} draws: {seconds:.1f} s, {peaks[-1]:.0f} MB above pymc")
    assert peaks[-1] < peaks[0] + MOST_GROWTH_MB
