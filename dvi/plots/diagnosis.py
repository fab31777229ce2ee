"""What a diagnosis has found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dvi.plots.axes import axes_for, check_shown, foreground

if TYPE_CHECKING:
    from dvi.diagnostics import Diagnosis

_MOST_ELEMENTS = 15
_TOO_FAR = 0.3  # posterior standard deviations, above which a mean counts as wrong: dvi.diagnostics.findings


def plot_diagnosis(diagnosis: Diagnosis, ax: Any = None) -> Any:
    """Plot the importance weights with their k-hat, and how far means and standard deviations are off.

    On the left, the largest weight to the smallest, in multiples of an equal share: a line that falls steeply says that
    few draws have most of the weight. On the right, for the elements that are furthest off, the distance of the mean
    from where it would go, with four standard errors, and the standard deviation of the approximation beside that of
    the posterior: both in posterior standard deviations. The band is what does not count as wrong.

    Parameters
    ----------
    diagnosis : Diagnosis
    ax : sequence of matplotlib.axes.Axes, optional
        Two, where to draw; a new figure by default.

    Returns
    -------
    array of matplotlib.axes.Axes, shape (2,)

    Examples
    --------
    >>> import dvi, matplotlib, pymc as pm
    >>> matplotlib.use("Agg")
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", shape=2)
    ...     approx = dvi.fit(1_000, random_seed=1, progressbar=False)
    >>> left, right = dvi.plot_diagnosis(dvi.diagnose(approx, random_seed=1, progressbar=False))
    >>> left.get_ylabel()
    'weight, of an equal share'
    """
    check_shown("diagnosis", diagnosis, "numbers", "what dvi.diagnose returns")
    left, right = axes_for(ax, 2, (11.0, 4.0))
    _draw_weights(left, diagnosis)
    draw_elements(right, diagnosis)
    return np.array([left, right])


def _draw_weights(axis: Any, diagnosis: Diagnosis) -> None:
    khat, threshold = diagnosis.numbers.get("khat"), diagnosis.numbers.get("khat_threshold")
    if khat is not None and threshold is not None:
        relation = "above" if khat > threshold else "within"
        axis.set_title(f"k-hat {khat:.2f}, {relation} {threshold:.2f}")
    axis.set(xlabel="draw, by its weight", ylabel="weight, of an equal share")
    if diagnosis.sample is None:
        axis.text(0.5, 0.5, "weights are not stored", transform=axis.transAxes, ha="center", color=foreground())
        return
    logs = np.sort(diagnosis.sample.log_weights)[::-1]
    axis.axhline(1.0, color=foreground(), linewidth=0.8, linestyle=":")
    axis.plot(np.arange(1, len(logs) + 1), np.exp(logs + math.log(len(logs))), color="C0")
    axis.set(xscale="log", yscale="log")


def draw_elements(axis: Any, diagnosis: Diagnosis) -> None:
    """The right panel of :func:`plot_diagnosis`."""
    elements = diagnosis.worst(_MOST_ELEMENTS)
    place = np.arange(len(elements))[::-1]  # the worst on top
    shift = np.array([e.shift for e in elements])
    error = 4.0 * np.array([e.shift_error for e in elements])
    width = np.array([e.sd / e.posterior_sd for e in elements])
    axis.axvspan(-_TOO_FAR, _TOO_FAR, color=foreground(), alpha=0.08, linewidth=0)
    axis.hlines(place - 0.15, -1.0, 1.0, color=foreground(), alpha=0.4, linewidth=3, label="posterior sd")
    axis.hlines(place + 0.15, -width, width, color="C0", linewidth=3, label="sd of the approximation")
    axis.errorbar(shift, place, xerr=error, fmt="o", color="C1", markersize=4, label="where the mean would go")
    axis.set_yticks(place, [e.name for e in elements])
    axis.set_ylim(-0.7, len(elements) - 0.3)
    axis.set(xlabel="posterior standard deviations")
    axis.legend(
        frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, borderaxespad=0.2
    )
