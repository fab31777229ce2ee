"""Threads that share the lanes of a kernel in machine code."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pymc as pm
import pytest
from pymc.logprob.utils import ParameterValueError

import dvi
from dvi.execution.crew import Crew
from dvi.execution.lane import plan_problem
from dvi.execution.threads import ThreadsExecutor
from dvi.model import mailbox
from dvi.model.compile import CompiledKernel, Pieces, compile_kernel
from dvi.model.graph import split
from dvi.types import Round, Slab

LANES, ROWS = 7, 300


def regression(rows: int) -> pm.Model:
    """Whose likelihood refuses a rate below 0."""
    rng = np.random.default_rng(0)
    x, g, y = rng.random(size=(rows, 3)), rng.integers(0, 5, size=rows), rng.poisson(2, size=rows)
    xs, gs, ys = dvi.Minibatch(x, g, y, batch_size=rows)
    with pm.Model() as model:
        a, b = pm.Normal("a", shape=5), pm.Normal("b", shape=3)
        pm.Poisson("y", xs @ b + a[gs], observed=ys)
    return model


@pytest.fixture(scope="module")
def kernel() -> CompiledKernel:
    term = split(regression(ROWS)).terms[0]
    return compile_kernel(term.program, tuple(np.array(a)[:2] for a in term.batch.source.head(2)))


@pytest.fixture(scope="module")
def block() -> tuple[np.ndarray, ...]:
    return tuple(np.array(a) for a in split(regression(ROWS)).terms[0].batch.source.head(ROWS))


def table(rows: tuple[np.ndarray, ...]) -> Pieces:
    """Rows cut into lanes of different lengths, of one piece or of several."""
    slab, cuts = Slab.of(rows), np.sort(np.random.default_rng(1).choice(ROWS, 3 * LANES - 1, replace=False))
    ends = [0, *cuts.tolist(), ROWS]
    found = [
        [stop - start, *[first + start * stride for first, stride in slab.places]]
        for start, stop in itertools.pairwise(ends)
    ]
    return Pieces(np.array(found), np.arange(0, 3 * LANES + 1, 3))


@pytest.fixture(params=[1, 3])
def crew(kernel: CompiledKernel, request: pytest.FixtureRequest) -> Iterator[Crew]:
    made = Crew(kernel, request.param)
    yield made
    made.close()


def sums(kernel: CompiledKernel, draws: int = 2) -> np.ndarray:
    return np.zeros((LANES, draws, 1 + kernel.ndim))


def test_helpers_change_no_bit(kernel: CompiledKernel, block: tuple[np.ndarray, ...], crew: Crew) -> None:
    pieces, rng = table(block), np.random.default_rng(2)
    for step in range(400):
        Z = rng.random(size=(1 + step % 3, kernel.ndim))
        alone, shared = sums(kernel, len(Z)), sums(kernel, len(Z))
        kernel.run(Z, alone, pieces, 64)
        crew.run(Z, shared, pieces, 64)
        assert alone.any()
        assert shared.tobytes() == alone.tobytes(), step


def test_a_helper_does_lanes_that_others_posted(kernel: CompiledKernel, block: tuple[np.ndarray, ...]) -> None:
    """Without anyone else, so that it is seen to."""
    Z, found, expected, pieces = np.ones((1, kernel.ndim)), sums(kernel, 1), sums(kernel, 1), table(block)
    kernel.run(Z, expected, pieces, 64)
    mail = mailbox.mailbox(1)
    post(mail, Z, found, pieces, 64)
    kernel.help(mail, 0)
    assert found.tobytes() == expected.tobytes()
    mailbox.call_off(mail)  # nobody is at it


def post(mail: np.ndarray, Z: np.ndarray, into: np.ndarray, pieces: Pieces, size: int) -> None:
    """What a kernel does first, in Python."""
    arrays = (Z, into, pieces.rows, pieces.starts)
    numbers = (len(Z), size, len(pieces.rows), len(pieces.starts) - 1)
    mail[mailbox._FIELDS : mailbox._FIELDS + 8] = [*(a.ctypes.data for a in arrays), *numbers]
    mail[mailbox._JOB] = 1


def test_helpers_sleep_and_are_woken(kernel: CompiledKernel, block: tuple[np.ndarray, ...], crew: Crew) -> None:
    Z, pieces, expected = np.ones((1, kernel.ndim)), table(block), sums(kernel, 1)
    kernel.run(Z, expected, pieces, 64)
    for _ in range(3):
        shared = sums(kernel, 1)
        crew.run(Z, shared, pieces, 64)
        assert shared.tobytes() == expected.tobytes()
        while any(call.is_set() for call in crew._calls) or any(crew._awake):  # until there is no work for all of them
            time.sleep(0.001)


def test_an_error_is_the_same_with_helpers_and_the_next_step_is_done(
    kernel: CompiledKernel, block: tuple[np.ndarray, ...], crew: Crew
) -> None:
    Z, bad = np.ones((1, kernel.ndim)), (-10 * block[0], *block[1:])
    for rows in (bad, block) * 20:
        pieces, alone, shared = table(rows), sums(kernel, 1), sums(kernel, 1)
        if rows is bad:
            with pytest.raises(ParameterValueError):
                crew.run(Z, shared, pieces, 64)
        else:
            kernel.run(Z, alone, pieces, 64)
            crew.run(Z, shared, pieces, 64)
            assert shared.tobytes() == alone.tobytes()


def test_an_error_of_a_helper_alone_is_seen(kernel: CompiledKernel, block: tuple[np.ndarray, ...]) -> None:
    """Who has the work finds the flag, and does the lanes again."""
    mail, bad = mailbox.mailbox(1), (-10 * block[0], *block[1:])
    Z, into, pieces = np.ones((1, kernel.ndim)), sums(kernel, 1), table(bad)
    post(mail, Z, into, pieces, 64)
    with pytest.raises(ParameterValueError):
        kernel.help(mail, 0)
    mailbox.fail(mail, 0)
    mailbox.call_off(mail)  # does not wait for it
    assert mailbox.failed(mail)
    assert not mailbox.failed(mail)


def test_closing_ends_the_threads(kernel: CompiledKernel) -> None:
    before = threading.active_count()
    made = Crew(kernel, 2)
    assert threading.active_count() == before + 2
    made.close()
    assert threading.active_count() == before


def test_crews_of_one_kernel_do_not_meet(kernel: CompiledKernel, block: tuple[np.ndarray, ...]) -> None:
    pieces, Z = table(block), np.full((1, kernel.ndim), 0.1)
    expected = sums(kernel, 1)
    kernel.run(Z, expected, pieces, 64)

    def steps(_: int) -> set[bytes]:
        crew, found = Crew(kernel, 1), set()
        for _ in range(100):
            shared = sums(kernel, 1)
            crew.run(Z, shared, pieces, 64)
            found.add(shared.tobytes())
        crew.close()
        return found

    with ThreadPoolExecutor(3) as pool:
        assert set.union(*pool.map(steps, range(6))) == {expected.tobytes()}


def test_threads_use_a_crew_where_rows_are_at_hand() -> None:
    problem = plan_problem(split(regression(4000)).terms, 3, 1)
    executors = [ThreadsExecutor(problem, threads) for threads in (1, 2)]
    rng, used, crew = np.random.default_rng(3), [], executors[1]._crew
    assert crew is not None
    run = crew.run
    crew.run = lambda *a: (used.append(1), run(*a))  # type: ignore[method-assign]
    for step in range(60):
        Z = rng.random(size=(1, 8))
        one, two = (executor.evaluate(Round(step, Z)) for executor in executors)
        assert one.score.tobytes() == two.score.tobytes()
        assert one.loglik.tobytes() == two.loglik.tobytes()
        assert one.n_rows == two.n_rows == 4000
    assert used
    for executor in executors:
        executor.close()


def test_pieces_that_a_helper_still_looks_at_are_kept(
    kernel: CompiledKernel, block: tuple[np.ndarray, ...], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads ahead in the table of its last step, which may have been replaced meanwhile."""
    tables = [table(block) for _ in range(3)]
    Z, seen, held = np.ones((1, kernel.ndim)), [], weakref.ref(tables[0].rows)
    monkeypatch.setattr(mailbox, "await_readers", lambda mail: seen.append(held() is not None))
    for pieces in (tables[0], tables[0], tables[1]):
        crew.run(Z, sums(kernel, 1), pieces, 64)
    del pieces, tables[0]
    assert seen == [True]
    assert held() is None
    monkeypatch.undo()
    crew._mail[mailbox._BUSY + mailbox._READING] = 1  # a helper that was held up in the first step
    timer = threading.Timer(0.05, crew._mail.__setitem__, [mailbox._BUSY + mailbox._READING, 0])
    timer.start()
    mailbox.await_readers(crew._mail)
    assert timer.finished.is_set()


def test_helpers_read_ahead_within_the_table(kernel: CompiledKernel, block: tuple[np.ndarray, ...]) -> None:
    """At most as many pieces as the step had, and none beyond the last."""
    pieces, Z = table(block), np.ones((1, kernel.ndim))
    mail, half = mailbox.mailbox(1), pieces.starts[: LANES // 2 + 1]
    for starts in (half, pieces.starts):
        found = np.zeros((len(starts) - 1, 1, 1 + kernel.ndim))
        post(mail, Z, found, Pieces(pieces.rows, starts), 64)
        kernel.help(mail, 0)
        assert found.any()
        assert not mail[mailbox._BUSY :].any()
        mailbox.call_off(mail)
