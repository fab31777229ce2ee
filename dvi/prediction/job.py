"""One item of work: read rows, compute them tile by tile, and hand over or write what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dvi.data.memory import is_in_memory
from dvi.data.source import check_finite
from dvi.errors import ModelError, NonFiniteError
from dvi.execution.chunks import one_blas_thread
from dvi.model.pointwise import RowFunction
from dvi.prediction.grid import Grid, pieces
from dvi.prediction.output import Kept, Place
from dvi.prediction.parts import Kind
from dvi.prediction.rows import Rows
from dvi.types import AnyArray, FloatArray

_PROBED_ROWS = 64


@dataclass(frozen=True, slots=True, eq=False)
class RowValues:
    """Variables as functions of rows, at fixed draws.

    Parameters
    ----------
    names : tuple of str
    function : RowFunction
    Z : array, shape (S, d)
    density : bool
        Whether the values are log densities, in which NaN is an error.
    """

    names: tuple[str, ...]
    function: RowFunction
    Z: FloatArray
    density: bool

    def __call__(self, tile: list[AnyArray], start: int, stop: int) -> list[AnyArray]:
        """Values ``(S, rows, ...)`` of each variable for the rows ``start`` to ``stop``."""
        with np.errstate(all="ignore"):
            found = self.function(self.Z, stop - start, tile, start)
        if self.density:
            for name, values in zip(self.names, found, strict=True):
                if np.isnan(values).any():
                    draw, row = (int(i) for i in np.argwhere(np.isnan(values))[0][:2])
                    raise NonFiniteError(
                        f"the log likelihood of {name!r} is NaN at row {start + row} for draw {draw}; check that row, "
                        "and priors that reach extreme values"
                    )
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Variables that have the same rows, with all that is needed to compute them anywhere.

    Parameters
    ----------
    values : RowValues
    rows : Rows
    grid : Grid
    kind : Kind
    kept : tuple of Kept
        What is kept of the variables, in their order, each with all parts of the kind.
    """

    values: RowValues
    rows: Rows
    grid: Grid
    kind: Kind
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A range of rows of one job, with the rows that only the sender holds, None for those that can be read."""

    job: int
    start: int
    stop: int
    held: tuple[AnyArray | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Values of what is kept, from one row on."""

    kept: Kept
    start: int
    values: AnyArray


def items_of(jobs: tuple[Job, ...], numbers: list[int], *, deliver: bool) -> Iterator[Item]:
    """Items by their numbers, which count through all jobs.

    Parameters
    ----------
    jobs : tuple of Job
    numbers : list of int
        Increasing.
    deliver : bool
        Whether items take along the rows that are in the memory of this process.
    """
    first = np.cumsum([0, *(job.grid.n_items for job in jobs)])
    for number in numbers:
        j = int(np.searchsorted(first, number, side="right")) - 1
        start, stop = jobs[j].grid.item(number - int(first[j]))
        readers = jobs[j].rows.readers
        yield Item(j, start, stop, tuple(r.read(start, stop) if deliver and is_in_memory(r) else None for r in readers))


def compute(jobs: tuple[Job, ...], place: Place | None, item: Item) -> list[Result]:
    """Compute an item and write it to its place, or return it where there is none. Its bits depend on nothing else.

    Parameters
    ----------
    jobs : tuple of Job
    place : Place, optional
    item : Item
    """
    job = jobs[item.job]
    slabs = [
        reader.read(item.start, item.stop) if held is None else held
        for reader, held in zip(job.rows.readers, item.held, strict=True)
    ]
    _check_finite(job.rows, slabs, item.start)
    writer = None if place is None else place.writer()
    results: list[Result] = []
    for start, stop in pieces(item.start, item.stop, job.grid.block_rows):
        block = [slab[start - item.start : stop - item.start] for slab in slabs]
        with one_blas_thread():
            found = _block(job, block, start, stop)
        if writer is None:
            results += found
        else:
            for result in found:
                writer.write(result.kept, result.start, result.values)
    return results


def _check_finite(rows: Rows, slabs: list[AnyArray], first_row: int) -> None:
    for name, reader, slab in zip(rows.names, rows.readers, slabs, strict=True):
        check_finite(slab, f"{name!r} ({reader.label})", first_row)


def _block(job: Job, block: list[AnyArray], start: int, stop: int) -> list[Result]:
    """What is kept of the rows of one block."""
    found = [Result(kept, start, np.empty(kept.shape_of(stop - start), kept.dtype)) for kept in job.kept]
    for begin, end in pieces(start, stop, job.grid.tile_rows):
        tile = [np.require(array[begin - start : end - start], requirements=["C", "A"]) for array in block]
        arrays = [a for values in job.values(tile, begin, end) for a in job.kind.arrays(values)]
        for result, array in zip(found, arrays, strict=True):
            result.values[result.kept.where(begin - start, end - start)] = array
    return found


def probe(values: RowValues, rows: Rows) -> list[AnyArray]:
    """Values of the first rows, to learn shapes and types and to refuse early what has no values row by row.

    Parameters
    ----------
    values : RowValues
    rows : Rows
    """
    n_rows = min(_PROBED_ROWS, rows.n_rows)
    tile = [reader.read(0, n_rows) for reader in rows.readers]
    _check_finite(rows, tile, 0)
    try:
        whole = values(tile, 0, n_rows)
        parts = [
            values([array[begin:end] for array in tile], begin, end)
            for begin, end in ((0, n_rows // 2), (n_rows // 2, n_rows))
            if end > begin
        ]
    except NonFiniteError:
        raise
    except (ValueError, IndexError, AssertionError, TypeError) as error:
        raise ModelError(
            f"{', '.join(values.names)} cannot be computed for the first {n_rows} rows ({str(error).splitlines()[0]}); "
            "check their values, and give dvi.Minibatch all that has one value for each row, as nothing else may have "
            "the length of a batch"
        ) from error
    for i, (name, value) in enumerate(zip(values.names, whole, strict=True)):
        _check_rows(name, value, [part[i] for part in parts], n_rows, exact=not values.function.program.is_random(i))
    return whole


def _check_rows(name: str, whole: AnyArray, parts: list[AnyArray], n_rows: int, *, exact: bool) -> None:
    """Refuse what does not have a value for each row, or one that depends on the rows around it."""
    n_parts = [part.shape[1] if part.ndim > 1 else 0 for part in parts]
    if whole.ndim < 2 or whole.shape[1] != n_rows or sum(n_parts) != n_rows:
        raise ModelError(
            f"{name!r} has the shape {whole.shape[1:]} for {n_rows} rows; it needs a value for each row, along its "
            "first dimension"
        )
    tolerance = 1e-4 if whole.dtype.itemsize < 8 else 1e-8
    if exact and not np.allclose(whole, np.concatenate(parts, axis=1), tolerance, tolerance, equal_nan=True):
        raise ModelError(
            f"the values of {name!r} for a row depend on the other rows that are computed with it; compute statistics "
            "of rows together (a mean, a cumulative sum) on the full data first"
        )
