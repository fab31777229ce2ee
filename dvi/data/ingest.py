"""Bring data of any common kind into one shuffled, chunked Zarr group: the store that dvi reads fastest.

Plan, then do: the source is scanned for types and categories, a plan of arrays, chunks and buckets is made from that,
rows are scattered to buckets by a random key, and the sorted buckets are written chunk by chunk. Every step leaves a
checkpoint, and the store appears only when it is whole.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
import xarray as xr

from dvi.data.ingest_plan import IngestPlan, Selection, batch_nbytes, pieces, plan_ingest, records, select, slabs
from dvi.data.ingest_progress import Report, progress
from dvi.data.locations import reachable
from dvi.data.row_sources import row_source
from dvi.data.schema import RowSource, length, scan
from dvi.data.shuffle import Buckets
from dvi.data.store import (
    Target,
    create_group,
    finish_group,
    open_arrays,
    open_ingested,
    publish,
    target_of,
    write_rows,
)
from dvi.data.workspace import Checkpoint, Workspace, locked
from dvi.errors import ArgumentError, ArgumentTypeError, DataError, StoreError
from dvi.types import AnyArray

logger = logging.getLogger(__name__)

_FORMAT = 1  # of the checkpoint: part of its identity


def ingest(
    source: object,
    store: str | PathLike[str] | Any,
    *,
    columns: Sequence[str] | None = None,
    pack: Mapping[str, Sequence[str]] | None = None,
    dropna: bool | Sequence[str] = False,
    chunk_bytes: int = 4_000_000,
    shuffle: bool = True,
    random_seed: int = 0,
    overwrite: bool = False,
    memory_bytes: int = 500_000_000,
    progressbar: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Write data as a shuffled, chunked Zarr group, in bounded memory, and open it.

    A call that was interrupted, even killed, goes on where it stopped when it is made again with the same arguments;
    if the arguments or the source have changed it starts again. ``store`` exists only when it is whole: until then the
    work is in ``<store>.partial`` beside it (for a URL, in the folder for temporary files; there, the attribute
    ``dvi_complete`` of the group is False until it is whole).

    Parameters
    ----------
    source
        The path, URL, glob pattern or folder of Parquet or CSV files (also compressed), or a list of paths; ``.npy``
        files, each a column named by its file, or one ``.npz`` file; a Zarr group or array; a NumPy array (named
        ``x``) or a dict of arrays; a pandas or Dask DataFrame, whose index is left out; Dask arrays; an xarray Dataset
        or DataArray, whose dimension names, attributes and coordinates without rows are kept.
    store : str, path or zarr.abc.store.Store
        Where to write.
    columns : sequence of str, optional
        Columns to store as arrays of their own. Default: all that are not packed.
    pack : mapping of str to sequence of str, optional
        Matrices ``(rows, columns)`` to make of columns of numbers, by name: ``{"x": ["distance", "hour"]}``. Numbers
        of different types become the smallest type that NumPy deems safe for all. The names of the columns become the
        coordinate ``x_column``.
    dropna : bool or sequence of str
        Drop rows that lack a value in any of these columns (True: in any column). By default missing floats stay NaN,
        which fitting refuses, integers and booleans with missing values become floats with NaN, and missing text is
        refused.
    chunk_bytes : int
        Size of a chunk of the heaviest array before compression, in bytes. All arrays share the same chunks of rows, so
        the chunks of lighter arrays are smaller in proportion. They have fewer rows if a chunk of every array together
        would take more than a twelfth of ``memory_bytes``.
    shuffle : bool
        Whether to put the rows in random order. The order depends on the seed and the number of rows alone.
    random_seed : int
        Seed of the shuffle, not negative. The default is fixed, so that an ingest can be repeated.
    overwrite : bool
        Whether an existing Zarr group may be replaced. A local one stays in place until the new one is whole.
    memory_bytes : int
        Memory to work in, in bytes. One chunk, partition or record batch of the source must fit beside it.
    progressbar : bool
        Show a progress bar if the standard error is a terminal, and log a line every ten seconds if not.
    storage_options, source_options : mapping, optional
        How to reach ``store`` and ``source`` where they are URLs: the settings of obstore for ``s3://``, ``gs://`` and
        ``az://``, such as ``{"endpoint": "http://localhost:9000"}``, and those of fsspec for others. Credentials that
        are not among them are those of the environment.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily without Dask. Text is stored as int32 codes: positions in the sorted table of
        categories, which is in the attribute ``categories`` and the coordinate ``<name>_categories``. The categories of
        an ordered pandas categorical keep their order.

    Raises
    ------
    ArgumentError
        If an argument has a value or type that is not allowed.
    DataError
        If the source is empty, or has columns that cannot be stored, such as dates and Python objects.
    StoreNotFoundError
        If the source does not exist.
    StoreExistsError
        If ``store`` exists and ``overwrite`` is False.
    StoreError
        If the store cannot be written, or another process is writing it.

    Examples
    --------
    >>> import dvi, pandas as pd, tempfile
    >>> flights = pd.DataFrame({"hour": [7, 9, 8], "distance": [120.0, 800.0, 450.0], "carrier": ["UA", "AA", "UA"]})
    >>> store = tempfile.mkdtemp() + "/flights.zarr"
    >>> ds = dvi.ingest(flights, store, pack={"x": ["hour", "distance"]}, progressbar=False)
    >>> ds["x"].shape, ds["carrier"].attrs["categories"]
    ((3, 2), ['AA', 'UA'])
    """
    if not isinstance(shuffle, bool | np.bool_):
        raise ArgumentTypeError(f"shuffle={shuffle!r} is of type {type(shuffle).__name__}; give True or False")
    settings = _Settings(
        columns=columns,
        pack=pack,
        dropna=dropna,
        chunk_bytes=_integer("chunk_bytes", chunk_bytes, least=1),
        seed=_integer("random_seed", random_seed, least=0) if shuffle else None,
        memory_bytes=_integer("memory_bytes", memory_bytes, least=1),
    )
    target = target_of(store, storage_options)
    with ExitStack() as stack:
        stack.enter_context(reachable(target.label))
        target.check_free(overwrite)
        work = stack.enter_context(locked(target.workspace, target.label))
        target.check_free(overwrite)
        report = stack.enter_context(progress(progressbar))
        rows = row_source(source, work.scratch, source_options)
        _make(rows, target, work, settings, report)
        return open_ingested(target)


