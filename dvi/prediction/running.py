"""Jobs from a model and its data, and their items run on threads or on a cluster."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from zarr.storage import MemoryStore

from dvi.data.ingest_progress import progress
from dvi.errors import ArgumentError, StoreExistsError
from dvi.execution.chunks import map_threads
from dvi.memory import format_bytes
from dvi.model.pointwise import RowFunction, RowTerm
from dvi.persistence.places import explained, label_of, place_of
from dvi.prediction.grid import grid_of
from dvi.prediction.job import Job, RowValues, compute, items_of, probe
from dvi.prediction.output import (
    Kept,
    MemoryOutput,
    Place,
    Record,
    check_free,
    create,
    finish,
    found_record,
    locked,
    place_in,
)
from dvi.prediction.parts import Kind
from dvi.prediction.rows import Rows
from dvi.sampling import as_seed
from dvi.types import AnyArray

if TYPE_CHECKING:
    import pymc as pm

    from dvi.approximation import Approximation
    from dvi.data.store import Target

logger = logging.getLogger(__name__)

MEMORY_BYTES = 10**9  # of a result without a store


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is asked for.

    Parameters
    ----------
    approx : Approximation
    model : pm.Model
    terms : tuple of (RowTerm, Rows)
    kind : Kind
    draws : int
    density : bool
        Whether log densities are asked for.
    """

    approx: Approximation
    model: pm.Model
    terms: tuple[tuple[RowTerm, Rows], ...]
    kind: Kind
    draws: int
    density: bool

    def identity(self) -> str:
        """Digest of everything that the result depends on but the seed."""
        approx = self.approx
        told = [
            type(approx.family).__name__, hashlib.sha256(approx.theta.tobytes()).hexdigest(), approx.layout.to_json(),
            repr(self.kind), self.draws, self.density,
            [[list(term.names), term.program.digest(), rows.identity()] for term, rows in self.terms],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """Where a request runs.

    Parameters
    ----------
    client : distributed.Client, optional
    threads : int, optional
    progressbar : bool
    overwrite : bool
    """

    client: Any
    threads: int | None
    progressbar: bool
    overwrite: bool

    def client_or_none(self) -> Any:
        """The client given, or the active one where threads are not asked for."""
        if self.client is not None or self.threads is not None or "distributed" not in sys.modules:
            return self.client
        from dvi.execution.cluster import active_client

        return active_client()


def to_memory(request: Request, seed: int | None, settings: Settings) -> xr.DataTree:
    """Compute a request and return it.

    Raises
    ------
    ArgumentError
        If it takes more than 1 GB.
    """
    jobs, groups = _jobs(request, as_seed(seed))
    kept = tuple(k for job in jobs for k in job.kept)
    total = sum(k.nbytes for k in kept)
    if total > MEMORY_BYTES:
        raise ArgumentError(
            f"the result takes {format_bytes(total)}, and without a store at most {format_bytes(MEMORY_BYTES)} are "
            "held in memory; give store= a path, ask for kind='summary', or for fewer draws"
        )
    output = MemoryOutput(kept, groups)
    numbers = list(range(sum(job.grid.n_items for job in jobs)))
    for _, results in _run(jobs, None, numbers, settings):
        for result in results:
            output.put(result.kept, result.start, result.values)
    return output.tree()


def to_store(request: Request, store: Any, seed: int | None, settings: Settings) -> xr.DataTree:
    """Compute a request into a store and open it lazily; one that was stopped is gone on with.

    Raises
    ------
    StoreExistsError
        If there is something, or another request that was stopped, and ``overwrite`` is False.
    """
    target = place_of(store)
    check_free(target, settings.overwrite)
    if isinstance(target.store, MemoryStore) and settings.client_or_none() is not None:
        raise ArgumentError(
            "workers cannot write to a MemoryStore; give a path or URL that they can reach, or threads="
        )
    with locked(target) as work:
        place = place_in(target, work)
        with explained(target, "cannot be written", "Choose a place that you may write to."):
            record = _continued(target, found_record(place), request, seed, settings.overwrite)
        jobs, groups = _jobs(request, as_seed(seed) if record is None else record.seed)
        n_items = sum(job.grid.n_items for job in jobs)
        if record is None:
            record = Record(request.identity(), jobs[0].values.function.seed)
            with explained(target, "cannot be written", "Choose a place that you may write to."):
                create(place, record, tuple(k for job in jobs for k in job.kept), groups, n_items)
        writer = place.writer()
        missing = np.flatnonzero(writer.done() == 0).tolist()
        logger.info("%d of %d chunks of %s are missing", len(missing), n_items, label_of(target))
        for number, _ in _run(jobs, place, missing, settings):
            writer.mark(number)
        return finish(target, work, place)


def _continued(
    target: Target, found: Record | None, request: Request, seed: int | None, overwrite: bool
) -> Record | None:
    """The record of the same request, stopped before its end, or None where it has to begin."""
    if found is None:
        return None
    same = found.identity == request.identity()
    if same and (seed is None or seed == found.seed):
        return found
    if overwrite:
        return None
    where = target.workspace if target.path is not None else label_of(target)
    why = f"random_seed was {found.seed}" if same else "approximation, model, data, draws or kind differ"
    raise StoreExistsError(
        f"{where} holds the unfinished result of another call: {why}. Repeat that call to finish it, pass "
        "overwrite=True to begin again, or choose another store."
    )


def _jobs(request: Request, seed: int) -> tuple[tuple[Job, ...], dict[str, xr.Dataset]]:
    """Jobs, and the coordinates of the groups that they fill."""
    Z = np.ascontiguousarray(request.approx.sample_unconstrained(request.draws, seed))
    labels = _Labels(request.model)
    jobs = []
    for term, rows in request.terms:
        values = RowValues(term.names, RowFunction(term.program, seed), Z, request.density)
        few = RowValues(term.names, values.function, Z[:2], request.density)
        jobs.append(_job(values, rows, request, probe(few, rows), labels))
    parts = {part.group for part in request.kind.parts}
    kept = [k for job in jobs for k in job.kept]
    coords = {**labels.coords, **request.kind.coords}
    groups = {}
    for group in sorted(parts):
        used = {d for k in kept if k.group == group for d in k.dims}
        groups[group] = xr.Dataset(coords={d: (d, v) for d, v in coords.items() if d in used}).assign_attrs(
            inference_library="dvi", dvi_draws=request.draws, dvi_random_seed=seed
        )
    if request.density:
        groups["posterior"] = _posterior(request, Z)
    return tuple(jobs), groups


def _job(values: RowValues, rows: Rows, request: Request, found: list[AnyArray], labels: _Labels) -> Job:
    shapes = [v.shape[2:] for v in found]
    widths = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    row_nbytes = max(
        width * int(np.prod(part.shape, dtype=np.int64)) * dtype.itemsize
        for width, v in zip(widths, found, strict=True)
        for part, dtype in zip(request.kind.parts, request.kind.dtypes(v.dtype), strict=True)
    )
    looped = values.function.program.draws.type.ndim == 1
    grid = grid_of(rows.n_rows, rows.chunk_rows, max(widths) * request.draws, row_nbytes, looped=looped)
    kept = []
    for name, v, shape in zip(values.names, found, shapes, strict=True):
        dims = labels.dims(name, (rows.n_rows, *shape), rows)
        for part, dtype in zip(request.kind.parts, request.kind.dtypes(v.dtype), strict=True):
            whole = (*part.shape, rows.n_rows, *shape)
            kept.append(Kept(part.group, name, whole, len(part.shape), grid.block_rows, dtype, (*part.dims, *dims)))
    return Job(values, rows, grid, request.kind, tuple(kept))


class _Labels:
    """Names and coordinates of dimensions, each of one length."""

    def __init__(self, model: pm.Model) -> None:
        self._model = model
        self._lengths: dict[str, int] = {}
        self.coords: dict[str, AnyArray] = {}

    def dims(self, name: str, shape: tuple[int, ...], rows: Rows) -> tuple[str, ...]:
        """Dimensions of a variable: those of the model, those of the data, or numbered ones."""
        default = [f"{name}_dim_{i}" for i in range(len(shape))]
        own = self._model.named_vars_to_dims.get(name) or rows.dims
        wanted = [*own, *[None] * len(shape)][: len(shape)]
        found = []
        for dim, n, other in zip(wanted, shape, default, strict=True):
            chosen = other if dim is None or self._lengths.get(dim, n) != n or dim in found else str(dim)
            self._lengths[chosen] = n
            found.append(chosen)
            for labels in (rows.coords.get(chosen), self._model.coords.get(chosen)):
                if chosen not in self.coords and labels is not None and len(labels) == n:
                    self.coords[chosen] = np.asarray(labels)
        return tuple(found)


def _posterior(request: Request, Z: AnyArray) -> xr.Dataset:
    """The draws at which the densities are, as ``sample`` returns them."""
    from dvi.model.draws import model_draws
    from dvi.sampling import Block, coordinates, to_tree

    function = model_draws(request.model, request.approx.layout)
    coords = coordinates(request.approx.layout, request.model)
    tree = to_tree(Block(0, Z, function(Z)), function, coords, request.approx.run.get("method", ""))
    found: xr.Dataset = tree["posterior"].to_dataset()
    return found


def _run(
    jobs: tuple[Job, ...], place: Place | None, numbers: list[int], settings: Settings
) -> Iterator[tuple[int, Any]]:
    """Numbers and results of items as they are done, with progress."""
    client = settings.client_or_none()
    items = items_of(jobs, numbers, deliver=client is not None)
    shared = (jobs, place)
    if client is None:
        done = map_threads(compute, shared, items, settings.threads or len(os.sched_getaffinity(0)))
    else:
        from dvi.execution.cluster.chunks import map_workers

        done = map_workers(client, compute, shared, items)
    total, rows = sum(job.grid.n_rows for job in jobs), 0
    row_nbytes = sum(k.nbytes for job in jobs for k in job.kept) // max(1, total)
    sizes = _sizes(jobs)
    with progress(settings.progressbar) as report:
        for position, result in done:
            yield numbers[position], result
            rows += sizes[numbers[position]]
            report("rows", rows, sum(sizes[n] for n in numbers), row_nbytes)


def _sizes(jobs: tuple[Job, ...]) -> Mapping[int, int]:
    """Rows of each item by its number."""
    bounds = [job.grid.item(i) for job in jobs for i in range(job.grid.n_items)]
    return {number: stop - start for number, (start, stop) in enumerate(bounds)}
