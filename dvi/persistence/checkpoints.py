"""Checkpoints: an approximation, and the training that was improving it, as numbers and JSON."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from dvi.approximation import Approximation
from dvi.data.locations import Options
from dvi.data.store import COMPLETE, Target
from dvi.data.zarr_arrays import strict
from dvi.errors import StoreError, StoreExistsError, StoreNotFoundError
from dvi.persistence.places import FORMAT, label_of, open_root, place_of
from dvi.persistence.reading import read
from dvi.persistence.records import attributes_of, rebuilt
from dvi.persistence.versions import CURRENT, Contents
from dvi.types import FloatArray

_TRAINING = "training"  # name of an attribute, and of an array


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A fit at one of its steps.

    Parameters
    ----------
    approximation : Approximation
        So far; without a model.
    record : dict
        JSON: all else that a training consists of.
    numbers : array, shape (n,)
        Those that it refers to.
    """

    approximation: Approximation
    record: dict[str, Any]
    numbers: FloatArray

    @classmethod
    def of(cls, approx: Approximation, record: dict[str, Any], numbers: FloatArray) -> Checkpoint:
        """A checkpoint that further steps do not change."""
        frozen = Approximation(approx.family, approx.theta, approx.layout, approx.hist, copy.deepcopy(approx.run))
        return cls(frozen, record, numbers)

    def contents(self) -> Contents:
        """What is written."""
        approx = self.approximation
        arrays = {"approximation/theta": approx.theta, "history/loss": approx.hist, _TRAINING: self.numbers}
        return Contents(arrays, {**attributes_of(approx), _TRAINING: self.record})


def read_checkpoint(store: Any, storage_options: Options | None = None) -> Checkpoint:
    """The last whole checkpoint in a store.

    Raises
    ------
    StoreNotFoundError
        If there is nothing.
    StoreError
        If there is something else, or none that is whole.
    """
    target = place_of(store, storage_options)
    found = open_root(target).attrs.asdict()
    if FORMAT in found and CURRENT not in found:
        raise StoreError(
            f"{label_of(target)} is an approximation that was saved at the end of a fit, not a checkpoint. Pass what "
            "checkpoint= was, or go on from it by dvi.fit(start=dvi.load(...))."
            if found.get(COMPLETE) is True
            else f"no checkpoint in {label_of(target)} is whole yet. Start the fit again."
        )
    return read(target, _rebuilt)


def _rebuilt(group: zarr.Group, attributes: Mapping[str, Any], groups: tuple[str, ...]) -> Checkpoint:
    record, array = attributes[_TRAINING], group[_TRAINING]
    if not isinstance(record, dict) or not isinstance(array, zarr.Array):
        raise TypeError(f"the training is {record!r:.100} with {array}")
    if array.ndim != 1 or array.dtype != np.float64:
        raise ValueError(f"the training is {array}; expected floats of 64 bits")
    numbers = np.asarray(strict(array)[:], dtype=np.float64)
    return Checkpoint(rebuilt(group, attributes, groups), record, numbers)


def check_new(target: Target) -> None:
    """Refuse a place in which there is anything but what a run left that never came to its first checkpoint.

    Raises
    ------
    StoreExistsError
        If there is a checkpoint, or a saved approximation.
    StoreError
        If there is something that was not written here.
    """
    try:
        found = open_root(target).attrs.asdict()
    except StoreNotFoundError:
        return
    if CURRENT in found:
        raise StoreExistsError(
            f"{label_of(target)} holds the checkpoints of another fit. Go on with it by dvi.resume, delete it, or "
            "choose another place."
        )
    if FORMAT not in found or found.get(COMPLETE) is True:
        raise StoreExistsError(f"{label_of(target)} exists already. Choose another place for checkpoints.")
