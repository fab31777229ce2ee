"""Batches: arrays that are read together, and the symbolic variables that stand for their rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.sharedvar import TensorSharedVariable
from pytensor.tensor.type import TensorType

from dvi.data.picks import Picks
from dvi.data.readers import RowNumberReader, cast_reader, reader
from dvi.data.source import Source
from dvi.errors import ArgumentError, DataError
from dvi.model.batch_size import Taken, check_batch_size
from dvi.types import AnyArray, Reader

_HEAD_BYTES = 64_000_000


@dataclass(eq=False)
class Batch:
    """Arrays that are read together, and how much of them a step takes. The arrays can be replaced.

    Parameters
    ----------
    names : tuple of str
    readers : tuple of Reader
    taken : Taken
    updates : tuple of callable or None
        For each array, what returns the data that ``update_shared`` puts in its place.
    version : int
        Replacements so far.
    variables : list of MinibatchVariable
        One for each array, and one more for the row numbers once they were asked for.
    """

    names: tuple[str, ...]
    readers: tuple[Reader, ...]
    taken: Taken
    updates: tuple[Callable[[], Any] | None, ...] = ()
    version: int = 0
    variables: list[MinibatchVariable] = field(default_factory=list, repr=False)
    _source: Source | None = field(default=None, repr=False)

    @property
    def source(self) -> Source:
        """The arrays side by side.

        Raises
        ------
        DataError
            If they differ in length, as they do while not all of them are replaced.
        """
        if self._source is None:
            self._source = Source.align(self.readers, self.names)
        return self._source

    @property
    def batch_size(self) -> int:
        """Rows of one step."""
        n_rows = self.source.n_rows
        return n_rows if self.taken.rows is None else check_batch_size(self.taken.rows, n_rows)

    @property
    def picks(self) -> Picks:
        """What a step takes of the other axes."""
        return self.taken.picks

    @property
    def seed(self) -> int | None:
        """Seed of the order of the rows, None for that of the run."""
        return self.taken.seed

    def head(self, column: int) -> AnyArray:
        """First rows of one array, as many as a step takes unless they are large, in the shape that steps have."""
        if column == len(self.readers):
            return np.arange(len(self.head(0)))
        array = self.readers[column]
        n_rows = array.shape[0] if self.taken.rows is None else min(self.taken.rows, array.shape[0])
        row_nbytes = sum(math.prod(r.shape[1:]) * r.dtype.itemsize for r in self.readers)
        return self.picks.first(array.read(0, max(1, min(n_rows, _HEAD_BYTES // max(1, row_nbytes)))))

    def replace(self, column: int, value: object) -> None:
        """Put other data, of any number of rows, in the place of one array."""
        new, old = reader(value), self.readers[column]
        if new.shape[1:] != old.shape[1:]:
            raise DataError(
                f"{self.names[column]!r} cannot hold rows of shape {new.shape[1:]}, as its own are of shape "
                f"{old.shape[1:]}; give (n_rows, *{old.shape[1:]}), or make a new Minibatch and model"
            )
        readers = list(self.readers)
        readers[column] = cast_reader(new, old.dtype)
        self.readers, self._source = tuple(readers), None
        self.version += 1

    def restricted(self, columns: Sequence[int]) -> Batch:
        """Some of the arrays as they are now, on the same grid of rows; one more column is the row numbers."""
        source = self.source
        names = (*self.names, _row_numbers_name(self.names))
        readers = (*source.readers, RowNumberReader(source.n_rows))
        kept = Source(tuple(names[c] for c in columns), tuple(readers[c] for c in columns), source.starts)
        taken = Taken(self.batch_size, self.seed, self.picks)
        return Batch(kept.names, kept.readers, taken, version=self.version, _source=kept)


@dataclass(frozen=True, slots=True)
class Binding:
    """What a symbolic variable stands for: one array of a batch, or behind the last one the row numbers."""

    batch: Batch
    column: int


@dataclass(frozen=True, slots=True)
class FullData:
    """All rows behind a Minibatch variable, under the verbs of a shared variable."""

    variable: MinibatchVariable

    def get_value(self, borrow: bool = False) -> AnyArray:
        """All rows, in memory; not to be written to where ``borrow``."""
        bound = self.variable.bound
        array = bound.batch.readers[bound.column]
        rows = array.read(0, array.shape[0])
        return rows if borrow else np.array(rows)

    def set_value(self, value: object, borrow: bool = False) -> None:
        """Replace the data, see `MinibatchVariable.set_value`."""
        self.variable.set_value(value, borrow)


class MinibatchVariable(TensorSharedVariable):  # type: ignore[misc]
    """A symbolic variable for a batch of rows. Made by :func:`dvi.Minibatch`.

    In graphs it is a shared variable whose value is the first rows of the data, for ``.eval()``. A fit reads the data
    themselves.

    Examples
    --------
    >>> import dvi, numpy as np
    >>> y = dvi.Minibatch(np.arange(1000.0), batch_size=2)
    >>> y.eval()
    array([0., 1.])
    >>> y.set_value(np.arange(500.0) + 7)
    >>> y.get_value(), y.shared.get_value().shape
    (array([7., 8.]), (500,))
    """

    @property
    def bound(self) -> Binding:
        """The array that the variable stands for."""
        found: Binding = self.tag.dvi_binding
        return found

    def _repr_html_(self) -> str:
        return self.bound.batch.source._repr_html_()

    @property
    def minibatch(self) -> MinibatchVariable:
        """The variable itself, as PyMC 3 named it."""
        return self

    @property
    def shared(self) -> FullData:
        """All rows, with ``get_value`` and ``set_value``."""
        return FullData(self)

    @property
    def rows(self) -> MinibatchVariable:
        """Row numbers of the batch, an int64 vector ``(batch_size,)``: ``effects[x.rows]`` gathers an effect a row."""
        batch = self.bound.batch
        if len(batch.variables) == len(batch.readers):
            batch.variables.append(_variable(batch, len(batch.readers), _row_numbers_name(batch.names)))
        return batch.variables[-1]

    def set_value(self, new_value: object, borrow: bool = False) -> None:
        """Replace the data: the next fit or refine reads it.

        Parameters
        ----------
        new_value : array_like
            Whatever :func:`dvi.Minibatch` takes, of any number of rows, each of the same shape. It is cast to the
            dtype of the variable. Arrays of one Minibatch need equal lengths again when the next fit begins.
        borrow : bool
            Whether rows in memory may be used without a copy, so that later writes to them are seen.
        """
        bound = self.bound
        if bound.column == len(bound.batch.readers):
            raise ArgumentError(f"{self.name!r} are the numbers of the rows, which are not data; set another variable")
        bound.batch.replace(bound.column, np.array(new_value) if _is_mutable(new_value, borrow) else new_value)
        self.hold(bound.batch.head(bound.column))
        for variable in bound.batch.variables[len(bound.batch.readers) :]:
            variable.hold(bound.batch.head(len(bound.batch.readers)))

    def update_shared(self) -> None:
        """Replace the data by what ``update_shared_f`` returns."""
        bound = self.bound
        update = bound.batch.updates[bound.column] if bound.column < len(bound.batch.updates) else None
        if update is None:
            raise ArgumentError(f"{self.name!r} was made without update_shared_f; give one to Minibatch")
        self.set_value(update())

    def hold(self, value: AnyArray) -> None:
        """Make graphs evaluate to a value ``(rows, ...)``. What a fit reads stays as it is."""
        super().set_value(value, borrow=True)


def _is_mutable(value: object, borrow: bool) -> bool:
    return isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray) and not borrow


def _row_numbers_name(names: Sequence[str]) -> str:
    name = f"{names[0]}.rows"
    while name in names:
        name += "_"
    return name


def _variable(batch: Batch, column: int, name: str) -> MinibatchVariable:
    head = np.array(batch.head(column))
    type_ = TensorType(head.dtype, shape=(None, *head.shape[1:]))
    variable = MinibatchVariable(type=type_, value=head, strict=False, allow_downcast=None, name=name)
    variable.tag.dvi_binding = Binding(batch, column)
    return variable


def bind(batch: Batch) -> list[MinibatchVariable]:
    """Return one symbolic variable for each array of a batch. Its value is the first rows, for ``.eval()``."""
    batch.variables = [_variable(batch, column, name) for column, name in enumerate(batch.names)]
    return list(batch.variables)


def binding(variable: Variable[Any, Any]) -> Binding | None:
    """What a variable stands for, or None if it is not a Minibatch."""
    return getattr(variable.tag, "dvi_binding", None)


def bound_variables(graphs: Sequence[Variable[Any, Any]]) -> list[Variable[Any, Any]]:
    """Minibatch variables that graphs reach, in order of first sight."""
    return [v for v in dict.fromkeys(ancestors(graphs)) if binding(v) is not None]
