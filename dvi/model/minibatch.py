"""``Minibatch`` and ``Potential``: what a model is written with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
import xarray as xr
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.random.type import RandomType

from dvi.data.readers import cast_reader, reader
from dvi.data.source import Source
from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.model.batch import Batch, Binding, MinibatchVariable, bind, binding, bound_variables
from dvi.model.batch_size import taken
from dvi.model.constants import value_of

__all__ = ["Batch", "Binding", "Minibatch", "MinibatchVariable", "Potential", "bind", "binding", "bound_variables"]


def Minibatch(  # noqa: N802
    *arrays: Any,
    batch_size: Any,
    dims: str | None = None,
    dtype: Any = None,
    name: str | None = None,
    random_seed: int | None = None,
    update_shared_f: Callable[[], Any] | Sequence[Callable[[], Any] | None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Symbolic variables that stand for a batch of rows of arrays in memory or in Zarr.

    All arrays share one set of rows in every step. The length of the arrays is the ``total_size`` of a likelihood
    observed on them: there is no need to pass it.

    Parameters
    ----------
    *arrays : array_like
        Arrays of equal length along the leading dimension: NumPy, ``zarr.Array``, ``xarray.DataArray`` (lazily opened
        or not, with or without Dask), ``dask.array``, pandas, or the path or URL of a Zarr array. Integers of any
        width, bools and floats; NaN is refused when it is read. Of a ``pm.Data``, another shared variable, or an
        expression of such, the value that it has now.
    batch_size : int or sequence
        Rows of one step, from 1 to the length of the arrays. A sequence has an entry for each axis: an int, None for
        all of that axis, or a pair ``(size, seed)``; one ``...`` stands for axes that are taken whole. A step takes a
        random part of every such axis, the same of all arrays that have it, and each element once an epoch. That part
        stands for the whole where the observed variable has the axis: the likelihood is scaled by it.
    dims : str, optional
        Name of the leading dimension, checked on arrays that carry names.
    dtype : dtype or sequence of dtype, optional
        To which the arrays are cast when they are read, one for all or one for each; None keeps that of the array.
    name : str, optional
        Name of the variables; ``minibatch`` by default, with the position of the array appended.
    random_seed : int, optional
        Of what steps take along the axes without a seed of their own; by default that of the fit.
    update_shared_f : callable or sequence of callable, optional
        ``f() -> array``, for each array: what ``variable.update_shared()`` puts in its place.
    storage_options : mapping, optional
        For those arrays that are URLs, as in :func:`dvi.open_store`.

    Returns
    -------
    MinibatchVariable or list of MinibatchVariable
        One for each array, of shape (batch_size, ...). ``.eval()`` gives the first rows of the data, ``.set_value``
        replaces the data, ``.rows`` is the symbolic vector of the row numbers of the batch.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For a ``batch_size`` that does not fit the arrays.
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
    >>> dvi.Minibatch(np.ones((1000, 30, 8)), batch_size=[100, (10, 42), ...]).eval().shape
    (100, 10, 8)
    """
    if not arrays:
        raise ArgumentError("Minibatch() was given no array; give one or more of equal length")
    arrays = tuple(_value(array) for array in arrays)
    for array in arrays:
        _check_dims(array, dims)
    labels = tuple(_label(array, name or "minibatch", i) for i, array in enumerate(arrays))
    dtypes = _one_for_each("dtype", dtype, len(arrays), common=True)
    options = [storage_options if isinstance(array, str) else None for array in arrays]
    if storage_options is not None and not any(isinstance(array, str) for array in arrays):
        raise ArgumentError("storage_options are for URLs, and no array is one; leave them out")
    opened = [reader(array, storage_options=own) for array, own in zip(arrays, options, strict=True)]
    readers = [cast_reader(found, wanted) for found, wanted in zip(opened, dtypes, strict=True)]
    updates = tuple(_one_for_each("update_shared_f", update_shared_f, len(arrays)))
    _check_updates(updates)
    source = Source.align(readers, labels)
    shapes = [r.shape for r in source.readers]
    batch = Batch(labels, source.readers, taken(batch_size, shapes, random_seed), updates, _source=source)
    variables = bind(batch)
    return variables if len(variables) > 1 else variables[0]


def _value(array: Any) -> Any:
    """What a symbolic variable evaluates to where nothing in it is random or a batch; all else as it is."""
    if not isinstance(array, Variable) or bound_variables([array]):
        return array
    inputs = list(graph_inputs([array]))
    open_inputs = [v for v in inputs if not isinstance(v, Constant | SharedVariable)]
    if open_inputs or any(isinstance(v.type, RandomType) for v in inputs):
        raise ArgumentTypeError(
            f"{array} is random or has inputs without a value; give an array, pm.Data or a shared variable"
        )
    if isinstance(array, SharedVariable):
        return array.get_value(borrow=True)
    return value_of(array)


def _one_for_each(what: str, value: Any, n: int, *, common: bool = False) -> list[Any]:
    """A value for each array, from one for all or from a sequence."""
    if not isinstance(value, list | tuple):
        if value is not None and n > 1 and not common:
            raise ArgumentError(f"{what} is one value for {n} arrays; give a list with one for each, None where none")
        return [value] * n
    if len(value) != n:
        raise ArgumentError(f"{what} has {len(value)} entries for {n} arrays; give one for each, None where none")
    return list(value)


def _check_updates(updates: tuple[Any, ...]) -> None:
    for update in updates:
        if update is not None and not callable(update):
            raise ArgumentTypeError(
                f"update_shared_f={update!r} is of type {type(update).__name__}; give a function without arguments "
                "that returns an array"
            )


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


def Potential(name: str, var: Any, *, total_size: Any = None, dims: Any = None) -> Any:  # noqa: N802
    """Add a term to the log density that has one value for each row of a Minibatch.

    ``pm.Potential`` has no defined scale on a batch. Here the term of each row counts once in the full data, so the
    sum over a batch is scaled by the number of rows as a likelihood is.

    Parameters
    ----------
    name : str
    var : TensorVariable
        Shape (batch_size, ...): one log density for each row.
    total_size : int or sequence, optional
        Rows that the full data stands for, or a sequence with an int or None for each axis of ``var`` and at most one
        ``...``, as PyMC takes it. By default the length of the Minibatch, and along other axes what it has.
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
    sizes = _total_sizes(name, total_size, var.type.ndim)
    potential = pm.Potential(name, var, dims=dims)
    potential.tag.dvi_total_size = sizes
    return potential


def _total_sizes(name: str, total_size: Any, ndim: int) -> tuple[int | None, ...]:
    """The total size along each axis, None where it is that of the data."""
    sizes = list(total_size) if isinstance(total_size, list | tuple) else [total_size]
    if sizes.count(...) == 1:
        at = sizes.index(...)
        sizes[at : at + 1] = [None] * (ndim - len(sizes) + 1)
    if len(sizes) > ndim:
        raise ArgumentError(
            f"total_size={total_size!r} of the potential {name!r} names {len(sizes)} axes; it has {ndim}; leave it out"
        )
    for size in sizes:
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1):
            raise ArgumentError(
                f"total_size={total_size!r} of the potential {name!r} has {size!r}, which is not an int of at least 1; "
                "leave it out"
            )
    return tuple(size if size is None else int(size) for size in sizes)
