"""From the start of Python to the first step, with empty and with full caches of compiled code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.measuring import Measurement, faster, in_turn, seconds

Report = Callable[[Measurement], None]

FIT = """
import os
import numpy as np
import pymc as pm
{imports}
x = np.random.default_rng(0).normal(size=(2000, 5))
y = x.sum(axis=1)
with pm.Model():
    b = pm.Normal("b", 0, 1, shape=5)
    {data}
    pm.Normal("y", x @ b, pm.HalfNormal("s", 1), observed=y, total_size=2000)
    {fit}
os._exit(0)  # what comes after the first step is not timed
"""
OURS, THEIRS = {"imports": "import dvi", "lib": "dvi"}, {"imports": "", "lib": "pm"}
DATA = {"fullrank_advi": "x, y = {lib}.Minibatch(x, y, batch_size=100)", "svgd": ""}  # that PyMC has on full data alone
ONE_STEP = '{lib}.fit(1, method="{method}", progressbar=False)'


def first_step(lib: dict[str, str], method: str, cache: Path, fit: str = ONE_STEP) -> float:
    """Seconds of a process that does one step."""
    flags = f"base_compiledir={cache}"
    unset = {"DVI_KERNEL_CACHE", "NUMBA_CACHE_DIR", "PYTHONDONTWRITEBYTECODE"}  # as it is by default
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {"PYTENSOR_FLAGS": flags}
    parts = {"data": DATA[method], "fit": fit}
    code = FIT.format(imports=lib["imports"], **{k: v.format(lib=lib["lib"], method=method) for k, v in parts.items()})
    return seconds(lambda: subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True))


@pytest.mark.parametrize("method", ["fullrank_advi", "svgd"])
@pytest.mark.parametrize(("cache", "target"), [("empty", 2.5), ("full", 2.0)])
def bench_first_step(report: Report, tmp_path: Path, method: str, cache: str, target: float) -> None:
    """A process of its own, which imports, makes a model and does one step."""
    if cache == "full":
        folders = iter([tmp_path] * 20)
        first_step(OURS, method, tmp_path), first_step(THEIRS, method, tmp_path)
    else:
        folders = iter([tmp_path / str(i) for i in range(20)])
    pairs = in_turn(
        lambda: first_step(OURS, method, next(folders)),
        lambda: first_step(THEIRS, method, next(folders)),
        rounds=5 if cache == "full" else 3,
    )
    without = min(first_step(THEIRS, method, next(folders), fit="") for _ in range(3)) if cache == "full" else None
    report(faster(13, f"first step of {method}, {cache} cache", "pm.fit", pairs, target, least=without))


def bench_import(report: Report) -> None:
    """``import dvi`` against ``import pymc``, which it contains."""

    def imported(name: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {name}"], check=True))

    imported("dvi")
    pairs = in_turn(lambda: imported("dvi"), lambda: imported("pymc"))
    slowest = max(theirs for _, theirs in pairs)
    report(faster(13, "import dvi", "import pymc", pairs, slowest / (slowest + 0.3)))
