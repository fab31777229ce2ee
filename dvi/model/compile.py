"""Graphs to thread-safe kernels. The only file that touches the internals of PyTensor's linkers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
from filelock import FileLock
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.link.numba.cache import CACHED_SRC_FUNCTIONS
from pytensor.link.numba.dispatch.basic import numba_njit
from pytensor.link.numba.linker import NumbaLinker

from dvi.types import AnyArray, FloatArray

_LOCK_SECONDS = 600
# Without PyTensor's own BLAS rewrites, which warn where no compiler finds a library to link.
_INTERPRETED = Mode("py", RewriteDatabaseQuery(include=["fast_compile"], exclude=["BlasOpt"]))


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


class _NogilNumbaLinker(NumbaLinker):  # type: ignore[misc]
    """PyTensor's numba linker, its outermost function compiled to release the GIL and cached under a key of its own.

    Numba does not look at ``nogil`` when it looks in its cache, so without the key a function that keeps the GIL would
    be found.
    """

    def jit_compile(self, fn_and_cache: Any) -> Any:
        fn, cache_key = fn_and_cache
        if cache_key is not None:
            CACHED_SRC_FUNCTIONS[fn.py_func] = f"{CACHED_SRC_FUNCTIONS.get(fn.py_func, cache_key)}_nogil"
        return numba_njit(fn.py_func, final_function=True, nogil=True, cache=cache_key is not None)


def _nogil_mode() -> Mode:
    return Mode(_NogilNumbaLinker(), RewriteDatabaseQuery(include=["fast_run", "numba"]))


def compile_lock() -> FileLock:
    """The lock under which the machine's kernel cache is filled, so that one process compiles and the others wait."""
    folder = Path(str(pytensor.config.base_compiledir))
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "dvi-kernels.lock", timeout=_LOCK_SECONDS)


@dataclass(frozen=True, eq=False)
class CompiledKernel:
    """A compiled program: ``(Z (S, d), *blocks) -> (value (S,), gradient (S, d))``, callable from any thread."""

    function: Any
    constants: tuple[AnyArray, ...]

    def __call__(self, Z: FloatArray, *blocks: AnyArray) -> tuple[FloatArray, FloatArray]:
        if len(Z) == 1:
            value, gradient = self.function(Z[0], *blocks, *self.constants)
            return np.asarray(value, dtype=np.float64).reshape(1), gradient[None]
        values, gradients = np.empty(len(Z)), np.empty(Z.shape)
        for s, z in enumerate(Z):
            values[s], gradients[s] = self.function(z, *blocks, *self.constants)
        return values, gradients


def compile_kernel(program: Program, example: tuple[AnyArray, ...] = ()) -> CompiledKernel:
    """Compile a program, through the machine's kernel cache.

    Parameters
    ----------
    program : Program
    example : tuple of array
        One row or more for each block, of the layout that the kernel will be given: numba compiles for it here, under
        the lock, rather than at the first step.
    """
    with compile_lock():
        compiled = pytensor.function(
            [program.z, *program.blocks, *program.constants],
            list(program.outputs),
            mode=_nogil_mode(),
            on_unused_input="ignore",
        )
        values = tuple(np.require(v, requirements=["C", "A", "W"]) for v in program.values)
        kernel = CompiledKernel(compiled.vm.jit_fn, values)
        d = program.z.type.shape[0]
        kernel(np.zeros((1, d)), *example)
    return kernel


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
    return pytensor.function([Z], shaped, mode=_INTERPRETED, on_unused_input="ignore")
