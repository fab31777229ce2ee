"""Symbolic variables that are bound to a source of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import xarray as xr
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors

from dvi.data.readers import reader
from dvi.data.source import Source
from dvi.errors import ArgumentError, ArgumentTypeError

_HEAD_BYTES = 64_000_000


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays that are read together, and how many of their rows a step takes.

    Parameters
    ----------
    source : Source
    batch_size : int
    """

    source: Source
    batch_size: int


@dataclass(frozen=True, slots=True)
class Binding:
    """What a symbolic variable stands for: one array of a batch."""

    batch: Batch
    column: int


def check_batch_size(batch_size: object, n_rows: int) -> int:
    """Return ``batch_size`` as an int, or say what is wrong with it."""
    if isinstance(batch_size, bool | np.bool) or not isinstance(batch_size, int | np.integer):
        raise ArgumentTypeError(
            f"batch_size={batch_size!r} is of type {type(batch_size).__name__}; "
            f"give an int between 1 and the {n_rows} rows of the data"
        )
    if not 1 <= batch_size <= n_rows:
        raise ArgumentError(
            f"batch_size={batch_size} is out of range; give an int between 1 and the {n_rows} rows of the data"
        )
    return int(batch_size)


def Minibatch(*arrays: Any, batch_size: int, dims: str | None = None, name: str | None = None) -> Any:  # noqa: N802
    """Symbolic variables that stand for a batch of rows of arrays in memory or in Zarr.

    All arrays share one set of rows in every step. The length of the arrays is the ``total_size`` of a likelihood
    observed on them: there is no need to pass it.

    Parameters
    ----------
    *arrays : array_like
        Arrays of equal length along the leading dimension: NumPy, ``zarr.Array``, ``xarray.DataArray`` (lazily opened
        or not, with or without Dask), ``dask.array``, pandas, or a path to a Zarr array. Integers of any width, bools
        and floats; NaN is refused when it is read.
    batch_size : int
        Rows of one step, from 1 to the length of the arrays.
    dims : str, optional
        Name of the leading dimension, checked on arrays that carry names.
    name : str, optional
        Name of the variables; ``minibatch`` by default, with the position of the array appended.

    Returns
    -------
    TensorVariable or list of TensorVariable
        One for each array, of shape (batch_size, ...). ``.eval()`` gives the first rows of the data.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For a ``batch_size`` that is not an int from 1 to the number of rows.
    DataError
        For arrays of unequal length, without rows, without dimensions, or of a type that is not numeric.
    StoreNotFoundError
        For a path that does not exist.

    Examples
    --------
    >>> import dvi, numpy as np
    >>> x, y = dvi.Minibatch(np.ones((1000, 3)), np.arange(1000), batch_size=100)
    >>> x.type.shape[1], y.eval()[:3].tolist()
    (3, [0, 1, 2])
    """
    if not arrays:
        raise ArgumentError("Minibatch() was given no array; give one or more of equal length")
    for array in arrays:
        _check_dims(array, dims)
    labels = [_label(array, name or "minibatch", i) for i, array in enumerate(arrays)]
    source = Source.align([reader(array) for array in arrays], labels)
    batch = Batch(source, check_batch_size(batch_size, source.n_rows))
    variables = bind(batch)
    return variables if len(variables) > 1 else variables[0]


def _check_dims(array: Any, dims: str | None) -> None:
    if dims is not None and isinstance(array, xr.DataArray) and array.dims and array.dims[0] != dims:
        raise ArgumentError(
            f"dims={dims!r} is not the leading dimension of {array.name!r}, whose dimensions are {array.dims}; "
            f"transpose it with .transpose({dims!r}, ...)"
        )


def _label(array: Any, name: str, position: int) -> str:
    own = getattr(array, "name", None)
    if isinstance(array, xr.DataArray) and isinstance(own, str):
        return own
    return f"{name}.{position}"


def bind(batch: Batch) -> list[Any]:
    """Return one symbolic variable for each array of a batch. Its value is the first rows, for ``.eval()``."""
    source = batch.source
    n_head = max(1, min(batch.batch_size, _HEAD_BYTES // max(1, source.row_nbytes)))
    variables = []
    for column, (label, head) in enumerate(zip(source.names, source.head(n_head), strict=True)):
        variable = pytensor.shared(np.array(head), name=label, shape=(None, *head.shape[1:]))
        variable.tag.dvi_binding = Binding(batch, column)
        variables.append(variable)
    return variables


def binding(variable: Variable[Any, Any]) -> Binding | None:
    """What a variable stands for, or None if it is not a Minibatch."""
    return getattr(variable.tag, "dvi_binding", None)


def bound_variables(graphs: list[Variable[Any, Any]]) -> list[Variable[Any, Any]]:
    """Minibatch variables that graphs reach, in order of first sight."""
    return [v for v in dict.fromkeys(ancestors(graphs)) if binding(v) is not None]


def Potential(name: str, var: Any, *, total_size: int | None = None, dims: Any = None) -> Any:  # noqa: N802
    """Add a term to the log density that has one value for each row of a Minibatch.

    ``pm.Potential`` has no defined scale on a batch. Here the term of each row counts once in the full data, so the
    sum over a batch is scaled by the number of rows as a likelihood is.

    Parameters
    ----------
    name : str
    var : TensorVariable
        Shape (batch_size, ...): one log density for each row.
    total_size : int, optional
        Rows that the full data stands for; the length of the Minibatch by default.
    dims : tuple of str, optional

    Returns
    -------
    TensorVariable

    Examples
    --------
    >>> import dvi, numpy as np, pymc as pm
    >>> y = dvi.Minibatch(np.zeros(1000), batch_size=100)
    >>> with pm.Model():
    ...     mu = pm.Normal("mu")
    ...     term = dvi.Potential("y", -((y - mu) ** 2))
    """
    import pymc as pm

    var = pt.as_tensor(var)
    if var.type.ndim == 0:
        raise ArgumentError(
            f"the potential {name!r} is a scalar; give one value for each row of the Minibatch, not their sum"
        )
    size: Any = total_size
    if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1):
        raise ArgumentError(
            f"total_size={total_size!r} of the potential {name!r} is not an int of at least 1; leave it out"
        )
    potential = pm.Potential(name, var, dims=dims)
    potential.tag.dvi_total_size = (total_size,)
    return potential
