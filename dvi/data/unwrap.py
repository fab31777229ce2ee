"""The stored array behind a lazy one.

The one file that touches private surfaces of xarray and Dask. Each function names what it assumes, and
``tests/data/test_private_surfaces.py`` fails where that no longer holds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dvi.data.chunks import regular_chunks
from dvi.data.zarr_arrays import filling, strict

if TYPE_CHECKING:
    import dask.array
    import xarray


@dataclass(frozen=True, slots=True)
class LazyArray:
    """What is behind a lazy xarray variable.

    Parameters
    ----------
    variable
        The same variable without a cache of its values; a Zarr chunk that is missing is an error.
    filling
        The same, with missing Zarr chunks read as the fill value.
    stored
        The Zarr array, if there is one.
    is_identity
        Whether the variable's values are those of ``stored``, all of them, as they are.
    is_slice
        Whether the variable's rows follow each other in the backend's array.
    chunk_rows
        Lengths of the stored chunks, cut to the variable's rows, if they are known.
    first_row
        The backend's row that is the variable's first, if ``is_slice``.
    """

    variable: xarray.Variable
    filling: xarray.Variable
    stored: zarr.Array[Any] | None
    is_identity: bool
    is_slice: bool
    chunk_rows: tuple[int, ...] | None
    first_row: int = 0


def lazy_array(variable: xarray.Variable) -> LazyArray | None:
    """What is behind a variable without Dask; ``None`` if its values are in memory.

    Assumes ``Variable._in_memory`` and ``Variable._data``.
    """
    return None if variable._in_memory else _behind(variable._data, variable)


def _behind(data: Any, variable: xarray.Variable) -> LazyArray:
    from xarray.core.indexing import ImplicitToExplicitIndexingAdapter, MemoryCachedArray

    while isinstance(data, MemoryCachedArray | ImplicitToExplicitIndexingAdapter):
        data = data.array
    chain = list(_chain(data))
    stored = _zarr_array(chain[-1])
    rows = _leading_rows(chain, variable.shape[0])
    return LazyArray(
        variable=_rebuilt(variable, chain, None if stored is None else strict(stored)),
        filling=_rebuilt(variable, chain, None if stored is None else filling(stored)),
        stored=stored,
        is_identity=stored is not None and _is_identity(chain, variable),
        is_slice=rows is not None,
        chunk_rows=None if rows is None else _stored_rows(variable, stored, chain[-1].shape[0], rows),
        first_row=0 if rows is None else rows.start,
    )


def _chain(lazy: Any) -> Iterator[Any]:
    """The wrappers around a backend array, outermost first, and the backend array last.

    Assumes that each wrapper keeps what it wraps in ``array``.
    """
    from xarray.backends.common import BackendArray

    yield lazy
    while not isinstance(lazy, BackendArray) and hasattr(lazy, "array"):
        lazy = lazy.array
        yield lazy


def _zarr_array(backend: Any) -> zarr.Array[Any] | None:
    """The Zarr array of xarray's backend array. Assumes ``ZarrArrayWrapper.get_array``."""
    from xarray.backends.zarr import ZarrArrayWrapper

    return backend.get_array() if isinstance(backend, ZarrArrayWrapper) else None


def _rebuilt(variable: xarray.Variable, chain: list[Any], stored: zarr.Array[Any] | None) -> xarray.Variable:
    """The variable around another opening of its Zarr array. Assumes that wrappers can be copied one by one."""
    from xarray import Variable
    from xarray.backends.zarr import ZarrArrayWrapper

    lazy = chain[-1] if stored is None else ZarrArrayWrapper(stored)
    for link in reversed(chain[:-1]):
        outer = copy.copy(link)
        outer.array = lazy
        lazy = outer
    return Variable(variable.dims, lazy)


