"""Parameters as they moved during a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvi.errors import ArgumentError
from dvi.plots.axes import axes_for, check_shown

if TYPE_CHECKING:
    from dvi.callbacks import Tracker
    from dvi.types import FloatArray

_MOST_LINES = 10


def plot_trace(
    tracker: Tracker,
    ax: Any = None,
    *,
    mean: str = "mean",
    std: str | None = "std",
    elements: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
) -> Any:
    """Plot what a tracker has kept: a line for each element, with a band of one standard deviation about it.

    Parameters
    ----------
    tracker : Tracker
        Made, for instance, as ``Tracker(mean=approx.mean.eval, std=approx.std.eval)``, and called at least once.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    mean : str
        Name in the tracker of the lines: numbers, or arrays of one shape.
    std : str, optional
        Name of the half widths of the bands, of the same shape. No bands if the tracker does not have it.
    elements : sequence of int, optional
        Which elements to draw, counted in the flattened arrays; the first 10 by default.
    labels : sequence of str, optional
        A name for every element, for instance ``approx.layout.names()``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If nothing was tracked under the name, or if there are no such elements.

    Examples
    --------
    >>> import dvi, matplotlib, pymc as pm
    >>> matplotlib.use("Agg")
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", shape=2)
    ...     advi = dvi.ADVI(random_seed=1)
    >>> tracker = dvi.callbacks.Tracker(mean=advi.approx.mean.eval, std=advi.approx.std.eval)
    >>> approx = advi.fit(50, callbacks=[tracker], progressbar=False)
    >>> axis = dvi.plot_trace(tracker, labels=approx.layout.names())
    >>> [line.get_label() for line in axis.lines]
    ['mu[0]', 'mu[1]']
    """
    check_shown("tracker", tracker, "hist", "a dvi.callbacks.Tracker")
    lines = _kept(tracker, mean)
    halves = _kept(tracker, std) if std is not None and std in tracker.hist else None
    if halves is not None and halves.shape != lines.shape:
        raise ArgumentError(f"{std!r} has {halves.shape[1]} elements and {mean!r} has {lines.shape[1]}; give std=None")
    n = lines.shape[1]
    chosen = range(min(n, _MOST_LINES)) if elements is None else elements
    if any(not 0 <= i < n for i in chosen):
        raise ArgumentError(f"elements={list(chosen)} are not all among the {n} of {mean!r}; give numbers below {n}")
    names = [f"{mean}[{i}]" for i in range(n)] if labels is None else list(labels)
    if len(names) != n:
        raise ArgumentError(f"labels has {len(names)} names for the {n} elements of {mean!r}; give one for each")
    (axis,) = axes_for(ax)
    at = np.arange(1, len(lines) + 1) * int(getattr(tracker, "every", 1))
    for i in chosen:
        (line,) = axis.plot(at, lines[:, i], label=names[i])
        if halves is not None:
            low, high = lines[:, i] - halves[:, i], lines[:, i] + halves[:, i]
            axis.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set(xlabel="step", ylabel=mean if halves is None else f"{mean} ± {std}")
    axis.legend(frameon=False)
    return axis


def _kept(tracker: Tracker, name: str) -> FloatArray:
    """Values that a tracker has kept, ``(times, elements)``."""
    values = tracker[name]
    if not values:
        raise ArgumentError(f"nothing was kept of {name!r} yet; fit with callbacks=[tracker] first")
    shapes = {np.shape(value) for value in values}
    if len(shapes) > 1:
        raise ArgumentError(f"{name!r} changed its shape, {sorted(shapes)}; track arrays of one shape to plot them")
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)
