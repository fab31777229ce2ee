"""Models evaluated on other data than what they are fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from dvi.data.readers import cast_reader, reader
from dvi.errors import ArgumentError, ArgumentTypeError, DataError
from dvi.model.batch import Batch, MinibatchVariable, binding
from dvi.types import AnyArray


@contextmanager
def evaluating(values: Mapping[Any, Any]) -> Iterator[None]:
    """Make Minibatch variables hold other arrays inside a ``with`` block, to predict or to evaluate a model on them.

    What fits read is not touched, and on leaving the block the variables hold what they held.

    Parameters
    ----------
    values : mapping from MinibatchVariable to array_like
        Arrays of any number of rows, of the shape of a batch behind the rows, cast to the dtype of the variable. All
        arrays of one Minibatch are given together, with equally many rows; None stands for zeros, where values do not
        matter, as for what is to be predicted. Row numbers (``x.rows``) count from 0 unless they are given.

    Raises
    ------
    ArgumentError, ArgumentTypeError, DataError
        For keys that are not Minibatch variables, arrays of another shape or of unequal lengths, and arrays left out.

    Examples
    --------
    >>> import dvi, numpy as np
    >>> x, y = dvi.Minibatch(np.ones((1000, 3)), np.ones(1000), batch_size=100)
    >>> with dvi.evaluating({x: np.zeros((5, 3)), y: None}):
    ...     (x.sum() + y).eval().shape
    (5,)
    >>> y.eval().shape
    (100,)
    """
    held: dict[MinibatchVariable, AnyArray] = {}
    for batch, given in _by_batch(values).items():
        held |= _arrays(batch, given)
    before = [(v, v.get_value(borrow=True), v.bound.batch.version) for v in held]
    try:
        for variable, array in held.items():
            variable.hold(array)
        yield
    finally:
        for variable, array, version in before:
            batch = variable.bound.batch
            replaced = batch.version != version  # by a set_value inside the block
            variable.hold(batch.head(variable.bound.column) if replaced else array)


def _by_batch(values: Mapping[Any, Any]) -> dict[Batch, dict[int, Any]]:
    """What was given, by batch and column."""
    found: dict[Batch, dict[int, Any]] = {}
    for variable, value in values.items():
        bound = binding(variable) if hasattr(variable, "tag") else None
        if bound is None:
            raise ArgumentTypeError(
                f"{variable!r} is not a Minibatch variable; give what dvi.Minibatch returned, and use pm.set_data "
                "for pm.Data"
            )
        found.setdefault(bound.batch, {})[bound.column] = value
    return found


def _arrays(batch: Batch, given: Mapping[int, Any]) -> dict[MinibatchVariable, AnyArray]:
    """The array that each variable of a batch is to hold."""
    missing = [name for column, name in enumerate(batch.names) if column not in given]
    if missing:
        raise ArgumentError(
            f"{missing} of the Minibatch of {[batch.names[c] for c in given if c < len(batch.names)]} are left out; "
            "give all of its variables, None for those whose values do not matter, as for what is to be predicted"
        )
    known = {c: _array(batch.variables[c], value) for c, value in given.items() if value is not None}
    lengths = {len(array) for array in known.values()}
    if len(lengths) != 1:
        raise DataError(
            f"the arrays given for {list(batch.names)} have {sorted(lengths) or 'no'} rows; give at least one array, "
            "and all with equally many rows"
        )
    n_rows = lengths.pop()
    blanks = {c: _blank(batch, c, n_rows) for c in range(len(batch.variables)) if c not in known}
    return {batch.variables[c]: array for c, array in (known | blanks).items()}


def _array(variable: MinibatchVariable, value: Any) -> AnyArray:
    given = reader(value)
    trailing = variable.type.shape[1:]
    if given.shape[1:] != trailing:
        raise DataError(
            f"{variable.name!r} cannot hold an array of shape {given.shape}; give (n_rows, *{trailing}), the shape of "
            "a batch behind its rows"
        )
    return cast_reader(given, variable.dtype).read(0, given.shape[0])


def _blank(batch: Batch, column: int, n_rows: int) -> AnyArray:
    """Zeros for an array, and numbers from 0 for the numbers of the rows."""
    if column == len(batch.readers):
        return np.arange(n_rows)
    variable = batch.variables[column]
    return np.zeros((n_rows, *variable.type.shape[1:]), dtype=variable.dtype)
