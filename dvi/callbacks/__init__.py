"""Functions that look at a fit while it runs: ``f(approx, losses, i)``, as in PyMC.

``losses`` holds the negative ELBO of the ``i`` steps done so far. Raising ``StopIteration`` ends the fit, which then
returns the approximation as it is.
"""

from __future__ import annotations

from dvi.callbacks.base import Callback
from dvi.callbacks.checkpoint import Checkpoint
from dvi.callbacks.convergence import CheckParametersConvergence
from dvi.callbacks.early_stopping import EarlyStopping
from dvi.callbacks.loss_convergence import CheckLossConvergence
from dvi.callbacks.tracker import Tracker

__all__ = [
    "Callback",
    "CheckLossConvergence",
    "CheckParametersConvergence",
    "Checkpoint",
    "EarlyStopping",
    "Tracker",
]
