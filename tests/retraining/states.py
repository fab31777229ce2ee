"""What scheduled runs have come to."""

from __future__ import annotations

from typing import Any

import dvi
from dvi.retraining.runs import Runs

_PHASES = (  # the last one first
    ("run.json", "been recorded, or not begun"),
    ("report.html", "been reported"),
    ("verdict.json", "been judged"),
    ("approximation.zarr/zarr.json", "been fitted"),
    ("checkpoint/zarr.json", "written a checkpoint"),
    ("plan.json", "been planned"),
)


def state(folder: object) -> dict[str, Any]:
    """Pointer, records, and the bits of approximations."""
    runs = Runs(f"{folder}/runs")
    found: dict[str, Any] = {"promoted": runs.promoted()}
    for name in runs.names():
        approx = dvi.load(runs.place(name, "approximation.zarr"))
        found[name] = approx.theta.tobytes(), approx.hist.tobytes(), runs.has(f"{name}/report.html")
        found |= {f"{name}/{key}": runs.read(f"{name}/{key}.json") for key in ("plan", "verdict", "run")}
    return found


def phase(folder: object) -> str:
    """The last thing that the newest run has done."""
    runs = Runs(f"{folder}/runs")
    names = runs.names()
    for key, told in _PHASES:
        if names and runs.has(f"{names[-1]}/{key}"):
            return told
    return "been recorded, or not begun"