def _is_identity(chain: list[Any], variable: xarray.Variable) -> bool:
    """Whether only whole-array keys and copy-on-write lie between the variable and the backend array."""
    from xarray.core.indexing import CopyOnWriteArray, LazilyIndexedArray

    return (
        chain[-1].shape == variable.shape
        and chain[-1].dtype == variable.dtype
        and all(type(link) in (CopyOnWriteArray, LazilyIndexedArray) for link in chain[:-1])
        and all(_is_whole(link) for link in chain if isinstance(link, LazilyIndexedArray))
    )


def _is_whole(link: Any) -> bool:
    keys = zip(link.key.tuple, link.array.shape, strict=True)
    return all(isinstance(key, slice) and range(*key.indices(size)) == range(size) for key, size in keys)


def _leading_rows(chain: list[Any], n_rows: int) -> range | None:
    """The backend's rows that the variable shows, if they follow each other.

    Assumes ``LazilyIndexedArray.key``, and that other wrappers but the vectorised one work value by value.
    """
    from xarray.core.indexing import LazilyIndexedArray, LazilyVectorizedIndexedArray

    start = 0
    for link in chain[:-1]:
        if isinstance(link, LazilyVectorizedIndexedArray):
            return None
        if isinstance(link, LazilyIndexedArray):
            key = link.key.tuple[0]
            rows = range(*key.indices(link.array.shape[0])) if isinstance(key, slice) else range(0, 0, 2)
            if rows.step != 1:
                return None
            start += rows.start
    return range(start, start + n_rows)


def _stored_rows(
    variable: xarray.Variable, stored: zarr.Array[Any] | None, n_stored: int, rows: range
) -> tuple[int, ...] | None:
    """Lengths of the stored chunks within ``rows``: Zarr's own, or those that the backend said to prefer."""
    if stored is not None:
        lengths = stored.read_chunk_sizes[0]
    else:
        preferred = variable.encoding.get("preferred_chunks", {}).get(variable.dims[0])
        lengths = regular_chunks(n_stored, preferred) if isinstance(preferred, int) and preferred > 0 else ()
    edges = np.clip(np.cumsum([0, *lengths]), rows.start, rows.stop)
    parts = np.diff(edges)
    return tuple(parts[parts > 0].tolist()) if parts.sum() == len(rows) else None


def behind_dask(array: dask.array.Array) -> zarr.Array[Any] | LazyArray | None:
    """What an untouched Dask array reads, as ``from_zarr``, ``from_array`` and ``open_zarr`` make it, or ``None``.

    Assumes a high-level graph of one `Blockwise` layer, whose task is ``getter`` on the stored array and on the slices
    of the Dask array's chunks, and at most one more layer, which holds the stored array.
    """
    try:
        stored = _dask_input(array)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError):
        return None
    if getattr(stored, "shape", None) != array.shape or getattr(stored, "dtype", None) != array.dtype:
        return None
    if isinstance(stored, zarr.Array):
        return stored
    if not type(stored).__module__.startswith("xarray."):
        return None
    from xarray import Variable
    from xarray.core.indexing import ImplicitToExplicitIndexingAdapter

    if not isinstance(stored, ImplicitToExplicitIndexingAdapter):
        return None
    variable = Variable([f"dim{i}" for i in range(array.ndim)], stored.array)
    return lazy_array(variable)


def _dask_input(array: dask.array.Array) -> Any:
    from dask._task_spec import TaskRef
    from dask.array.core import getter, getter_inline, getter_nofancy
    from dask.blockwise import Blockwise
    from dask.layers import ArraySliceDep

    graph: Any = array.__dask_graph__()
    layers = dict(graph.layers)
    top = layers.pop(array.name)
    (slices,) = top.io_deps.values()
    (stored, _), _ = top.indices
    direct = isinstance(top, Blockwise) and isinstance(slices, ArraySliceDep) and slices.chunks == array.chunks
    if not direct or top.task.func not in (getter, getter_inline, getter_nofancy):
        return None
    if isinstance(stored, TaskRef):
        (layer,) = layers.values()
        stored = layer[stored.key]
    return getattr(stored, "value", stored)
