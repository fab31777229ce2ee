"""Variational inference for PyMC models on data that does not fit in memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dvi import errors

if TYPE_CHECKING:
    from dvi import callbacks
    from dvi.approximation import Approximation
    from dvi.data.ingest import ingest
    from dvi.inference.optimizers import (
        adadelta,
        adagrad,
        adagrad_window,
        adam,
        adamax,
        momentum,
        nesterov_momentum,
        rmsprop,
        sgd,
    )
    from dvi.methods import ADVI, Inference, fit
    from dvi.model.minibatch import Minibatch, Potential
    from dvi.persistence import load
    from dvi.plots import plot_elbo

__all__ = [
    "ADVI",
    "Approximation",
    "Inference",
    "Minibatch",
    "Potential",
    "adadelta",
    "adagrad",
    "adagrad_window",
    "adam",
    "adamax",
    "callbacks",
    "errors",
    "fit",
    "ingest",
    "load",
    "momentum",
    "nesterov_momentum",
    "plot_elbo",
    "rmsprop",
    "sgd",
]

# Public names are imported where they are first used: PyMC takes seconds, and ``dvi --help`` needs none of it.
_HOMES = {
    "dvi.approximation": ("Approximation",),
    "dvi.data.ingest": ("ingest",),
    "dvi.inference.optimizers": (
        "adadelta", "adagrad", "adagrad_window", "adam", "adamax", "momentum", "nesterov_momentum", "rmsprop", "sgd",
    ),
    "dvi.methods": ("ADVI", "Inference", "fit"),
    "dvi.model.minibatch": ("Minibatch", "Potential"),
    "dvi.persistence": ("load",),
    "dvi.plots": ("plot_elbo",),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "callbacks":
        return importlib.import_module("dvi.callbacks")
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(home), name)
            return value
    raise AttributeError(f"module 'dvi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
