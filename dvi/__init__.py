"""Variational inference for PyMC models on data that does not fit in memory."""

from dvi import callbacks, errors
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
    "rmsprop",
    "sgd",
]
