"""The ELBO, step by step."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.plots.axes import axes_for, check_shown, foreground

if TYPE_CHECKING:
    from dvi.approximation import Approximation
    from dvi.types import FloatArray

_WINDOWS = 50  # that a history is smoothed over
_REASON_WIDTH = 36  # characters of the reason why a fit ended
_SHOWN = (1.0, 99.0)  # percent of the steps that the axis leaves below and above


def plot_elbo(approx: Approximation, ax: Any = None, *, smooth: int | None = None) -> Any:
    """Plot the ELBO of every step, and its mean over a moving window.

    The axis spans the middle 98 % of the values, so that the first steps, which may be orders of magnitude lower, do
    not flatten the rest. An axis at the top counts epochs. Dotted lines mark where one fit ended and the next began,
    with the reason where it ended early; a thin line against an axis on the right is the learning rate. Both are shown
    as far as they were recorded.

    Parameters
    ----------
    approx : Approximation
        With at least one step.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    smooth : int, optional
        Steps of the window; a fiftieth of all steps by default, and 1 for none.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If nothing was fitted, and for a window that is longer than the history.

    Examples
    --------
    >>> import dvi, matplotlib, pymc as pm
    >>> matplotlib.use("Agg")
    >>> with pm.Model():
    ...     mu = pm.Normal("mu")
    ...     approx = dvi.fit(100, random_seed=1, progressbar=False)
    >>> dvi.plot_elbo(approx).get_xlabel()
    'step'
    """
    check_shown("approx", approx, "hist", "an approximation, as dvi.fit returns")
    values, name = _history(approx)
    window = _checked_window(smooth, len(values))
    (axis,) = axes_for(ax)
    from matplotlib.ticker import StrMethodFormatter

    steps = np.arange(1, len(values) + 1)
    axis.plot(steps, values, color="C0", alpha=0.3, linewidth=0.5, label="one step")
    if window > 1:
        axis.plot(
            steps[window - 1 :] - (window - 1) / 2, moving_mean(values, window), "C0", label=f"mean of {window} steps"
        )
    axis.set_ylim(*_limits(values))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.12g}"))
    axis.set(xlabel="step", ylabel=f"{name} (nats)" if name == "ELBO" else name)
    _mark_epochs(axis, approx.run)
    _mark_stops(axis, approx.run)
    _draw_rate(axis, approx.run)
    axis.legend(loc="lower right", frameon=False)
    return axis


def moving_mean(values: FloatArray, window: int) -> FloatArray:
    """Means ``(n - window + 1,)`` of every ``window`` values in a row, of ``values (n,)``.

    Examples
    --------
    >>> moving_mean(np.array([1.0, 2.0, 3.0, 6.0]), 2).tolist()
    [1.5, 2.5, 4.5]
    """
    return np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=1)


def _history(approx: Approximation) -> tuple[FloatArray, str]:
    """What was maximised ``(steps,)``, or the loss where that is no ELBO, and its name."""
    losses = np.asarray(approx.hist)
    if len(losses) == 0:
        raise ArgumentError("the approximation has no history: fit at least one step before plotting its ELBO")
    name = str(approx.run.get("measure", "ELBO"))
    return (-losses, name) if name == "ELBO" else (losses, "loss")


def _checked_window(smooth: object, n: int) -> int:
    if smooth is None:
        return max(1, n // _WINDOWS)
    if isinstance(smooth, bool) or not isinstance(smooth, int | np.integer):
        raise ArgumentTypeError(f"smooth={smooth!r} is of type {type(smooth).__name__}; give a number of steps")
    if not 1 <= smooth <= n:
        raise ArgumentError(f"smooth={smooth} is not a window of {n} steps; give 1 for none, and at most {n}")
    return int(smooth)


def _limits(values: FloatArray) -> tuple[float | None, float | None]:
    low, high = np.percentile(values[np.isfinite(values)], _SHOWN)
    margin = 0.1 * (high - low)
    return (float(low - margin), float(high + margin)) if margin > 0 else (None, None)


def steps_per_epoch(run: dict[str, Any]) -> float | None:
    """Steps in which every row of the largest data is read once; None for a fit without batches.

    Examples
    --------
    >>> steps_per_epoch({"data": [{"n_rows": 1000}], "lanes": [{"batch_size": 50}]})
    20.0
    """
    ratios = [
        data["n_rows"] / lanes["batch_size"]
        for data, lanes in zip(run.get("data", ()), run.get("lanes", ()), strict=True)
    ]
    return max(ratios, default=None)


def _mark_epochs(axis: Any, run: dict[str, Any]) -> None:
    length = steps_per_epoch(run)
    if length is None:
        return
    epochs = axis.secondary_xaxis("top", functions=(lambda step: step / length, lambda epoch: epoch * length))
    epochs.set_xlabel("epoch")


def _stops(run: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """The last step of every recorded fit, and why it was the last where the fit was not done."""
    step = 0
    for course in run.get("course", ()):
        step += course["steps"][-1]
        yield step, "" if course["end"] == "done" else course["end"]


def _mark_stops(axis: Any, run: dict[str, Any]) -> None:
    stops = list(_stops(run))
    for i, (step, reason) in enumerate(stops):
        if reason or i < len(stops) - 1:
            axis.axvline(step, color=foreground(), linewidth=0.8, linestyle=":")
        if reason:
            note = axis.annotate(
                textwrap.shorten(reason.partition(":")[0], _REASON_WIDTH), (step, 0.5), (-3, 0), ha="right",
                va="center", xycoords=("data", "axes fraction"), textcoords="offset points", rotation=90,
                fontsize="small", color=foreground(),
            )  # fmt: skip
            note.set_in_layout(False)  # the axis need not make room for it


def _draw_rate(axis: Any, run: dict[str, Any]) -> None:
    """The learning rate against an axis of its own."""
    points, start = [], 0
    for course in run.get("course", ()):
        for step, rate in zip(course["steps"], course["learning_rate"], strict=True):
            points += [(start + step, rate)] if rate else []
        start += course["steps"][-1]
        points.append((start, np.nan))  # a gap between two fits
    if all(np.isnan(rate) for _, rate in points):
        return
    right = axis.twinx()
    right.plot(*zip(*points, strict=True), color="C1", linewidth=0.8)
    right.set_ylabel("learning rate", color="C1")
    right.tick_params(axis="y", colors="C1")
    right.set_ylim(0, None)
    axis.set_zorder(right.get_zorder() + 1)  # the legend above the line
    axis.patch.set_visible(False)
