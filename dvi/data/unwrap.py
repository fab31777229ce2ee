"""The stored array behind a lazy one, how it is read, and which of its chunks are there.

The one file that touches private surfaces of xarray, Dask and Zarr. Each function names what it assumes, and
``tests/data/test_private_surfaces.py`` fails where that no longer holds.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.core.sync import sync
from zarr.errors import ChunkNotFoundError
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from dvi.data.chunks import regular_chunks
from dvi.data.locations import url_of
from dvi.types import AnyArray

if TYPE_CHECKING:
    import dask.array
    import xarray

DEFAULT_PIPELINE = "zarr.core.codec_pipeline.BatchedCodecPipeline"
FUSED_PIPELINE = "zarr.core.codec_pipeline.FusedCodecPipeline"
METADATA_KEYS = {"zarr.json", ".zarray"}

_config_lock = threading.Lock()


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


def strict(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, read through Zarr's fused codec pipeline, found from any directory, missing chunks an error."""
    return _configured(_anywhere(array), read_missing_chunks=False)


def filling(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same as `strict`, but missing chunks read as the fill value."""
    return _configured(_anywhere(array), read_missing_chunks=True)


def _configured(array: zarr.Array[Any], *, read_missing_chunks: bool) -> zarr.Array[Any]:
    """Assumes that ``with_config`` builds the pipeline that Zarr's configuration names. Keeps one the user chose."""
    with _config_lock:
        chosen = zarr.config.get("codec_pipeline.path", DEFAULT_PIPELINE)
        path = FUSED_PIPELINE if chosen == DEFAULT_PIPELINE else chosen
        with zarr.config.set({"codec_pipeline.path": path}):
            return array.with_config({"read_missing_chunks": read_missing_chunks, "order": "C"})


def _anywhere(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array through a local store with an absolute path, if it is in local files."""
    store = array.store
    if isinstance(store, LocalStore) and not store.root.is_absolute():
        local = LocalStore(store.root.absolute(), read_only=True)
    elif isinstance(store, FsspecStore) and "file" in _protocols(store):
        local = LocalStore(store.path, read_only=True)
    else:
        return array
    return zarr.open_array(local, path=array.path, mode="r")


def _protocols(store: FsspecStore) -> tuple[str, ...]:
    protocol = store.fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def lives_in_memory(array: zarr.Array[Any]) -> bool:
    """Whether the store holds its bytes in this process, so that a pickle would carry or lose them."""
    store = array.store
    return isinstance(store, MemoryStore) or (isinstance(store, FsspecStore) and "memory" in _protocols(store))


def location(array: zarr.Array[Any]) -> str:
    """The URL of an array, which may hold secrets."""
    store = array.store
    if isinstance(store, FsspecStore):
        return f"{_protocols(store)[0]}://{'/'.join(filter(None, (store.path.strip('/'), array.path)))}"
    if isinstance(store, ObjectStore):
        return f"{url_of(store)}/{array.path}".rstrip("/")
    return str(array.store_path)


def is_visible(array: zarr.Array[Any]) -> bool:
    """Whether the array's metadata can be read from this process."""
    try:
        zarr.open_array(array.store, path=array.path, mode="r")
    except FileNotFoundError:
        return False
    return True


def missing_chunks(array: zarr.Array[Any]) -> list[str]:
    """Keys of the chunks, or shards, that the store does not hold, in C order.

    One listing of the array's prefix: 50 000 local chunks take 0.3 s. A chunk missing inside a shard is not seen. A
    store that cannot list, or whose listing does not even show the array's metadata, tells of no missing chunk; strict
    reading still finds it.
    """
    if not array.store.supports_listing:
        return []
    try:
        present = sync(_listed(array))
    except (NotImplementedError, PermissionError):
        return []
    if present.isdisjoint(METADATA_KEYS):
        return []
    return [key for key in _chunk_keys(array) if key not in present]


async def _listed(array: zarr.Array[Any]) -> set[str]:
    prefix = f"{array.path}/" if array.path else ""
    return {key.removeprefix(prefix) async for key in array.store.list_prefix(prefix)}


def _chunk_keys(array: zarr.Array[Any]) -> Iterator[str]:
    """Every key that a full array has, relative to the array. Assumes ``metadata.encode_chunk_key``."""
    grid = (range(len(lengths)) for lengths in array.write_chunk_sizes)
    return map(array.metadata.encode_chunk_key, itertools.product(*grid))


def damaged_chunk(array: zarr.Array[Any], start: int, stop: int) -> str | None:
    """Key of the first chunk, or shard, with rows from ``start`` to ``stop`` that cannot be decoded."""
    edges = [np.cumsum([0, *lengths]).tolist() for lengths in array.write_chunk_sizes]
    spans = [list(enumerate(itertools.pairwise(axis))) for axis in edges]
    spans[0] = [(number, span) for number, span in spans[0] if span[0] < stop and span[1] > start]
    for chunk in itertools.product(*spans):
        try:
            array[tuple(slice(*span) for _, span in chunk)]
        except (RuntimeError, ValueError):
            return array.metadata.encode_chunk_key(tuple(number for number, _ in chunk))
    return None


def read_rows(array: zarr.Array[Any], start: int, stop: int) -> AnyArray:
    """Rows ``start`` to ``stop``, decoded in the calling thread where Zarr can do that.

    ``array[start:stop]`` hands every read to Zarr's event loop and from there to a thread, 0.4 ms or half the time of
    decoding 4 MB of lz4.

    Assumes the signature of ``FusedCodecPipeline.read_sync`` and the fields of `ArraySpec`.
    """
    try:
        read = _synchronous_read(array, start, stop)
    except (AttributeError, ImportError, TypeError):
        read = None
    return np.asarray(array[start:stop]) if read is None else read


def _synchronous_read(array: zarr.Array[Any], start: int, stop: int) -> AnyArray | None:
    from zarr.abc.store import _store_supports_sync_io
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.codec_pipeline import FusedCodecPipeline
    from zarr.core.indexing import BasicIndexer

    opened = array.async_array
    pipeline, grid = opened.codec_pipeline, opened._chunk_grid
    if not isinstance(pipeline, FusedCodecPipeline) or pipeline.sync_transform is None:
        return None
    if start == stop or not grid.is_regular or not _store_supports_sync_io(array.store):
        return None
    metadata, prototype = array.metadata, default_buffer_prototype()
    config = opened.config
    if metadata.zarr_format == 2:
        config = dataclasses.replace(config, order=metadata.order)
    spec = ArraySpec(grid.chunk_shape, metadata.dtype, metadata.fill_value, config, prototype)
    chunks = list(BasicIndexer((slice(start, stop),), shape=array.shape, chunk_grid=grid))
    keys = [metadata.encode_chunk_key(chunk.chunk_coords) for chunk in chunks]
    batch = [
        (array.store_path / key, spec, chunk.chunk_selection, chunk.out_selection, chunk.is_complete_chunk)
        for key, chunk in zip(keys, chunks, strict=True)
    ]
    out = np.empty((stop - start, *array.shape[1:]), array.dtype)
    results = pipeline.read_sync(batch, prototype.nd_buffer.from_numpy_array(out), max_workers=_max_workers())
    missing = [key for key, result in zip(keys, results, strict=True) if result["status"] == "missing"]
    if missing and not config.read_missing_chunks:
        raise ChunkNotFoundError(f"{len(missing)} missing, the first {missing[0]!r}")
    return out


def _max_workers() -> int:
    """Threads that decode the chunks of one read: what Zarr is configured to use, or one per core."""
    return int(zarr.config.get("codec_pipeline.max_workers", None) or os.cpu_count() or 1)


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
