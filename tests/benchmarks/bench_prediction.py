"""Peak resident memory of the client and of each worker while predictions larger than that are written.

Prints, for each place to run, the peak above what importing PyMC costs in a process of its own, and the time that it
took. ``DVI_BENCH_PREDICTION_GB`` sets the size of the predictions, 1 by default.
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

GB = float(os.environ.get("DVI_BENCH_PREDICTION_GB", "1"))
COLUMNS, CHUNK_ROWS, DRAWS = 20, 25_000, 1000
LIMIT_MB = 400

PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))
"""

PREDICT = """
import json, sys, time
{peak}
def main():
    import numpy as np, pymc as pm, zarr, cloudpickle, dvi
    from distributed import Client, LocalCluster
    from dvi.approximation import Approximation
    from dvi.approximations.meanfield import MeanFieldFamily
    from dvi.model.graph import layout_of
    from dvi.prediction import log_likelihood, predict
    data, out, what, workers = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    x, y = dvi.Minibatch(zarr.open_array(data + "/x"), zarr.open_array(data + "/y"), batch_size=1000)
    with pm.Model() as model:
        pm.Normal("obs", x @ pm.Normal("b", 0, 1, shape=x.type.shape[1]), pm.HalfNormal("s"), observed=y)
    layout = layout_of(model)
    family = MeanFieldFamily(layout.ndim)
    approx = Approximation(family, family.initial(*np.full((2, layout.ndim), 0.1)), layout, np.empty(0), model=model)
    calls = {{
        "draws": lambda **where: predict(approx, store=out, draws={draws}, **where),
        "summary": lambda **where: predict(approx, store=out, draws={draws}, kind="summary", **where),
        "log likelihood": lambda **where: log_likelihood(approx, out, draws={draws}, **where),
    }}
    started = time.perf_counter()
    if workers == 0:
        calls[what](random_seed=1, threads=2, progressbar=False)
        print(json.dumps({{"seconds": time.perf_counter() - started, "client": peak()}}))
        return
    settings = {{"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0"}}
    with LocalCluster(**settings) as cluster, Client(cluster) as client:
        started = time.perf_counter()
        calls[what](random_seed=1, client=client, progressbar=False)
        print(json.dumps({{"seconds": time.perf_counter() - started, "client": peak(), **client.run(peak)}}))
if __name__ == "__main__":
    main()
"""


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prediction") / "data.zarr"
    n_rows = max(1, round(GB * 1e9 / (8 * DRAWS * CHUNK_ROWS))) * CHUNK_ROWS
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_rows, COLUMNS))
    zarr.create_array(folder / "x", data=x, chunks=(CHUNK_ROWS, COLUMNS))
    zarr.create_array(folder / "y", data=x[:, 0] + rng.standard_normal(n_rows), chunks=(CHUNK_ROWS,))
    return folder


@pytest.mark.parametrize(("what", "workers"), [("draws", 0), ("summary", 0), ("log likelihood", 0), ("draws", 2)])
def bench_prediction(what: str, workers: int, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Peak above importing PyMC, in MB."""
    base = float(run("-c", "import pymc\n" + PEAK + "print(peak())"))
    script = data.parent / "predict.py"
    script.write_text(PREDICT.format(peak=textwrap.dedent(PEAK), draws=DRAWS))
    out = data.parent / f"{what.replace(' ', '_')}_{workers}.zarr"
    peaks = json.loads(run(str(script), str(data), str(out), what, str(workers)))
    seconds = peaks.pop("seconds")
    above = {name.split("/")[-1]: round(value - base) for name, value in peaks.items()}
    with capsys.disabled():
        print(f"\n{what}, {GB} GB of values, {workers or 'no'} workers: {seconds:.1f} s, MB above pymc: {above}")
    assert max(above.values()) < LIMIT_MB
