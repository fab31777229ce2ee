"""The machine's cache of compiled kernels, which makes every process run the same machine code.

A kernel that was just compiled is not the one that the next process loads: its inner functions are linked as they were
compiled on their own, not as they were optimised inside the kernel, and sums come out in another order. So kernels are
compiled in a process of their own, with an empty cache for inner functions, and every process that computes loads the
result. This file, ``column_sums.py``, ``compile.py``, ``inlining.py``, ``intrinsics.py``, ``mailbox.py``,
``operators.py``, ``products.py``, ``scatter.py`` and ``vector_math.py`` alone touch internals of PyTensor's linkers and
of numba.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle
import numba
import pytensor
from filelock import FileLock
from numba.core import cgutils, types
from numba.core.caching import CacheImpl, _CacheLocator
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic
from pytensor.link.numba.dispatch.basic import numba_njit
from pytensor.link.numba.linker import NumbaLinker

from dvi.model.mailbox import join, post, posted, read_ahead, take, withdraw

logger = logging.getLogger(__name__)

_FOLDER_VARIABLE = "DVI_KERNEL_CACHE"
_LOCK_SECONDS = 600
_FILL = "from dvi.model.compile import fill_cache; fill_cache()"
_kernel_keys: WeakKeyDictionary[Callable[..., Any], str] = WeakKeyDictionary()


def folder() -> Path:
    """Where compiled kernels are kept: one directory a machine, beside PyTensor's own cache."""
    path = Path(os.environ.get(_FOLDER_VARIABLE) or Path(str(pytensor.config.base_compiledir)) / "dvi-kernels")
    path.mkdir(parents=True, exist_ok=True)
    return path


class _KernelLocator(_CacheLocator):
    """Sends numba to the folder of kernels for the functions registered here, and for no other."""

    def __init__(self, key: str) -> None:
        self._key = key

    def ensure_cache_path(self) -> None:
        folder()

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> tuple[str, ...]:
        return (pytensor.__version__, numba.__version__)

    def get_disambiguator(self) -> str:
        return self._key

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _KernelLocator | None:
        key = _kernel_keys.get(py_func)
        return None if key is None else cls(key)


CacheImpl._locator_classes.insert(0, _KernelLocator)  # type: ignore[arg-type]


# What is called: over lanes, which threads share; over the pieces of rows of each, a row of a table that tells how many
# rows there are and where they lie; over blocks of them that fit the cache; then over draws, so that a block is hot for
# all of them. Whoever has the work calls it with -1 for the number of the helper.
_OVER_LANES = """
def kernel(Z, sums, size, pieces, starts, mail, helper, {forms}, {constants}):
    job = 0
    if helper < 0:
        post(mail, Z, sums, size, pieces, starts)
    while True:
        if helper >= 0:
            job = join(mail, helper, job)
            if job == 0:
                return
            Z = carray(pointer(posted(mail, 0)), (posted(mail, 4), Z.shape[1]), Z.dtype)
            sums = carray(pointer(posted(mail, 1)), (posted(mail, 7), posted(mail, 4), sums.shape[2]), sums.dtype)
            pieces = carray(pointer(posted(mail, 2)), (posted(mail, 6), pieces.shape[1]), pieces.dtype)
            starts = carray(pointer(posted(mail, 3)), posted(mail, 7) + 1, starts.dtype)
            size = posted(mail, 5)
        while True:
            lane = take(mail)
            if lane >= starts.shape[0] - 1:
                break
            for p in range(starts[lane], starts[lane + 1]):
                n_rows = pieces[p, 0]
                {arrays}
                for start in range(0, n_rows, size):
                    {sliced}
                    for s in range(Z.shape[0]):
                        value, gradient = inner(Z[s], {rows}, {constants})
                        sums[lane, s, 0] += value.item()
                        sums[lane, s, 1:] += gradient
        if helper < 0:
            withdraw(mail)
            return
        read_ahead(mail, helper, job, pieces, starts, ({widths},))
"""
_OVER_DRAWS = """
def kernel(Z, sums, {constants}):
    for s in range(Z.shape[0]):
        value, gradient = inner(Z[s], {constants})
        sums[s, 0] = value.item()
        sums[s, 1:] = gradient
"""


