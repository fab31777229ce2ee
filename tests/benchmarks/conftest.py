"""What the benchmarks found, as one table, one JSON file and one figure."""

from __future__ import annotations

import csv
import datetime as dt
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.benchmarks.figure import draw
from tests.benchmarks.measuring import Measurement

FOLDER = Path(os.environ.get("DVI_BENCH_OUT", "bench-results"))
VERSIONS = (
    "dask-vi",
    "pymc",
    "pytensor",
    "numba",
    "numpy",
    "zarr",
    "dask",
    "pymc-extras",
    "numpyro",
    "jax",
    "torch",
    "xbatcher",
)
_found: list[Measurement] = []


@pytest.fixture
def report() -> Callable[[Measurement], None]:
    """Put a measurement in the table."""

    def add(measurement: Measurement) -> None:
        _found.append(measurement)
        write(_sorted())  # now, so that what was measured is there if the run is ended
        print("\n" + line(measurement), flush=True)

    return add


def line(m: Measurement) -> str:
    spread = f"{min(m.ratios):.2f} to {max(m.ratios):.2f}"
    return (
        f"{m.row:>2} {m.work}: dvi {m.ours:.4g} {m.unit}, {m.peer} {m.theirs:.4g} {m.unit}, "
        f"ratio {m.ratio:.2f} ({spread}), target {m.target:g}"
    )


def versions() -> dict[str, str]:
    known = {}
    for name in VERSIONS:
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known


def _sorted() -> list[Measurement]:
    """What this run measured, and what an earlier one wrote of the rest."""
    known = FOLDER / "benchmarks.json"
    earlier = json.loads(known.read_text())["measurements"] if known.exists() else []
    names = [field.name for field in fields(Measurement)]
    read = [Measurement(**{n: v for n, v in m.items() if n in names}) for m in earlier]
    rows = {(m.row, m.work, m.peer): m for m in (*read, *_found)}
    return sorted(rows.values(), key=lambda m: m.row)


def write(rows: list[Measurement]) -> None:
    """Write the three files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    machine = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(), "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0], "versions": versions(),
    }  # fmt: skip
    found = {"machine": machine, "measurements": [m.as_json() for m in rows]}
    (FOLDER / "benchmarks.json").write_text(json.dumps(found, indent=1) + "\n")
    with (FOLDER / "benchmarks.csv").open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["", "Work", "dvi", "Against", "", "Ratio", "Rounds", "Target", "Limit"])
        for m in rows:
            spread = f"{min(m.ratios):.2f} to {max(m.ratios):.2f}"
            mine, other = f"{m.ours:.3g} {m.unit}", f"{m.theirs:.3g} {m.unit}"
            ends = f"{m.target:.2g}", "" if m.limit is None else f"{m.limit:.2g}"
            lines.writerow([m.row, m.work, mine, m.peer, other, f"{m.ratio:.2f}", spread, *ends])
    draw(rows, FOLDER / "benchmarks.svg")


def pytest_sessionfinish() -> None:
    """Print the table."""
    if not _found:
        return
    table = Table(box=None, title=f"medians of rounds, on {os.cpu_count()} cores")
    for column in ("", "work", "dvi", "against", "", "ratio", "spread", "target", "limit", ""):
        table.add_column(column, justify="left" if column in {"work", "against"} else "right")
    for m in _sorted():
        table.add_row(
            str(m.row), m.work, f"{m.ours:.4g} {m.unit}", m.peer, f"{m.theirs:.4g} {m.unit}", f"{m.ratio:.2f}",
            f"{min(m.ratios):.2f} to {max(m.ratios):.2f}", f"{m.target:.3g}",
            "" if m.limit is None else f"{m.limit:.3g}", "reached" if m.reached else "missed",
        )  # fmt: skip
    Console(width=160).print(table)
