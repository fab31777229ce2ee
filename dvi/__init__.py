"""Variational inference for PyMC models on data that does not fit in memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dvi import errors

if TYPE_CHECKING:
    from dvi import callbacks, cluster
    from dvi.approximation import Approximation
    from dvi.dadvi import DADVI
    from dvi.data.ingest import ingest
    from dvi.data.locations import open_store
    from dvi.diagnostics import Diagnosis, diagnose
    from dvi.fitting import Inference
    from dvi.groups import Empirical, FullRank, Group, LowRank, MeanField, Structured
    from dvi.inference import schedules
    from dvi.inference.norms import norm_constraint, total_norm_constraint
    from dvi.inference.optimizers import (
        adadelta,
        adagrad,
        adagrad_window,
        adam,
        adamax,
        apply_momentum,
        apply_nesterov_momentum,
        momentum,
        nesterov_momentum,
        rmsprop,
        sgd,
    )
    from dvi.methods import ADVI, MAP, NFVI, FullRankADVI, KLqp, LowRankADVI, fit
    from dvi.model.evaluating import evaluating
    from dvi.model.minibatch import Minibatch, Potential
    from dvi.persistence import load
    from dvi.plots import plot_diagnosis, plot_elbo, plot_throughput, plot_trace
    from dvi.prediction import log_likelihood, predict
    from dvi.response import as_full_rank, linear_response
    from dvi.resuming import resume
    from dvi.retraining import retrain
    from dvi.svgd import ASVGD, SVGD

__all__ = [
    "ADVI",
    "ASVGD",
    "DADVI",
    "MAP",
    "NFVI",
    "SVGD",
    "Approximation",
    "Diagnosis",
    "Empirical",
    "FullRank",
    "FullRankADVI",
    "Group",
    "Inference",
    "KLqp",
    "LowRank",
    "LowRankADVI",
    "MeanField",
    "Minibatch",
    "Potential",
    "Structured",
    "adadelta",
    "adagrad",
    "adagrad_window",
    "adam",
    "adamax",
    "apply_momentum",
    "apply_nesterov_momentum",
    "as_full_rank",
    "callbacks",
    "cluster",
    "diagnose",
    "errors",
    "evaluating",
    "fit",
    "ingest",
    "linear_response",
    "load",
    "log_likelihood",
    "momentum",
    "nesterov_momentum",
    "norm_constraint",
    "open_store",
    "plot_diagnosis",
    "plot_elbo",
    "plot_throughput",
    "plot_trace",
    "predict",
    "resume",
    "retrain",
    "rmsprop",
    "schedules",
    "sgd",
    "total_norm_constraint",
]

# Public names are imported where they are first used: PyMC takes seconds, and ``dvi --help`` needs none of it.
_HOMES = {
    "dvi.approximation": ("Approximation",),
    "dvi.dadvi": ("DADVI",),
    "dvi.data.ingest": ("ingest",),
    "dvi.data.locations": ("open_store",),
    "dvi.diagnostics": ("Diagnosis", "diagnose"),
    "dvi.fitting": ("Inference",),
    "dvi.groups": (
        "Empirical",
        "FullRank",
        "Group",
        "LowRank",
        "MeanField",
        "Structured",
    ),
    "dvi.inference.extra_momentum": ("apply_momentum", "apply_nesterov_momentum"),
    "dvi.inference.norms": (
        "norm_constraint",
        "total_norm_constraint",
    ),
    "dvi.inference.optimizers": (
        "adadelta",
        "adagrad",
        "adagrad_window",
        "adam",
        "adamax",
        "apply_momentum",
        "apply_nesterov_momentum",
        "momentum",
        "nesterov_momentum",
        "rmsprop",
        "sgd",
    ),
    "dvi.methods": (
        "ADVI",
        "FullRankADVI",
        "KLqp",
        "LowRankADVI",
        "MAP",
        "NFVI",
        "fit",
    ),
    "dvi.model.evaluating": ("evaluating",),
    "dvi.model.minibatch": (
        "Minibatch",
        "Potential",
    ),
    "dvi.persistence": ("load",),
    "dvi.prediction": ("log_likelihood", "predict"),
    "dvi.plots": ("plot_diagnosis", "plot_elbo", "plot_throughput", "plot_trace"),
    "dvi.response": ("as_full_rank", "linear_response"),
    "dvi.resuming": ("resume",),
    "dvi.retraining": ("retrain",),
    "dvi.svgd": ("ASVGD", "SVGD"),
}
_MODULES = {"callbacks": "dvi.callbacks", "cluster": "dvi.cluster", "schedules": "dvi.inference.schedules"}


if not TYPE_CHECKING:  # type checkers have the imports above, and find names that are misspelt

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(_MODULES[name])
        for home, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(importlib.import_module(home), name)
                return value
        raise AttributeError(f"module 'dvi' has no attribute {name!r}{errors.suggestion(name, __all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
