"""Whether a fit is right: importance weights, distances from the optimum, and what they say in words."""

from dvi.diagnostics.diagnosing import diagnose
from dvi.diagnostics.diagnosis import Diagnosis, Element, WeightedDraws
from dvi.diagnostics.findings import Finding

__all__ = ["Diagnosis", "Element", "Finding", "WeightedDraws", "diagnose"]