@dataclass(frozen=True, slots=True)
class _Settings:
    columns: Sequence[str] | None
    pack: Mapping[str, Sequence[str]] | None
    dropna: bool | Sequence[str]
    chunk_bytes: int
    seed: int | None  # None: no shuffle
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything that does not change while rows are moved."""

    source: RowSource
    selection: Selection
    plan: IngestPlan
    where: Any  # the unfinished group
    settings: _Settings
    work: Workspace
    report: Report


def _make(source: RowSource, target: Target, work: Workspace, settings: _Settings, report: Report) -> None:
    """Scan, plan, scatter, write and publish, from wherever an earlier call stopped."""
    selection = select(source.names, settings.columns, settings.pack, settings.dropna)
    checkpoint = work.resume(_identity(source, selection, settings))
    if checkpoint.written and not target.holds(work):
        checkpoint = work.restart(checkpoint.identity)
    schema = checkpoint.schema or scan(
        source,
        selection.names,
        batch_nbytes(settings.memory_bytes),
        selection.dropna,
        lambda rows: report("scan", rows, source.n_rows, 0),
    )
    plan = plan_ingest(
        schema,
        selection,
        source.layout,
        source.row_dim,
        chunk_bytes=settings.chunk_bytes,
        memory_bytes=settings.memory_bytes,
    )
    _check_space(plan, work, settings)
    checkpoint = replace(checkpoint, schema=schema)
    work.save(checkpoint)
    job = _Job(source, selection, plan, target.group(work), settings, work, report)
    try:
        if settings.seed is not None:
            checkpoint = _scatter(job, checkpoint)
        checkpoint = _write(job, checkpoint)
    except ArgumentError:
        work.restart(checkpoint.identity)  # the same source will fail again
        raise
    except BaseException as error:
        error.add_note(f"The work so far is kept in {work.folder}: call dvi.ingest again with the same arguments.")
        raise
    finish_group(job.where, plan, checkpoint.written, _attributes(job, checkpoint))
    publish(target, work)
    work.remove()


def _scatter(job: _Job, checkpoint: Checkpoint) -> Checkpoint:
    """Move the rows of the source to the buckets of the shuffle, batch by batch."""
    buckets = Buckets(job.work.spill, job.plan.record, list(checkpoint.bucket_rows) or [0] * job.plan.n_buckets)
    if checkpoint.scattered:
        return checkpoint
    for batch, stop in _source_records(job, checkpoint.source_row):
        buckets.append(batch)
        checkpoint = replace(checkpoint, source_row=stop, bucket_rows=tuple(buckets.rows))
        job.work.save(checkpoint)
        job.report("shuffle", stop, job.plan.n_rows, job.plan.record.itemsize)
    checkpoint = replace(checkpoint, scattered=True)
    job.work.save(checkpoint)
    return checkpoint


def _write(job: _Job, checkpoint: Checkpoint) -> Checkpoint:
    """Write the rows, slab by slab: those of the sorted buckets, or of the source in its own order."""
    plan, work = job.plan, job.work
    shuffled = job.settings.seed is not None
    buckets = Buckets(work.spill, plan.record, list(checkpoint.bucket_rows)) if shuffled else None
    n_rows = plan.n_rows if buckets is None else sum(buckets.rows)
    if checkpoint.written == 0:
        create_group(job.where, plan, n_rows)
    arrays = open_arrays(job.where, plan)
    unfinished = (
        (batch for batch, _ in _source_records(job, checkpoint.source_row))
        if buckets is None
        else _sorted_records(buckets, checkpoint.written)
    )
    for slab in slabs(unfinished, plan.slab_rows):
        write_rows(arrays, checkpoint.written, slab)
        source_row = checkpoint.source_row if shuffled else int(slab["key"][-1]) + 1
        checkpoint = replace(checkpoint, written=checkpoint.written + len(slab), source_row=source_row)
        work.save(checkpoint)
        if buckets is not None:
            buckets.discard(checkpoint.written)
        job.report("write", checkpoint.written, n_rows, plan.record.itemsize)
        del slab  # a view of the batch, which is to go before the next one is made
    if checkpoint.written == 0:
        raise DataError(f"All rows of {job.source.label} lack a value in one of {', '.join(job.selection.dropna)}.")
    return checkpoint


def _source_records(job: _Job, start: int) -> Iterator[tuple[AnyArray, int]]:
    """Records of the source from row ``start`` on, in batches, each with the source row after its last."""
    text = [array.name for array in job.plan.arrays if array.columns[0].categories is not None]
    nbytes = batch_nbytes(job.settings.memory_bytes)
    batches = job.source.read(start, job.selection.names, nbytes, text)
    row = start
    for batch in pieces(batches, job.plan.batch_rows):
        yield records(batch, job.plan, job.selection.dropna, row, job.settings.seed), row + length(batch)
        row += length(batch)
    if row != job.plan.n_rows:
        raise DataError(
            f"{job.source.label} had {job.plan.n_rows} rows and now has {row}: it has changed. Call dvi.ingest again "
            "when nothing writes to it."
        )


def _sorted_records(buckets: Buckets, written: int) -> Iterator[AnyArray]:
    """Records in shuffled order, without the first ``written``."""
    skip = written
    for bucket, rows in enumerate(buckets.rows):
        if rows > skip:
            yield buckets.read(bucket)[skip:]
        skip = max(0, skip - rows)


def _check_space(plan: IngestPlan, work: Workspace, settings: _Settings) -> None:
    """Refuse to start a shuffle for whose buckets there is no room."""
    if settings.seed is None or work.spill.exists():
        return
    needed, free = plan.n_rows * plan.record.itemsize, shutil.disk_usage(work.folder).free
    if needed > free:
        raise StoreError(
            f"The shuffle needs {needed / 1e9:.1f} GB in {work.folder}, where {free / 1e9:.1f} GB are free: make room, "
            "choose another folder, or pass shuffle=False if the rows are in random order already."
        )


def _identity(source: RowSource, selection: Selection, settings: _Settings) -> str:
    """Digest of everything that the content of the store, or the way to it, depends on."""
    given = [_FORMAT, _version(), source.label, source.fingerprint, selection.single, selection.packs, selection.dropna]
    given += [settings.chunk_bytes, settings.memory_bytes, settings.seed]
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def _attributes(job: _Job, checkpoint: Checkpoint) -> dict[str, object]:
    """What the store says about how it was made."""
    return {
        "dvi_version": _version(),
        "dvi_source": {"label": job.source.label, "fingerprint": job.source.fingerprint},
        "dvi_shuffled": job.settings.seed is not None,
        "dvi_random_seed": job.settings.seed,
        "dvi_n_rows": checkpoint.written,
        "dvi_dropped_rows": job.plan.n_rows - checkpoint.written,
    }


def _version() -> str:
    try:
        return importlib.metadata.version("dask-vi")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _integer(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ArgumentTypeError(f"{name}={value!r} is not allowed: pass an integer of at least {least}.")
    number = int(value)
    if number < least:
        raise ArgumentError(f"{name}={number} is not allowed: it must be at least {least}.")
    return number
