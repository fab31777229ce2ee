"""Plots of a fit. Posteriors are ArviZ's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dvi.errors import ArgumentError

if TYPE_CHECKING:
    from dvi.approximation import Approximation
    from dvi.types import FloatArray

_WINDOWS = 50  # that a history is smoothed over
_SHOWN = (1.0, 99.0)  # percent of the steps that the axis leaves below and above


def plot_elbo(approx: Approximation, ax: Any = None) -> Any:
    """Plot the ELBO of every step, and its mean over a moving window of a fiftieth of the steps.

    The axis spans the middle 98 % of the values, so that the first steps, which may be orders of magnitude lower, do
    not flatten the rest.

    Parameters
    ----------
    approx : Approximation
        With at least one step.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If nothing was fitted.

    Examples
    --------
    >>> import dvi.plots, matplotlib, pymc as pm
    >>> matplotlib.use("Agg")
    >>> with pm.Model():
    ...     mu = pm.Normal("mu")
    ...     approx = dvi.fit(100, random_seed=1, progressbar=False)
    >>> dvi.plots.plot_elbo(approx).get_xlabel()
    'step'
    """
    from matplotlib import pyplot as plt
    from matplotlib.ticker import StrMethodFormatter

    elbo = -np.asarray(approx.hist)
    if len(elbo) == 0:
        raise ArgumentError("the approximation has no history: fit at least one step before plotting its ELBO")
    if ax is None:
        ax = plt.figure(layout="constrained").add_subplot()
    window = max(1, len(elbo) // _WINDOWS)
    last = np.arange(window, len(elbo) + 1)  # of each window, counted from 1
    ax.plot(np.arange(1, len(elbo) + 1), elbo, color="C0", alpha=0.2, linewidth=0.5, label="one step")
    ax.plot(last - (window - 1) / 2, moving_mean(elbo, window), color="C0", label=f"mean of {window} steps")
    ax.set_ylim(*_limits(elbo))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.12g}"))
    ax.set(xlabel="step", ylabel="ELBO (nats)")
    ax.legend(loc="lower right", frameon=False)
    return ax


def moving_mean(values: FloatArray, window: int) -> FloatArray:
    """Means ``(n - window + 1,)`` of every ``window`` values in a row, of ``values (n,)``.

    Examples
    --------
    >>> moving_mean(np.array([1.0, 2.0, 3.0, 6.0]), 2).tolist()
    [1.5, 2.5, 4.5]
    """
    return np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=1)


def _limits(elbo: FloatArray) -> tuple[float | None, float | None]:
    low, high = np.percentile(elbo, _SHOWN)
    margin = 0.1 * (high - low)
    return (float(low - margin), float(high + margin)) if margin > 0 else (None, None)
