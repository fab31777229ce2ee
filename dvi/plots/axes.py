"""Where plots are drawn, and colours that show on any background."""

from __future__ import annotations

from typing import Any

from dvi.errors import ArgumentError, ArgumentTypeError, DviError


def check_shown(name: str, value: object, attribute: str, what: str) -> None:
    """Refuse what is not of the kind that a plot shows, told by an attribute."""
    if not hasattr(value, attribute):
        raise ArgumentTypeError(f"{name}={value!r} is of type {type(value).__name__}; give {what}")


def axes_for(ax: Any, n: int = 1, size: tuple[float, float] | None = None) -> list[Any]:
    """The axes that were given, or those of a new figure side by side.

    Parameters
    ----------
    ax : matplotlib.axes.Axes, sequence of them, or None
    n : int
        How many are needed.
    size : tuple of float, optional
        Of a new figure, in inches.
    """
    if ax is None:
        return list(_pyplot().figure(layout="constrained", figsize=size).subplots(1, n, squeeze=False)[0])
    given = list(ax.flat) if hasattr(ax, "flat") else list(ax) if isinstance(ax, list | tuple) else [ax]
    for axis in given:
        check_shown("ax", axis, "plot", "axes of matplotlib")
    if len(given) != n:
        raise ArgumentError(f"ax has {len(given)} axes and the plot has {n} panels; give {n}, or leave ax out")
    return given


def foreground() -> str:
    """The colour of text, which shows on the background of the style in use."""
    import matplotlib as mpl

    return str(mpl.rcParams["text.color"])


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot as plt
    except ModuleNotFoundError:
        raise DviError('plots need matplotlib, which is not installed; run: pip install "dask-vi[plots]"') from None
    return plt