def _loop(ranks: Sequence[int], n_constants: int) -> str:
    """Source of the outermost function."""

    def each(form: str, n: int, separator: str = ", ") -> str:
        return separator.join(form.format(i=i) for i in range(n))

    constants = each("c{i}", n_constants)
    if not ranks:
        return _OVER_DRAWS.format(constants=constants)
    widths = ["".join(f" * f{i}.shape[{a}]" for a in range(1, rank)) for i, rank in enumerate(ranks)]
    n, shapes = len(ranks), ["".join(f"f{i}.shape[{a}], " for a in range(1, rank)) for i, rank in enumerate(ranks)]
    return _OVER_LANES.format(
        forms=each("f{i}", n),
        arrays="; ".join(
            f"x{i} = carray(pointer(pieces[p, {1 + i}]), (n_rows, {shape}), f{i}.dtype)"
            for i, shape in enumerate(shapes)
        ),
        sliced=each("r{i} = x{i}[start : start + size]", n, "; "),
        rows=each("r{i}", n),
        widths=", ".join(f"f{i}.itemsize{shape}" for i, shape in enumerate(widths)),
        constants=constants,
    )


@intrinsic
def _pointer(typing_context: Any, number: Any) -> Any:
    """An address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


class KernelLinker(NumbaLinker):  # type: ignore[misc]
    """PyTensor's numba linker, whose outermost function goes through lanes, rows and draws.

    From ``(z (d,), *blocks, *constants)`` to a value and a gradient it makes ``(Z (S, d), sums (n, S, 1 + d), size,
    pieces (P, 1 + blocks), starts (n + 1,), mail, helper, *forms, *constants)``, which adds values and gradients to the
    sums; without blocks, ``(Z, sums (S, 1 + d), *constants)``, which sets them. It is compiled to release the GIL and
    kept in the folder of kernels.

    Parameters
    ----------
    ranks : sequence of int
        Dimensions of each input after the first that is rows.
    """

    def __init__(self, ranks: Sequence[int]) -> None:
        super().__init__()
        self.ranks = tuple(ranks)

    def jit_compile(self, fn_and_cache: Any) -> Any:
        fn, key = fn_and_cache
        names = {"__name__": __name__, "inner": numba_njit(fn.py_func), "pointer": _pointer}
        names["carray"] = numba.carray  # type: ignore[attr-defined]
        names |= {function.__name__: function for function in (post, posted, take, withdraw, join, read_ahead)}
        exec(_loop(self.ranks, len(self.fgraph.inputs) - 1 - len(self.ranks)), names)
        loop = names["kernel"]
        if key is not None:
            _kernel_keys[loop] = f"{key}-crew{len(self.ranks)}"
        return numba_njit(loop, final_function=True, nogil=True, cache=key is not None)


def kept(loop: Callable[..., Any]) -> Any:
    """A loop over arrays that is compiled when it is first called with arguments of some types, and kept."""
    code = repr((loop.__qualname__, loop.__code__.co_code, loop.__code__.co_consts, loop.__code__.co_names))
    _kernel_keys[loop] = f"loop-{loop.__name__}-{hashlib.sha256(code.encode()).hexdigest()[:16]}"
    return numba.njit(cache=True, nogil=True, error_model="numpy")(loop)


def signature(function: Any, arguments: tuple[Any, ...]) -> Any:
    """The types that numba compiles a function for when it is called with some arguments."""
    return tuple(numba.typeof(a) for a in arguments)


def load(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Load the machine code of a function for arguments of some types from the cache; whether it was there.

    Threads do it one after the other, since numba looks then for what functions have been registered meanwhile.
    """
    types = signature(function, arguments)
    with global_compiler_lock:
        if function._cache.load_overload(types, function.targetctx) is None:
            return False
        function.compile(types)
    return True


def lock(function: Any) -> FileLock:
    """The lock under which the kernel of a function is compiled: one process compiles, and the others wait."""
    key = _kernel_keys.get(function.py_func, "uncached")
    return FileLock(folder() / f"{key}.lock", timeout=_LOCK_SECONDS)


def fill(payload: Any) -> None:
    """Run :func:`dvi.model.compile.fill_cache` on a payload in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="dvi-compile-") as scratch:
        flags = os.environ.get("PYTENSOR_FLAGS", "")
        environment = os.environ | {
            _FOLDER_VARIABLE: str(folder()),
            "PYTENSOR_FLAGS": ",".join(filter(None, [flags, f"base_compiledir={scratch}"])),
            "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-c", _FILL], input=cloudpickle.dumps(payload), env=environment, capture_output=True,
            check=False,
        )  # fmt: skip
    if done.returncode == -signal.SIGINT:  # of Ctrl-C, which goes to this process too
        raise KeyboardInterrupt
    if done.returncode != 0:
        logger.warning("compiling in a process of its own failed: %s", done.stderr.decode(errors="replace")[-500:])
