"""Time until a fit is as good as the statistical gate asks: means within 0.1 posterior sd, sds within 5 %.

``DVI_BENCH_ROWS`` sets the rows: 1,000,000 by default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import pymc as pm

import dvi
from tests.benchmarks.bench_steps import binary, logistic
from tests.benchmarks.measuring import Measurement, faster

Report = Callable[[Measurement], None]
ROWS = int(os.environ.get("DVI_BENCH_ROWS", "1000000"))
COLUMNS, BATCH = 20, 8192
MOST_SECONDS = 300.0


def good(mean: np.ndarray, sd: np.ndarray, exact: tuple[np.ndarray, np.ndarray]) -> bool:
    error = np.sqrt(np.mean(((mean - exact[0]) / exact[1]) ** 2))
    return bool(error <= 0.1 and abs(np.log(sd / exact[1]).mean()) <= 0.05)


def exact_mean_field() -> tuple[np.ndarray, np.ndarray]:
    """Mode and, from the diagonal of the Hessian there, mean-field sds: by Newton's method on all rows."""
    x, y = binary(ROWS, COLUMNS)
    b = np.zeros(COLUMNS)
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ b))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.eye(COLUMNS)
        b += np.linalg.solve(hessian, x.T @ (y - p) - b)
    return b, 1 / np.sqrt(np.diag(hessian))


def bench_accuracy(report: Report) -> None:
    """``dvi.fit(None)`` against ``pm.fit``'s default rule, looked at every 1,000 steps until it is good."""
    exact = exact_mean_field()

    def ours() -> float:
        model = logistic(dvi, ROWS, COLUMNS, BATCH)
        started = time.perf_counter()
        approx = dvi.fit(None, model=model, random_seed=1, progressbar=False, threads=2)
        elapsed = time.perf_counter() - started
        assert good(approx.mean.eval(), approx.std.eval(), exact)
        return elapsed

    def theirs() -> float:
        """Without the time to look; at least what was spent where it is not good after so long."""
        with logistic(pm, ROWS, COLUMNS, BATCH):
            started = time.perf_counter()
            inference = pm.ADVI(random_seed=1)
            inference.fit(1000, progressbar=False)
            elapsed = time.perf_counter() - started
            while elapsed < MOST_SECONDS and not good(inference.approx.mean.eval(), inference.approx.std.eval(), exact):
                started = time.perf_counter()
                inference.refine(1000, progressbar=False)
                elapsed += time.perf_counter() - started
        return elapsed

    pairs = [(ours(), theirs()) for _ in range(3)]
    report(faster(14, f"fit to the gate's accuracy, logistic, {ROWS:,} rows", "pm.fit", pairs, 5.0))
