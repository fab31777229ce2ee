"""Kernels: the same machine code with an empty and a full cache, callable from many threads, without the GIL."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import numpy as np
import pymc as pm
import pytensor
import pytest
from numba.core.compiler_lock import global_compiler_lock

import dvi
from dvi.model import kernel_cache
from dvi.model.compile import LazyKernel, Piece, compile_kernel
from dvi.model.graph import SplitModel, split
from dvi.types import Slab, Span

FIT = """
import hashlib, numpy as np, pymc as pm, dvi
y = np.random.default_rng(0).normal(1.0, 2.0, 30_000)
with pm.Model():
    pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sd"), observed=dvi.Minibatch(y, batch_size=4096))
    approx = dvi.fit(200, random_seed=7, threads=1, progressbar=False)
print(hashlib.sha256(approx.theta.tobytes() + approx.hist.tobytes()).hexdigest())
"""


def test_an_empty_cache_gives_the_bits_of_a_full_one(tmp_path: Path) -> None:
    environment = os.environ | {"PYTENSOR_FLAGS": f"base_compiledir={tmp_path}"}
    seen = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", FIT], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
        )
        seen.append(done.stdout.strip())
        assert "could not be cached" not in done.stderr
    assert seen[0] == seen[1]
    kernels = [path for path in (tmp_path / "dvi-kernels").glob("*.nbc") if "-loop-" not in path.name]
    assert len(kernels) == 2


@pytest.fixture(scope="module")
def parts() -> SplitModel:
    x = np.random.default_rng(0).normal(size=(4000, 3))
    with pm.Model() as model:
        b = pm.Normal("b", 0, 1, shape=3)
        xs, ys = dvi.Minibatch(x, x @ np.ones(3), batch_size=100)
        pm.Normal("y", xs @ b, pm.HalfNormal("s"), observed=ys)
    return split(model)


def test_a_kernel_is_compiled_for_one_kind_of_arguments_and_runs_in_threads(parts: SplitModel) -> None:
    term = parts.terms[0]
    block = tuple(np.array(a) for a in term.batch.source.head(4000))
    kernel = compile_kernel(term.program, tuple(a[:2] for a in block))
    Z = np.random.default_rng(1).normal(size=(6, parts.layout.ndim))
    value, gradient = kernel(Z, *block)
    assert len(kernel.function.overloads) == 1
    assert kernel.function.targetoptions["nogil"]
    one_by_one = [kernel(Z[i : i + 1], *block) for i in range(6)]
    np.testing.assert_array_equal(value, np.concatenate([v for v, _ in one_by_one]))
    np.testing.assert_array_equal(gradient, np.concatenate([g for _, g in one_by_one]))
    with ThreadPoolExecutor(4) as pool:
        for again, slope in pool.map(lambda _: kernel(Z, *block), range(40)):
            np.testing.assert_array_equal(again, value)
            np.testing.assert_array_equal(slope, gradient)


def test_rows_that_are_not_there_or_of_another_form_never_reach_machine_code(parts: SplitModel) -> None:
    term = parts.terms[0]
    block = tuple(np.array(a) for a in term.batch.source.head(10))
    kernel = compile_kernel(term.program, tuple(a[:2] for a in block))
    Z = np.zeros((1, parts.layout.ndim))
    sums = np.zeros((1, 1, 1 + parts.layout.ndim))
    for span in (Span(Slab.of(block), 0, 11), Span(Slab.of(block), -1, 5)):
        with pytest.raises(ValueError, match="of 10 are given"):
            kernel.add(Z, sums, [Piece(0, span)], 64)
    with pytest.raises(ValueError, match="given to a kernel for"):
        kernel(Z, *(a.astype(np.float32) for a in block))
    with pytest.raises(ValueError, match="none of one source"):
        kernel(Z, block[0], block[1][:5])
    strided = tuple(np.repeat(a, 2, axis=0)[::2] for a in block)
    np.testing.assert_array_equal(kernel(Z, *strided)[1], kernel(Z, *block)[1])
    value, gradient = kernel(Z, *(a[:0] for a in block))
    assert not value.any()
    assert not gradient.any()


def test_a_lazy_kernel_travels_without_its_machine_code(parts: SplitModel) -> None:
    kernel = LazyKernel(parts.prior)
    z = np.zeros((1, parts.layout.ndim))
    value, gradient = kernel(z)
    sent = cloudpickle.dumps(kernel)
    assert len(sent) < 200_000
    again = pickle.loads(sent)(z)
    assert again[0].tobytes() == value.tobytes()
    assert again[1].tobytes() == gradient.tobytes()


def test_what_a_process_has_compiled_is_taken_again_while_its_program_lives(parts: SplitModel) -> None:
    term = parts.terms[0]
    block = tuple(np.array(a) for a in term.batch.source.head(4))
    program = cloudpickle.loads(cloudpickle.dumps(term.program))
    kernel = compile_kernel(program, block)
    assert compile_kernel(program, tuple(a[:2] for a in block)) is kernel
    assert compile_kernel(cloudpickle.loads(cloudpickle.dumps(program)), block) is not kernel
    gone = weakref.ref(kernel)
    del kernel, program
    gc.collect()
    assert gone() is None


def test_threads_load_one_after_the_other_as_numba_does(parts: SplitModel) -> None:
    kernel, Z = compile_kernel(parts.prior), np.zeros((1, parts.layout.ndim))
    cache, locked = kernel.function._cache, []

    class Spy:
        def load_overload(self, types: object, context: object) -> object:
            locked.append(global_compiler_lock.is_locked())
            return cache.load_overload(types, context)

    kernel.function._cache = Spy()
    try:
        assert kernel_cache.load(kernel.function, (Z, np.zeros((1, 1 + kernel.ndim)), *kernel.constants))
    finally:
        kernel.function._cache = cache
    assert locked == [True]
    assert not global_compiler_lock.is_locked()


def test_threads_that_build_at_once_leave_the_mode_of_pytensor_alone(parts: SplitModel) -> None:
    before = pytensor.config.mode
    copies = [cloudpickle.loads(cloudpickle.dumps(parts.prior)) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert len(set(map(id, pool.map(compile_kernel, copies)))) == 8
    assert pytensor.config.mode is before
    assert pytensor.tensor.as_tensor(np.ones(2)).sum().eval() == 2.0
