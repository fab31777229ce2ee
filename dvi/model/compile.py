"""Graphs to thread-safe kernels."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import cloudpickle
import numpy as np
import pytensor
from numpy.typing import NDArray
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable
from pytensor.graph.rewriting.db import RewriteDatabaseQuery

from dvi.model import kernel_cache
from dvi.model.rewrites import FOR_FUSION
from dvi.types import AnyArray, FloatArray, Slab, Span

logger = logging.getLogger(__name__)

type _Numbers = NDArray[np.int64]

# PyTensor sets its global mode while it builds a function, and two threads at once leave it wrong for good.
BUILDING = threading.RLock()
# Without PyTensor's own BLAS rewrites, which warn where no compiler finds a library to link.
_REWRITES = RewriteDatabaseQuery(include=["fast_run", "numba"])
INTERPRETED = Mode("py", RewriteDatabaseQuery(include=["fast_compile"], exclude=["BlasOpt"]))


@dataclass(frozen=True, eq=False)
class Program:
    """A log density and its gradient as a graph of its own: no shared variables, no data. Picklable.

    Parameters
    ----------
    z : Variable
        Flat vector ``(d,)``.
    blocks : tuple of Variable
        Rows of the arrays of a source; empty for the prior term.
    constants : tuple of Variable
        Inputs whose values do not change during a fit.
    values : tuple of array
        Values of ``constants``.
    outputs : tuple of Variable
        The scalar log density and its gradient ``(d,)``.
    """

    z: Variable[Any, Any]
    blocks: tuple[Variable[Any, Any], ...]
    constants: tuple[Variable[Any, Any], ...]
    values: tuple[AnyArray, ...]
    outputs: tuple[Variable[Any, Any], Variable[Any, Any]]


class Piece(NamedTuple):
    """Rows, and the number of the sum that they belong to."""

    owner: int
    span: Span


@dataclass(frozen=True, eq=False)
class CompiledKernel:
    """A compiled program: ``(Z (S, d), *blocks) -> (value (S,), gradient (S, d))``, callable from any thread.

    Parameters
    ----------
    function : callable
        Machine code, as :class:`dvi.model.kernel_cache.KernelLinker` makes it.
    constants : tuple of array
    empty : Slab
        No rows, in the form in which the function takes them.
    """

    function: Any
    constants: tuple[AnyArray, ...]
    empty: Slab

    def __call__(self, Z: FloatArray, *blocks: AnyArray) -> tuple[FloatArray, FloatArray]:
        values, gradients = np.zeros(len(Z)), np.zeros(Z.shape)
        if blocks:
            n_rows = len(blocks[0])
            self.add(Z, values[None], gradients[None], [Piece(0, Span(Slab.of(blocks), 0, n_rows))], max(n_rows, 1))
        else:
            self.function(Z, values, gradients, *self.constants)
        return values, gradients

    def add(self, Z: FloatArray, values: FloatArray, gradients: FloatArray, pieces: Sequence[Piece], size: int) -> None:
        """Add value and gradient over pieces of rows to those of their owners, in order, ``size`` rows at a time.

        Parameters
        ----------
        Z : array, shape (S, d)
        values : array, shape (n, S)
        gradients : array, shape (n, S, d)
        pieces : sequence of Piece
            Whose owners are below n.
        size : int
            At least 1.
        """
        if not pieces:
            return
        table = []
        for owner, (slab, start, stop) in pieces:
            self.check(slab)
            if not 0 <= start <= stop <= slab.n_rows:
                raise ValueError(f"rows {start} to {stop} of {slab.n_rows} are given to a kernel")
            table.append([owner, stop - start, *[first + start * stride for first, stride in slab.places]])
        self.run(Z, values, gradients, np.array(table), size)

    def check(self, slab: Slab) -> None:
        """Refuse rows of another form, as machine code does not look."""
        if slab.form != self.empty.form:
            raise ValueError(f"rows of {slab.form} are given to a kernel for {self.empty.form}")

    def run(self, Z: FloatArray, values: FloatArray, gradients: FloatArray, table: _Numbers, size: int) -> None:
        """As :meth:`add`, for pieces in the form in which machine code takes them.

        Parameters
        ----------
        table : array of int64, shape (P, 2 + blocks)
            Owner, number of rows, and the address of the first row of each array. Nothing looks whether they are right.
        """
        self.function(Z, values, gradients, size, table, *self.empty.arrays, *self.constants)


_known: WeakKeyDictionary[Program, dict[tuple[Any, ...], CompiledKernel]] = WeakKeyDictionary()


def compile_kernel(program: Program, example: tuple[AnyArray, ...] = ()) -> CompiledKernel:
    """Compile a program, or load it from the machine's cache of kernels; what this process has of it is taken again.

    Parameters
    ----------
    program : Program
    example : tuple of array
        Two rows or more for each block, of the layout that the kernel will be given. The kernel is tried on them.
    """
    known, form = _known.setdefault(program, {}), tuple((x.dtype.str, x.shape[1:]) for x in example)
    if form not in known:
        known[form] = _compiled(program, example)
    return known[form]


def _compiled(program: Program, example: tuple[AnyArray, ...]) -> CompiledKernel:
    kernel = _build(program, example)
    arguments = _arguments(program, kernel)
    with kernel_cache.lock(kernel.function):
        if not kernel_cache.load(kernel.function, arguments):
            logger.info("compiling a kernel of %d parameters", arguments[0].shape[1])
            kernel_cache.fill((program, example))
    if not kernel_cache.load(kernel.function, arguments):
        logger.warning("a kernel could not be cached; its last bits may differ between processes")
    kernel(arguments[0], *example)
    return kernel


def fill_cache() -> None:
    """Compile the program and example that come on standard input into the cache, without running them."""
    program, example = cloudpickle.load(sys.stdin.buffer)
    kernel = _build(program, example)
    kernel.function.compile(kernel_cache.signature(kernel.function, _arguments(program, kernel)))


def _build(program: Program, example: tuple[AnyArray, ...]) -> CompiledKernel:
    """Everything but machine code. Without a C compiler PyTensor would fuse fewer loops, and so give other bits."""
    with BUILDING, pytensor.config.change_flags(cxx=pytensor.config.cxx or "c++"):
        built = pytensor.function(
            [program.z, *program.blocks, *program.constants],
            list(program.outputs),
            mode=Mode(kernel_cache.KernelLinker([x.ndim for x in example]), _REWRITES).register((FOR_FUSION, 48.5)),
            on_unused_input="ignore",
        )
    constants = tuple(np.require(v, requirements=["C", "A", "W"]) for v in program.values)
    empty = Slab.of([np.zeros((0, *x.shape[1:]), x.dtype) for x in example]) if example else Slab((), (), (), 0)
    return CompiledKernel(built.vm.jit_fn, constants, empty)


def _arguments(program: Program, kernel: CompiledKernel) -> tuple[AnyArray, ...]:
    Z = np.zeros((1, program.z.type.shape[0]))
    if not program.blocks:
        return (Z, np.zeros(1), np.zeros_like(Z), *kernel.constants)
    table = np.zeros((0, 2 + len(program.blocks)), np.int64)
    rows: tuple[Any, ...] = (2, table, *kernel.empty.arrays)
    return (Z, np.zeros((1, 1)), np.zeros((1, *Z.shape)), *rows, *kernel.constants)


@dataclass(eq=False)
class LazyKernel:
    """A kernel that is compiled where it is first used; its pickle holds the program alone."""

    program: Program
    _compiled: CompiledKernel | None = None

    def prepare(self) -> None:
        """Compile now."""
        if self._compiled is None:
            self._compiled = compile_kernel(self.program)

    def __call__(self, Z: FloatArray, *blocks: AnyArray) -> tuple[FloatArray, FloatArray]:
        if self._compiled is None:
            self.prepare()
        assert self._compiled is not None
        return self._compiled(Z, *blocks)

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyKernel, (self.program,)


def compile_draws(z: Variable[Any, Any], outputs: list[Variable[Any, Any]]) -> Any:
    """Compile graphs of one flat vector for many draws at once, with the interpreter: quick to build, called rarely.

    Returns
    -------
    callable
        From ``Z (S, d)`` to a list of arrays ``(S, ...)``.
    """
    from pytensor.graph.replace import vectorize_graph

    Z = pytensor.tensor.matrix("Z", shape=(None, z.type.shape[0]), dtype=z.type.dtype)
    batched = vectorize_graph(outputs, replace={z: Z})
    # An output that does not depend on z is the same for all draws.
    shaped = [
        b if b.type.ndim > o.type.ndim else pytensor.tensor.broadcast_to(b, (Z.shape[0], *b.shape))
        for b, o in zip(batched, outputs, strict=True)
    ]
    with BUILDING:
        return pytensor.function([Z], shaped, mode=INTERPRETED, on_unused_input="ignore")
