"""The log likelihood of rows that a fit does not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvi.errors import ArgumentError, ArgumentTypeError, DataError, ModelError, suggestion
from dvi.types import AnyArray, FloatArray, Kernel

if TYPE_CHECKING:
    import pymc as pm

    from dvi.data.source import Source
    from dvi.model.graph import DataTerm

type Data = Mapping[Any, Any] | Sequence[Any]


@dataclass(frozen=True, eq=False)
class HeldOutTerm:
    """One data term of a model and other rows for it."""

    kernel: Kernel
    source: Source
    block_rows: int

    def log_likelihood(self, Z: FloatArray) -> FloatArray:
        """Sum over all rows ``(S,)`` at draws ``Z (S, d)``, one chunk in memory at a time."""
        total = np.zeros(len(Z))
        for chunk in range(self.source.n_chunks):
            slabs = self.source.read(chunk)
            for start in range(0, len(slabs[0]), self.block_rows):
                total += self.kernel(Z, *(_block(slab[start : start + self.block_rows]) for slab in slabs))[0]
        return total


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out rows of a model, its kernels compiled."""

    terms: tuple[HeldOutTerm, ...]

    @property
    def n_rows(self) -> int:
        """Rows of all terms."""
        return sum(term.source.n_rows for term in self.terms)

    def mean_log_likelihood(self, Z: FloatArray) -> float:
        """Log likelihood of a row, the mean over all rows and over draws ``Z (S, d)``."""
        from threadpoolctl import threadpool_limits

        Z = np.require(Z, np.float64, ["C", "A", "W"])
        with threadpool_limits(limits=1), np.errstate(invalid="ignore"):  # OpenBLAS splits its sums by its thread count
            total = sum((term.log_likelihood(Z) for term in self.terms), start=np.zeros(len(Z)))
            return float(np.mean(total)) / self.n_rows


def checked_data(data: Any) -> Data:
    """Held-out data by Minibatch variable or name, or as a list of arrays; refused where it can be neither."""
    from dvi.model.minibatch import binding

    if not isinstance(data, Mapping):
        arrays = list(data) if isinstance(data, list | tuple) else [data]
        if not arrays:
            raise ArgumentError("data is an empty list; give the held-out arrays in the order of the Minibatch call")
        return arrays
    for key in data:
        if not isinstance(key, str) and (not hasattr(key, "tag") or binding(key) is None):
            raise ArgumentTypeError(
                f"{key!r} is not a Minibatch variable; give data as {{x: x_test, y: y_test}} for "
                "x, y = dvi.Minibatch(...), or as [x_test, y_test]"
            )
    if not data:
        raise ArgumentError("data is empty; give the held-out array of each Minibatch variable")
    return dict(data)


def hold_out(model: pm.Model, data: Data) -> HeldOut:
    """Match held-out data with the data terms of a model and compile their kernels.

    A term for which there is no data is left out.

    Parameters
    ----------
    model : pm.Model
    data : mapping or list
        As :func:`checked_data` returned it.
    """
    from dvi.model.graph import split

    terms = split(model).terms
    if not terms:
        raise ModelError("the model has no data in a Minibatch; held-out rows need dvi.Minibatch(...) for the others")
    by_key = data if isinstance(data, Mapping) else _named(model, terms, data)
    unused = [str(key) for key in by_key if isinstance(data, Mapping) and not any(_is_of(key, t) for t in terms)]
    if unused:
        names = [name for term in terms for name in term.batch.source.names]
        near = suggestion(unused, names)
        raise ArgumentError(f"{unused} are not among the data of the model, which are {names}; leave them out{near}")
    matched = [(term, _of_term(term, by_key)) for term in terms]
    return HeldOut(tuple(_compiled(term, arrays) for term, arrays in matched if arrays is not None))


def _named(model: pm.Model, terms: Sequence[DataTerm], arrays: Sequence[Any]) -> dict[str, Any]:
    """Arrays in the order of the one Minibatch call of a model, by name."""
    from dvi.model.minibatch import binding, bound_variables

    observed = [model.rvs_to_values[rv] for rv in model.observed_RVs]
    found = [binding(v) for v in bound_variables([*model.basic_RVs, *observed, *model.potentials])]
    batches = list(dict.fromkeys(b.batch for b in found if b is not None))
    if len(terms) > 1 or len(batches) > 1:
        raise ArgumentError(
            "the model has several Minibatches, so that a list of held-out arrays does not say which is whose; "
            "give {variable: array}"
        )
    names = (batches or [terms[0].batch])[0].source.names  # none for pm.Minibatch, which the split replaced
    if len(names) != len(arrays):
        raise ArgumentError(
            f"{len(arrays)} held-out arrays were given, and the Minibatch has {len(names)}: {', '.join(names)}; "
            "give one for each, in that order"
        )
    return dict(zip(names, arrays, strict=True))


def _is_of(key: Any, term: DataTerm) -> bool:
    """Whether a key of held-out data names an array of the Minibatch of a term."""
    from dvi.model.minibatch import binding

    if isinstance(key, str):
        return key in term.batch.source.names
    bound = binding(key)
    mine = {id(reader) for reader in term.batch.source.readers}
    return bound is not None and any(id(reader) in mine for reader in bound.batch.source.readers)


def _of_term(term: DataTerm, data: Mapping[Any, Any]) -> list[Any] | None:
    """The held-out array for each array that a term reads, None if there is none for any."""
    given = {str(getattr(key, "name", key)): array for key, array in data.items() if _is_of(key, term)}
    names = term.batch.source.names
    missing = [name for name in names if name not in given]
    if len(missing) == len(names):
        return None
    if missing:
        raise ArgumentError(
            f"the likelihood of {', '.join(term.names)} also reads {missing}, of which data has no held-out rows; "
            "give an array for each"
        )
    return [given[name] for name in names]


def _compiled(term: DataTerm, arrays: Sequence[Any]) -> HeldOutTerm:
    from dvi.data.plan import default_block_rows
    from dvi.data.readers import cast_reader, reader
    from dvi.data.source import Source
    from dvi.model.compile import compile_kernel

    names, blocks = term.batch.source.names, term.program.blocks
    readers = []
    for name, block, array in zip(names, blocks, arrays, strict=True):
        rows = reader(array)
        shape = block.type.shape[1:]
        if len(shape) != len(rows.shape) - 1 or any(
            known not in (None, n) for known, n in zip(shape, rows.shape[1:], strict=True)
        ):
            raise DataError(
                f"the held-out rows of {name!r} are of shape {rows.shape[1:]}, those of its Minibatch of {shape}; "
                "give an array of shape (n_rows, *that)"
            )
        readers.append(cast_reader(rows, np.dtype(block.type.dtype)))
    source = Source.align(readers, names)
    example = tuple(np.zeros((2, *r.shape[1:]), dtype=r.dtype) for r in readers)
    return HeldOutTerm(compile_kernel(term.program, example), source, default_block_rows(source.row_nbytes))


def _block(rows: AnyArray) -> AnyArray:
    """Rows in the layout that kernels are compiled for; a copy where they are not writable."""
    return np.require(rows, requirements=["C", "A", "W"])
