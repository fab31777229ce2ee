"""Plots of a fit. Posteriors are ArviZ's. matplotlib is imported when something is drawn."""

from dvi.plots.diagnosis import plot_diagnosis
from dvi.plots.elbo import plot_elbo
from dvi.plots.throughput import plot_throughput
from dvi.plots.trace import plot_trace

__all__ = ["plot_diagnosis", "plot_elbo", "plot_throughput", "plot_trace"]
