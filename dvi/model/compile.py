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
from dvi.model.gamma_functions import has_gamma_functions
from dvi.model.mailbox import Mail, mailbox
from dvi.model.rewrites import FOR_FUSION, FUSED
from dvi.types import AnyArray, FloatArray, Slab, Span

logger = logging.getLogger(__name__)

type _Numbers = NDArray[np.int64]

# PyTensor sets its global mode while it builds a function, and two threads at once leave it wrong for good.
BUILDING = threading.RLock()
# Without PyTensor's own BLAS rewrites, which warn where no compiler finds a library to link.
_REWRITES = RewriteDatabaseQuery(include=["fast_run", "numba"])
_OURS = ((FOR_FUSION, 48.5), (FUSED, 49.5))  # PyTensor fuses at 49
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

    @property
    def ndim(self) -> int:
        """Length of a draw, ``d``."""
        return int(self.z.type.shape[0])


class Piece(NamedTuple):
    """Rows, and the number of the lane that they belong to."""

    lane: int
    span: Span


class Pieces(NamedTuple):
    """Pieces of rows as machine code takes them, which does not look whether they are right.

    Parameters
    ----------
    rows : array of int64, shape (P, 1 + blocks)
        Number of rows, and the address of the first of them in each array; those of a lane after those of another.
    starts : array of int64, shape (n + 1,)
        Pieces before each lane, and after the last.
    """

    rows: _Numbers
    starts: _Numbers


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
    ndim : int
        Length of a draw, ``d``.
    """

    function: Any
    constants: tuple[AnyArray, ...]
    empty: Slab
    ndim: int

    def __call__(self, Z: FloatArray, *blocks: AnyArray) -> tuple[FloatArray, FloatArray]:
        sums = np.zeros((1, len(Z), 1 + Z.shape[1]))
        if blocks:
            n_rows = len(blocks[0])
            self.add(Z, sums, [Piece(0, Span(Slab.of(blocks), 0, n_rows))], max(n_rows, 1))
        else:
            self.function(Z, sums[0], *self.constants)
        return sums[0, :, 0], sums[0, :, 1:]

    def add(self, Z: FloatArray, sums: FloatArray, pieces: Sequence[Piece], size: int) -> None:
        """Add value and gradient over pieces of rows to the sums of their lanes, ``size`` rows at a time.

        Parameters
        ----------
        Z : array, shape (S, d)
        sums : array, shape (n, S, 1 + d)
        pieces : sequence of Piece
            Whose lanes are below n, in ascending order.
        size : int
            At least 1.
        """
        if not pieces:
            return
        rows = []
        for _, (slab, start, stop) in pieces:
            self.check(slab)
            if not 0 <= start <= stop <= slab.n_rows:
                raise ValueError(f"rows {start} to {stop} of {slab.n_rows} are given to a kernel")
            rows.append([stop - start, *[first + start * stride for first, stride in slab.places]])
        starts = np.searchsorted([piece.lane for piece in pieces], np.arange(len(sums) + 1))
        self.run(Z, sums, Pieces(np.array(rows), starts), size)

    def check(self, slab: Slab) -> None:
        """Refuse rows of another form, as machine code does not look."""
        if slab.form != self.empty.form:
            raise ValueError(f"rows of {slab.form} are given to a kernel for {self.empty.form}")

    def run(self, Z: FloatArray, sums: FloatArray, pieces: Pieces, size: int, mail: Mail | None = None) -> None:
        """As :meth:`add`, for pieces in the form in which machine code takes them.

        Parameters
        ----------
        mail : array of int64, optional
            Where helpers wait, who share the lanes.
        """
        own = mailbox() if mail is None else mail
        self.function(Z, sums, size, *pieces, own, -1, *self.empty.arrays, *self.constants)

    def help(self, mail: Mail, helper: int) -> None:
        """Share the lanes of whoever runs this kernel with some mail, until there are none for about a millisecond."""
        self.function(*_nothing(len(self.empty.arrays), self.ndim), mail, helper, *self.empty.arrays, *self.constants)


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
    # Scalars would come to a loop through a function that LLVM leaves in it where the loop is long.
    rewrites = _REWRITES.excluding("scalarize") if has_gamma_functions(program.outputs) else _REWRITES
    with BUILDING, pytensor.config.change_flags(cxx=pytensor.config.cxx or "c++"):
        built = pytensor.function(
            [program.z, *program.blocks, *program.constants],
            list(program.outputs),
            mode=Mode(kernel_cache.KernelLinker([x.ndim for x in example]), rewrites).register(*_OURS),
            on_unused_input="ignore",
        )
    constants = tuple(np.require(v, requirements=["C", "A", "W"]) for v in program.values)
    empty = Slab.of([np.zeros((0, *x.shape[1:]), x.dtype) for x in example]) if example else Slab((), (), (), 0)
    return CompiledKernel(built.vm.jit_fn, constants, empty, program.ndim)


def _arguments(program: Program, kernel: CompiledKernel) -> tuple[AnyArray, ...]:
    if not program.blocks:
        return (np.zeros((1, kernel.ndim)), np.zeros((1, 1 + kernel.ndim)), *kernel.constants)
    nothing = _nothing(len(program.blocks), kernel.ndim)
    return (*nothing, mailbox(), -1, *kernel.empty.arrays, *kernel.constants)


def _nothing(n_blocks: int, d: int) -> tuple[Any, ...]:
    """Draws, sums, rows of a block and pieces: of no rows."""
    return np.zeros((1, d)), np.zeros((1, 1, 1 + d)), 1, np.zeros((0, 1 + n_blocks), np.int64), np.zeros(2, np.int64)


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
