"""What lives on the workers: lane hosts, which evaluate, and the parameter server, which asks them."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np
from distributed import Worker, get_worker
from distributed.protocol.serialize import to_serialize

from dvi.data.resident import CACHE_BYTES
from dvi.errors import DataError
from dvi.execution.cluster.lines import Lines, Listener, listen
from dvi.execution.cluster.workers import tune_allocator
from dvi.execution.lane import Problem
from dvi.execution.threads import ThreadsExecutor
from dvi.execution.tree import Message, Node, aligned, assign, combine, height
from dvi.memory import format_bytes
from dvi.types import AnyArray, Evaluation, FloatArray, Report, Round, State, StepInfo, Times, Training, Work

START_SECONDS = 600.0  # to compile and to read the first rows
STEP_SECONDS = 10.0  # or SLOWER times the slowest step so far, after which a host that does not answer is given up
SLOWER = 20.0

POOLS_PART = 0.5  # of a worker's memory, of which Dask begins to spill at 0.6
CACHED_PART = 8  # one part of so many, for chunks that are kept

type Piece = dict[str, AnyArray]  # rows of one chunk, by array


def _returning_errors[**P, R](method: Callable[P, R]) -> Callable[P, R | Exception]:
    """A method that returns its errors, so that whatever is raised by a call to a host means that the host is lost."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R | Exception:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            return error

    return wrapped


