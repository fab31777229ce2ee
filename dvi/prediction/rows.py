"""The rows for which variables are computed: those of the training data, or new ones."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from dvi.data.chunks import rows_per_chunk
from dvi.data.memory import is_in_memory
from dvi.data.readers import cast_reader, reader
from dvi.data.source import Source
from dvi.errors import ArgumentError, ArgumentTypeError, DataError, suggestion
from dvi.model.batch import Batch, MinibatchVariable
from dvi.model.pointwise import RowTerm
from dvi.types import AnyArray, Reader

type StandsFor = Mapping[Any, MinibatchVariable]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of the arrays of one batch.

    Parameters
    ----------
    names : tuple of str
    readers : tuple of Reader
        Those that are read, in the order of the term.
    n_rows : int
    chunk_rows : int
        Rows of a chunk, in which they are best read.
    dims : tuple of str
        Names of the dimensions of the observed array, if it came with some.
    coords : dict
        Coordinates of dimensions ``(n,)``.
    """

    names: tuple[str, ...]
    readers: tuple[Reader, ...]
    n_rows: int
    chunk_rows: int
    dims: tuple[str, ...] = ()
    coords: dict[str, AnyArray] = field(default_factory=dict)

    def identity(self) -> list[Any]:
        """What identifies the rows, ready for JSON; of arrays in memory their content."""
        source = Source.align(self.readers, self.names).fingerprint() if self.readers else None
        return [self.n_rows, source, [_digest(r) for r in self.readers if is_in_memory(r)]]


def training_rows(term: RowTerm) -> Rows:
    """The rows that a model is fitted to."""
    n_rows = term.batch.source.n_rows
    if not term.columns:
        return Rows((), (), n_rows, rows_per_chunk(8))
    source = term.batch.restricted(term.columns).source
    return Rows(source.names, source.readers, n_rows, int(np.diff(source.starts).max()))


def new_rows(terms: Sequence[RowTerm], stands_for: StandsFor, data: Any) -> dict[int, Rows]:
    """New rows for the terms that data is given for, by the position of the term.

    Parameters
    ----------
    terms : sequence of RowTerm
    stands_for : mapping
        As :func:`dvi.model.pointwise.minibatches` returned it.
    data : mapping, Dataset, list or array
        As :func:`dvi.predict` takes it.
    """
    given = _by_batch(stands_for, data)
    found = {i: _matched(term, given[term.batch]) for i, term in enumerate(terms) if term.batch in given}
    if not found:
        names = [name for term in terms for name in term.names]
        raise ArgumentError(f"data has no rows for {names}; give the arrays of the Minibatch that they depend on")
    return found


def _by_batch(stands_for: StandsFor, data: Any) -> dict[Batch, dict[int, Any]]:
    """What was given, by batch and column. None is left out."""
    batches = list(dict.fromkeys(v.bound.batch for v in stands_for.values()))
    if not isinstance(data, Mapping):
        data = _in_order(batches, list(data) if isinstance(data, list | tuple) else [data])
    found: dict[Batch, dict[int, Any]] = {}
    for key, value in data.items():
        places = _places(batches, stands_for, key)
        if not places and isinstance(data, xr.Dataset):
            continue
        if len(places) != 1:
            known = [name for batch in batches for name in batch.names]
            what = "names several arrays" if places else "is no array of a Minibatch of the model"
            raise ArgumentError(
                f"{key!r} {what}, which has {known}; give {{x: x_new}} with the variables that dvi.Minibatch returned"
                f"{'' if places else suggestion(key, known)}"
            )
        if value is not None:
            found.setdefault(places[0][0], {})[places[0][1]] = value
    return found


def _in_order(batches: list[Batch], arrays: list[Any]) -> dict[Any, Any]:
    """Arrays in the order of the one Minibatch call of a model, by their variables."""
    if len(batches) != 1:
        raise ArgumentError(
            f"the model has {len(batches)} Minibatches, so that a list of arrays does not say which is whose; give "
            "{variable: array}"
        )
    (batch,) = batches
    if not 1 <= len(arrays) <= len(batch.names):
        raise ArgumentError(
            f"{len(arrays)} arrays were given, and the Minibatch has {len(batch.names)}: {', '.join(batch.names)}; "
            "give them in that order, None for those that are not needed"
        )
    return dict(zip(batch.variables, arrays, strict=False))


def _places(batches: list[Batch], stands_for: StandsFor, key: Any) -> list[tuple[Batch, int]]:
    """The batches and columns that a key names."""
    if isinstance(key, str):
        return [(b, v.bound.column) for b in batches for v in b.variables if v.name == key]
    if not hasattr(key, "owner"):
        raise ArgumentTypeError(
            f"data has the key {key!r} of type {type(key).__name__}; give {{x: x_new}} with the variables that "
            "dvi.Minibatch returned, or their names"
        )
    variable = stands_for.get(key)
    if variable is None and getattr(key, "bound", None) is not None:
        variable = key if key.bound.batch in batches else None  # of the batch, but not in the graph
    return [] if variable is None else [(variable.bound.batch, variable.bound.column)]


def _matched(term: RowTerm, given: Mapping[int, Any]) -> Rows:
    batch = term.batch
    missing = [batch.variables[c].name for c in term.columns if c not in given]
    if missing:
        raise ArgumentError(
            f"{list(term.names)} also depend on {missing}, of which data has no rows; give an array for each"
        )
    readers = {c: _reader(batch.variables[c], value) for c, value in given.items()}
    names = {c: str(batch.variables[c].name) for c in given}
    source = Source.align(list(readers.values()), list(names.values()))  # refuses unequal lengths
    used = Source.align([readers[c] for c in term.columns], [names[c] for c in term.columns]) if term.columns else None
    starts = source.starts if used is None else used.starts
    dims, coords = _labels(given)
    return Rows(
        tuple(names[c] for c in term.columns), tuple(readers[c] for c in term.columns), source.n_rows,
        int(np.diff(starts).max()), dims, coords,
    )  # fmt: skip


def _reader(variable: MinibatchVariable, value: Any) -> Reader:
    """New rows of an array, cast to the dtype of its variable."""
    bound, found = variable.bound, reader(value)
    readers = bound.batch.readers
    trailing = readers[bound.column].shape[1:] if bound.column < len(readers) else ()
    if found.shape[1:] != trailing:
        raise DataError(
            f"the rows given for {variable.name!r} are of shape {found.shape[1:]}, those of its Minibatch of "
            f"{trailing}; give an array of shape (n_rows, *{trailing})"
        )
    return cast_reader(found, np.dtype(variable.dtype))


def _labels(given: Mapping[int, Any]) -> tuple[tuple[str, ...], dict[str, AnyArray]]:
    """Names and coordinates of the dimensions of arrays that have them; of the first, the name of the rows."""
    labelled = [value for value in given.values() if isinstance(value, xr.DataArray)]
    coords = {
        str(dim): np.asarray(array.indexes[dim])
        for array in reversed(labelled)
        for dim in array.dims
        if dim in array.indexes
    }
    return tuple(map(str, labelled[0].dims[:1])) if labelled else (), coords


def _digest(array: Reader) -> str:
    found = hashlib.sha256()
    for start, stop in _runs(array):
        found.update(array.read(start, stop).data)
    return found.hexdigest()


def _runs(array: Reader) -> Iterator[tuple[int, int]]:
    edges = np.cumsum([0, *array.chunk_rows]).tolist()
    return itertools.pairwise(edges)
