"""How a Zarr array is read, where it is, and which of its chunks are there.

The one file that touches private surfaces of Zarr. Each function names what it assumes, and
``tests/data/test_private_surfaces.py`` fails where that no longer holds.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import ChunkNotFoundError
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from dvi.data.locations import url_of
from dvi.types import AnyArray

DEFAULT_PIPELINE = "zarr.core.codec_pipeline.BatchedCodecPipeline"
FUSED_PIPELINE = "zarr.core.codec_pipeline.FusedCodecPipeline"
METADATA_KEYS = {"zarr.json", ".zarray"}
_TAIL = 16  # bytes

_config_lock = threading.Lock()


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


def chunk_tails(array: zarr.Array[Any], start: int, stop: int, most: int) -> list[bytes]:
    """Last 16 encoded bytes of the chunks, or shards, that lie within rows ``start`` to ``stop``.

    Of at most so many rows of chunks, at equal distances. Empty where the store cannot read a part of an object, and
    for a chunk that it does not hold.
    """
    edges = np.cumsum([0, *array.write_chunk_sizes[0]])
    within = np.flatnonzero((edges[:-1] >= start) & (edges[1:] <= stop))
    others = [range(len(lengths)) for lengths in array.write_chunk_sizes[1:]]
    picked = within[:: -(-len(within) // most) or 1].tolist()
    keys = [array.metadata.encode_chunk_key(chunk) for chunk in itertools.product(picked, *others)]
    try:
        return sync(_tails(array, keys))
    except (NotImplementedError, ValueError):
        return []


async def _tails(array: zarr.Array[Any], keys: list[str]) -> list[bytes]:
    prototype, prefix = default_buffer_prototype(), f"{array.path}/" if array.path else ""
    limit = asyncio.Semaphore(int(zarr.config.get("async.concurrency")))

    async def tail(key: str) -> bytes:
        async with limit:
            found = await array.store.get(prefix + key, prototype, SuffixByteRequest(_TAIL))
        return b"" if found is None else found.to_bytes()

    return list(await asyncio.gather(*map(tail, keys)))


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

    One whole chunk is what its codecs return, which no one may write to, without the copy that Zarr makes of it.

    Assumes the signatures of ``FusedCodecPipeline.read_sync`` and of ``decode_chunk``, and the fields of `ArraySpec`.
    """
    try:
        read = _synchronous_read(array, start, stop)
    except (AttributeError, ImportError, TypeError):
        read = None
    return np.asarray(array[start:stop]) if read is None else read


def _synchronous_read(array: zarr.Array[Any], start: int, stop: int) -> AnyArray | None:
    from zarr.abc.store import _store_supports_sync_io
    from zarr.core.array_spec import ArraySpec
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
    if len(batch) == 1 and chunks[0].is_complete_chunk and not pipeline.supports_partial_decode:
        encoded = batch[0][0].get_sync(prototype=prototype)
        if encoded is not None:
            decoded = pipeline.sync_transform.decode_chunk(encoded, spec)[chunks[0].chunk_selection]
            return decoded.as_numpy_array()
    out = np.empty((stop - start, *array.shape[1:]), array.dtype)
    results = pipeline.read_sync(batch, prototype.nd_buffer.from_numpy_array(out), max_workers=_max_workers())
    missing = [key for key, result in zip(keys, results, strict=True) if result["status"] == "missing"]
    if missing and not config.read_missing_chunks:
        raise ChunkNotFoundError(f"{len(missing)} missing, the first {missing[0]!r}")
    return out


def missing_chunk(error: ChunkNotFoundError) -> str:
    """The key of the first chunk that was not found. Assumes the words of Zarr's message."""
    found = re.search(r"'(\S*\d)'", str(error).rpartition("Missing chunks:")[2])
    return found[1] if found else "?"


def _max_workers() -> int:
    """Threads that decode the chunks of one read: what Zarr is configured to use, or one per core."""
    return int(zarr.config.get("codec_pipeline.max_workers", None) or os.cpu_count() or 1)
