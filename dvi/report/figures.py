"""Figures as SVG that takes the colours of the page that it is put into."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from dvi.plots import plot_elbo, plot_throughput
from dvi.plots.diagnosis import draw_elements
from dvi.plots.throughput import timed_courses

if TYPE_CHECKING:
    import pymc as pm

    from dvi.approximation import Approximation
    from dvi.diagnostics import Diagnosis

_INK = "#7f7f7e"  # stands for the colour of text; no plot has it for another reason
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, which can be read aloud and searched
    "font.family": "sans-serif",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), _INK
    ),
}
_GRAPH_COLOURS = {
    'fill="white"': 'fill="none"',
    'fill="lightgrey"': 'fill="currentColor" fill-opacity="0.12"',
    'stroke="black"': 'stroke="currentColor"',
    'fill="black"': 'fill="currentColor"',
    "<text ": '<text fill="currentColor" ',
}
_COLOURS = ["#2f86c9", "#e08214"]  # that show on white and on black


def elbo(approx: Approximation) -> str:
    """The ELBO of every step."""
    return _svg("elbo", "The ELBO of every step, and its moving mean", (8.0, 3.6), lambda ax: plot_elbo(approx, ax))


def elements(diagnosis: Diagnosis) -> str:
    """Means and standard deviations against where they should be."""
    height = 1.6 + 0.25 * min(15, len(diagnosis.elements))
    about = "Distance of means and standard deviations from those of the posterior"
    return _svg("elements", about, (8.0, height), lambda ax: draw_elements(ax, diagnosis))


def throughput(approx: Approximation) -> str:
    """Rows per second; nothing where it was not recorded."""
    if not timed_courses(approx.run):
        return ""
    return _svg("throughput", "Rows or steps per second", (8.0, 2.6), lambda ax: plot_throughput(approx, ax))


def graph(model: pm.Model | None) -> str:
    """The model as PyMC draws it; nothing without the model or without Graphviz."""
    if model is None or shutil.which("dot") is None:
        return ""
    try:
        from pymc import model_to_graphviz

        drawn = model_to_graphviz(model)
    except ImportError:  # the Python half of Graphviz
        return ""
    text = drawn.pipe(format="svg", encoding="utf-8")
    text = re.sub(r"<title>.*?</title>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = text.replace('fill="white"', 'fill="none"').replace(
        'fill="lightgrey"', 'fill="currentColor" fill-opacity="0.12"'
    )
    text = re.sub(r'stroke="black"', 'stroke="currentColor"', text).replace("<text ", '<text fill="currentColor" ')
    return _labelled(text, "Graph of the model: variables and what they depend on")


def _svg(name: str, about: str, size: tuple[float, float], draw: Callable[[Any], object]) -> str:
    """What is drawn on new axes, with the colour of text left to the page."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name, "axes.prop_cycle": mpl.rcsetup.cycler(color=_COLOURS)}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r'id="(?=[A-Za-z])', f'id="{name}-', buffer.getvalue())
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    return _labelled(text.replace(_INK, "currentColor"), about)


def _labelled(document: str, about: str) -> str:
    """An SVG document as an element of a page: as wide as there is room, with a name for those who do not see it."""
    start = document.index("<svg")
    head, rest = document[start:].split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    return f'{head} role="img" aria-label="{escape(about)}">{rest}'
