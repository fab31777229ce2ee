"""The figure of the benchmarks: every ratio with its spread, and the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.measuring import Measurement


def draw(rows: Sequence[Measurement], path: Path) -> None:
    """Write a dot for each row on a logarithmic axis, a line for the spread, and marks at target and limit."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.35 * len(rows) + 1.2), layout="constrained")
    FigureCanvasSVG(figure)
    ax = figure.add_subplot()
    for i, m in enumerate(rows):
        ax.plot([min(m.ratios), max(m.ratios)], [i, i], color="tab:blue", linewidth=2, alpha=0.5, label="rounds")
        ax.plot(m.ratio, i, "o", color="tab:blue", label="median")
        ax.plot(m.target, i, "|", color="tab:orange", markersize=14, markeredgewidth=2, label="target")
        if m.limit is not None:
            ax.plot(m.limit, i, "x", color="tab:red", markersize=6, label="limit")
    ax.set_yticks(range(len(rows)), [f"{m.work}, against {m.peer}" for m in rows])
    ax.set(xscale="log", xlabel="times better than the peer")
    handles, labels = ax.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="outside upper right", ncols=len(known))
    ax.axvline(1.0, color="gray", linewidth=0.8)
    ax.invert_yaxis()
    figure.savefig(path, format="svg")