class LaneHost:
    """Evaluates the lanes it was given, with the threads of its worker. Lives on a worker."""

    def __init__(self, problem: bytes) -> None:
        tune_allocator()
        self._problem: Problem = cloudpickle.loads(problem)
        self._executor: ThreadsExecutor | None = None
        self._leaves = range(0)
        self._pieces: dict[tuple[int, int], Piece] = {}
        self._lock = threading.Lock()  # a line has a thread of its own
        self._listener: Listener | None = None

    def line(self) -> str | None:
        """Where servers on this machine can ask for evaluations, if they can."""
        if self._listener is None:
            self._listener = listen(self.evaluate, get_worker().local_directory)
        return None if self._listener is None else self._listener.path

    def receive(self, term: int, chunk: int, piece: Piece) -> None:
        """Keep the rows of one chunk of arrays that only the client holds."""
        self._pieces[term, chunk] = piece

    @_returning_errors
    def prepare(self, leaves: range, Z: FloatArray) -> None:
        """Compile, take over lanes, and try the likelihood on their first rows.

        Parameters
        ----------
        leaves : range
        Z : array, shape (S, d)
        """
        with self._lock:
            self._prepare(leaves, np.array(Z))

    def _prepare(self, leaves: range, Z: FloatArray) -> None:
        limit = get_worker().memory_manager.memory_limit
        check_memory(self._problem, leaves, limit)
        if self._executor is None:
            threads = max(1, get_worker().state.nthreads)
            kept = CACHE_BYTES if limit is None else min(CACHE_BYTES, limit // CACHED_PART)
            self._executor = ThreadsExecutor(self._problem, threads, kept)
        needed = set(self._problem.chunks(leaves))
        self._pieces = {key: piece for key, piece in self._pieces.items() if key in needed}
        for t, term in enumerate(self._problem.terms):
            if term.source.undelivered:
                held = {chunk: piece for (owner, chunk), piece in self._pieces.items() if owner == t}
                self._executor.evaluator.use(t, term.source.with_pieces(held))
        self._executor.evaluator.drop(set(self._leaves) - set(leaves))
        self._leaves = leaves
        self._executor.check(Round(0, Z), leaves)

    @_returning_errors
    def evaluate(self, step: int, Z: FloatArray) -> Message:
        """Complete subtrees of this host's lanes."""
        assert self._executor is not None
        with self._lock:
            self._executor.spent(0.0)
            started = time.perf_counter()
            evaluations = self._executor.partial(Round(step, np.array(Z)), self._leaves)
            return Message.pack(evaluations, self._executor.spent(time.perf_counter() - started))

    @_returning_errors
    def map(self, work: Work) -> list[Any]:
        """Results of the calls of some work, in order."""
        assert self._executor is not None
        shared = tuple(aligned(x) if isinstance(x, np.ndarray) else x for x in work.shared)
        with self._lock:
            return self._executor.map(replace(work, shared=shared))

    def ping(self) -> None:
        """Answer."""

    def close(self) -> None:
        """Stop listening and reading ahead."""
        if self._listener is not None:
            self._listener.close()
        if self._executor is not None:
            self._executor.close()


def check_memory(problem: Problem, leaves: range, limit: int | None) -> None:
    """Refuse lanes whose pools do not fit the memory of a worker, at which Dask would pause it and then end it.

    Parameters
    ----------
    problem : Problem
    leaves : range
        What the worker is to evaluate.
    limit : int or None
        Bytes that the worker may use; None for any.
    """
    needed = problem.pool_bytes(leaves)
    if limit is None or needed <= POOLS_PART * limit:
        return
    chunks = max(term.source.chunk_nbytes for term in problem.terms)
    lanes = len({problem.leaves[i][:2] for i in leaves})
    raise DataError(
        f"a worker may use {format_bytes(limit)}, of which pools may take {POOLS_PART:.0%}, and its {lanes} lanes "
        f"would hold two pools each, {format_bytes(needed)} in all, of chunks of up to {format_bytes(chunks)}. Store "
        "the data in smaller chunks (dvi.ingest), give more workers or more memory (memory_limit=), or fewer lanes "
        "(lanes=)"
    )


@dataclass(frozen=True, slots=True)
class Block:
    """What the server returns for a block of steps; ``lost`` hosts or an ``error`` ended it early.

    Errors are returned, so that whatever is raised by a call to the server means that the server is lost.
    """

    report: Report
    lost: tuple[str, ...]
    error: Exception | None
    waits: Mapping[str, float]  # mean seconds that a step waited for each host


class ParameterServer:
    """Owns the state of a training, asks hosts for evaluations and applies them. Lives on a worker."""

    def __init__(self, training: bytes, n_leaves: int) -> None:
        self._training: Training = cloudpickle.loads(training)
        self._n_leaves = n_leaves
        self._state: State | None = None
        self._running = self._stopping = False
        self._slowest = START_SECONDS / SLOWER  # seconds of a step; a guess before the first
        self._waited: dict[str, float] = {}  # seconds in this block of steps, by host
        self._read = self._idle = 0.0  # seconds in this block of steps, of the mean host
        self._timed = False
        self._answered = 0.0  # when the last evaluation was there
        self._early: _Early | None = None
        self._lines = Lines()

    def use(self, training: bytes) -> None:
        """Go on with another training."""
        self._training = cloudpickle.loads(training)
        self._training.prepare()

    def prepare(self) -> None:
        """Compile the prior term."""
        self._training.prepare()

    async def ping(self) -> None:
        """Answer, also while steps run."""

    async def close(self) -> None:
        """End the block of steps that is under way, if one is, and wait for it."""
        self._stopping = True
        while self._running:
            await asyncio.sleep(0.001)
        self._drop_early()
        self._lines.close()

    async def run(self, state: State | None, step: int, hosts: dict[str, str], n_steps: int) -> Block:
        """Run up to ``n_steps`` steps from ``state``, or from the server's own state, which is at ``step``."""
        self._state = _aligned_state(state) if state is not None else self._state
        if self._state is None or self._state.step != step:
            raise RuntimeError(f"the server is not at step {step}")
        objectives: list[float] = []
        n_rows = 0
        lost: tuple[str, ...] = ()
        failure: Exception | None = None
        self._waited = {}
        self._read = self._idle = 0.0
        self._running = True
        started = time.perf_counter()
        try:
            while len(objectives) < n_steps and not self._stopping:
                self._state, info = await self._step(self._state, hosts)
                objectives.append(info.objective)
                n_rows += info.n_rows
        except _LostError as error:
            lost = error.addresses
            self._drop_early()
        except Exception as error:
            failure = error
            self._drop_early()
        finally:
            self._running = False
        waits = {address: waited / max(1, len(objectives)) for address, waited in self._waited.items()}
        compute = max(0.0, time.perf_counter() - started - self._read - self._idle)
        times = Times(self._read, compute, self._idle)
        return Block(Report(self._state, np.array(objectives), n_rows, times=times), lost, failure, waits)

    async def _step(self, state: State, hosts: dict[str, str]) -> tuple[State, StepInfo]:
        steps = self._training.step(state)
        answer: Any = None
        while True:
            try:
                request = steps.send(answer)
            except StopIteration as done:
                result: tuple[State, StepInfo] = done.value
                return result
            if isinstance(request, Work):
                answer = await self._share(request, hosts)
            else:
                started = time.perf_counter()
                messages = await self._evaluations(request, self._training.following(state), hosts)
                self._time(time.perf_counter() - started, [message.times for message in messages])
                nodes: dict[Node, Evaluation] = {}
                for message in messages:
                    nodes |= message.unpack()
                answer = combine(nodes, self._n_leaves)[height(self._n_leaves), 0]

    async def _evaluations(self, request: Round, following: Round | None, hosts: dict[str, str]) -> list[Message]:
        """What hosts make of a request, who have the following one, if it is known, before this one is applied."""
        early, self._early = self._early, None
        if early is not None and early.matches(request, hosts):
            asked = early.answers
        else:
            _drop(early)
            asked = self._asked(request, hosts)
        if following is not None:
            self._early = _Early(following, dict(hosts), self._asked(following, hosts))
        messages = await asked
        self._answered = time.monotonic()
        return messages

    def _asked(self, request: Round, hosts: dict[str, str]) -> asyncio.Task[list[Message]]:
        return asyncio.ensure_future(self._ask(dict.fromkeys(hosts, ("evaluate", (request.step, request.Z))), hosts))

    def _drop_early(self) -> None:
        _drop(self._early)
        self._early = None

    def _time(self, seconds: float, hosts: list[Times]) -> None:
        """Add up where the seconds of an evaluation went: what hosts did not read or compute in, they waited."""
        read = min(seconds, sum(times.read for times in hosts) / len(hosts))
        compute = sum(times.compute for times in hosts) / len(hosts)
        self._read += read
        self._idle += max(0.0, seconds - read - compute)  # of a request that was early, a part was done before

    async def _share(self, work: Work, hosts: dict[str, str]) -> list[Any]:
        """Results of some work, of which every host does a run."""
        calls = {}
        for address, run in zip(hosts, assign(len(work.items), [1] * len(hosts)), strict=True):
            if len(run):
                calls[address] = ("map", (replace(work, items=work.items[run.start : run.stop]),))
        return [result for results in await self._ask(calls, hosts) for result in results]

    async def _ask(self, calls: dict[str, tuple[str, tuple[Any, ...]]], hosts: dict[str, str]) -> list[Any]:
        """Answers to a call of each host, in order; _LostError that names all hosts that do not answer."""
        worker, started = get_worker(), time.monotonic()
        patience = max(STEP_SECONDS, SLOWER * self._slowest)

        async def timed(address: str, call: tuple[str, tuple[Any, ...]]) -> Any:
            answer = await self._answer(worker, address, hosts[address], *call, patience)
            waited = time.monotonic() - max(started, self._answered)
            self._waited[address] = self._waited.get(address, 0.0) + max(0.0, waited)
            return answer

        pending = (timed(address, call) for address, call in calls.items())
        answers = await asyncio.gather(*pending, return_exceptions=True)
        lost = [a for answer in answers if isinstance(answer, _LostError) for a in answer.addresses]
        if lost:
            raise _LostError(*lost)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        elapsed = time.monotonic() - started
        self._slowest = max(elapsed, self._slowest if self._timed else 0.0)
        self._timed = True
        return answers

    async def _answer(
        self, worker: Worker, address: str, key: str, method: str, arguments: tuple[Any, ...], seconds: float
    ) -> Any:
        """What a host returns, asked over a line where there is one."""
        line = None
        if method == "evaluate":
            line = await self._lines.to(key, lambda: _call(worker, address, key, "line", (), seconds))
        if line is None:
            return await _call(worker, address, key, method, arguments, seconds)
        try:
            answer = await asyncio.wait_for(line.ask(*arguments), seconds)
        except (OSError, TimeoutError) as error:
            line.close()
            raise _LostError(address) from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _aligned_state(state: State) -> State:
    """A state that came off the wire, its arrays where sums run in the order in which they do elsewhere."""
    groups = (state.slots, state.average, state.curvature, state.behind)
    slots, average, curvature, behind = (tuple(map(aligned, group)) for group in groups)
    return State(state.step, aligned(state.theta), slots, average, aligned(state.rate), curvature, behind)


@dataclass(frozen=True, slots=True)
class _Early:
    """A request that was sent before the step before it was done."""

    request: Round
    hosts: dict[str, str]
    answers: asyncio.Task[list[Message]]

    def matches(self, request: Round, hosts: dict[str, str]) -> bool:
        """Whether its answers are those to a request."""
        same_hosts = list(self.hosts.items()) == list(hosts.items())  # lanes go by their order
        return same_hosts and self.request.step == request.step and np.array_equal(self.request.Z, request.Z)


def _drop(early: _Early | None) -> None:
    """Do not wait for answers, nor hear of a host that is lost meanwhile: who asks it next will."""
    if early is not None and not early.answers.cancel() and not early.answers.cancelled():
        early.answers.exception()


class _LostError(Exception):
    """Hosts that cannot be reached, do not answer in time, or have forgotten their actors."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.addresses = addresses


async def _call(worker: Worker, address: str, key: str, method: str, arguments: tuple[Any, ...], seconds: float) -> Any:
    """Ask the host on another worker.

    Spoken in the protocol of actors but not through :class:`distributed.Actor`, which waits for a lost actor's future
    instead of failing.
    """
    call = worker.rpc(address).actor_execute(actor=key, function=method, args=[to_serialize(a) for a in arguments])
    try:
        answer = await asyncio.wait_for(call, seconds)
    except Exception as error:
        raise _LostError(address) from error
    if answer["status"] != "OK":  # as of a worker that retires and takes no more work
        raise _LostError(address) from answer["exception"]
    if isinstance(answer["result"], Exception):
        raise answer["result"]
    return answer["result"]
