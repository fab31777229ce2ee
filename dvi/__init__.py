"""Variational inference for PyMC models on data that does not fit in memory."""

from dvi import errors
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
    "errors",
    "fit",
    "ingest",
    "momentum",
    "nesterov_momentum",
    "rmsprop",
    "sgd",
]
