"""How fast a fit went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dvi.errors import ArgumentError
from dvi.plots.axes import axes_for, check_shown, foreground
from dvi.types import FloatArray

if TYPE_CHECKING:
    from dvi.approximation import Approximation

_COLOURS = {"compute": "C0", "read": "C2", "wait": "C3"}
_MOST_BINS = 60  # of the time of a fit: blocks of steps may take a millisecond, which is no time to measure a speed in


def plot_throughput(approx: Approximation, ax: Any = None) -> Any:
    """Plot rows per second over the time of each fit, or steps per second without data, and the number of hosts.

    Speeds are means over a sixtieth of the time of a fit. The area below them is divided as the time of steps was: into
    computing, reading and waiting, of the average thread or worker (:class:`dvi.types.Times`), with the parts of the
    whole in the legend. Shaded is what comes before the end of the first steps, which is compilation for the most part.

    Parameters
    ----------
    approx : Approximation
        Whose fits were recorded.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If no fit was recorded.

    Examples
    --------
    >>> import dvi, matplotlib, pymc as pm
    >>> matplotlib.use("Agg")
    >>> with pm.Model():
    ...     mu = pm.Normal("mu")
    ...     approx = dvi.fit(100, random_seed=1, progressbar=False)
    >>> course = {"seconds": [0, 2, 3], "steps": [0, 50, 100], "rows": [0, 500, 1000], "hosts": [0, 1, 1]}
    >>> approx.run["course"] = [course]
    >>> dvi.plot_throughput(approx).get_ylabel()
    'rows per second'
    """
    check_shown("approx", approx, "run", "an approximation, as dvi.fit returns")
    courses = timed_courses(approx.run)
    if not courses:
        raise ArgumentError("no fit of two blocks of steps or more was recorded; fit longer than a second")
    (axis,) = axes_for(ax)
    counted = "rows" if any(course["rows"][-1] for course in courses) else "steps"
    hosts = [n for course in courses for n in course["hosts"][1:]]
    right = axis.twinx() if min(hosts) != max(hosts) else None
    start = 0.0
    for course in courses:
        seconds = start + np.asarray(course["seconds"][1:], dtype=np.float64)
        edges = np.linspace(seconds[0], seconds[-1], min(_MOST_BINS, len(seconds) - 1) + 1)
        done = np.interp(edges, seconds, course[counted][1:])
        speed = np.diff(done) / np.diff(edges)
        axis.stairs(speed, edges, baseline=None, color="C0")
        _divide(axis, course, edges, speed)
        axis.axvspan(start, seconds[0], color=foreground(), alpha=0.08, linewidth=0)
        if right is not None:
            right.step(seconds, course["hosts"][1:], where="post", color="C1", linewidth=0.8)
        start = float(seconds[-1])
    if labels := _shares(courses):
        from matplotlib.patches import Patch

        axis.legend(handles=[Patch(color=_COLOURS[name], alpha=0.5, label=label) for name, label in labels.items()])
    axis.set(xlabel="seconds", ylabel=f"{counted} per second", xlim=(0, start))
    axis.set_ylim(0, None)
    axis.ticklabel_format(axis="y", scilimits=(-3, 6))
    if right is not None:
        right.set_ylabel("hosts", color="C1")
        right.tick_params(axis="y", colors="C1")
        right.set_ylim(0, None)
        right.yaxis.get_major_locator().set_params(integer=True)
    return axis


def _divide(axis: Any, course: dict[str, Any], edges: FloatArray, speed: FloatArray) -> None:
    """Fill the area below speeds ``(n,)`` in proportion to where the time went between edges ``(n + 1,)``."""
    if "compute" not in course:  # recorded by an earlier version
        return
    seconds = np.asarray(course["seconds"][1:], dtype=np.float64) - course["seconds"][1] + edges[0]
    spent = {name: np.diff(np.interp(edges, seconds, course[name][1:])) for name in _COLOURS}
    total = np.maximum(np.add.reduce(list(spent.values())), 1e-12)
    bottom = np.zeros_like(speed)
    for name, part in spent.items():
        top = bottom + speed * part / total
        axis.stairs(top, edges, baseline=bottom, fill=True, color=_COLOURS[name], alpha=0.5, linewidth=0)
        bottom = top


def _shares(courses: list[dict[str, Any]]) -> dict[str, str]:
    """Labels that say where the time of all fits went; none where it is not known."""
    spent = {name: sum(course[name][-1] for course in courses if name in course) for name in _COLOURS}
    total = sum(spent.values())
    return {name: f"{name} {seconds / total:.0%}".replace("%", " %") for name, seconds in spent.items() if total > 0}


def timed_courses(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of the fits that took some time after their first block of steps, so that they have a speed."""
    courses = run.get("course", ())
    return [c for c in courses if len(c["seconds"]) > 2 and c["seconds"][-1] > c["seconds"][1]]
