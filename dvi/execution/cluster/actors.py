"""What lives on the workers: lane hosts, which evaluate, and the parameter server, which asks them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import cloudpickle
import numpy as np
from distributed import Worker, get_worker
from distributed.protocol.serialize import to_serialize

from dvi.execution.lane import Problem, tune_allocator
from dvi.execution.threads import ThreadsExecutor
from dvi.execution.tree import Message, Node, combine, height
from dvi.types import AnyArray, Evaluation, FloatArray, Report, Round, State, Training

START_SECONDS = 600.0  # to compile and to read the first rows
STEP_SECONDS = 30.0  # or SLOWER times the slowest step so far, after which a host that does not answer is given up
SLOWER = 20.0

type Piece = dict[str, AnyArray]  # rows of one chunk, by array


class LaneHost:
    """Evaluates the lanes it was given, with the threads of its worker. Lives on a worker."""

    def __init__(self, problem: bytes) -> None:
        tune_allocator()
        self._problem: Problem = cloudpickle.loads(problem)
        self._executor: ThreadsExecutor | None = None
        self._leaves = range(0)
        self._pieces: dict[tuple[int, int], Piece] = {}

    def receive(self, term: int, chunk: int, piece: Piece) -> None:
        """Keep the rows of one chunk of arrays that only the client holds."""
        self._pieces[term, chunk] = piece

    def prepare(self, leaves: range, Z: FloatArray) -> Exception | None:
        """Compile, take over lanes, and try the likelihood on their first rows. Errors are returned.

        Parameters
        ----------
        leaves : range
        Z : array, shape (S, d)
        """
        try:
            self._prepare(leaves, Z)
        except Exception as error:
            return error
        return None

    def _prepare(self, leaves: range, Z: FloatArray) -> None:
        if self._executor is None:
            self._executor = ThreadsExecutor(self._problem, max(1, get_worker().state.nthreads))
        needed = set(self._problem.chunks(leaves))
        self._pieces = {key: piece for key, piece in self._pieces.items() if key in needed}
        for t, term in enumerate(self._problem.terms):
            if term.source.undelivered:
                held = {chunk: piece for (owner, chunk), piece in self._pieces.items() if owner == t}
                self._executor.evaluator.use(t, term.source.with_pieces(held))
        self._executor.evaluator.drop(set(self._leaves) - set(leaves))
        self._leaves = leaves
        self._executor.check(Round(0, np.array(Z)), leaves)

    def evaluate(self, step: int, Z: FloatArray) -> Message:
        """Complete subtrees of this host's lanes."""
        assert self._executor is not None
        return Message.pack(self._executor.partial(Round(step, np.array(Z)), self._leaves))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._executor is not None:
            self._executor.close()


@dataclass(frozen=True, slots=True)
class Block:
    """What the server returns for a block of steps; ``lost`` hosts or an ``error`` ended it early.

    Errors are returned, so that whatever is raised by a call to the server means that the server is lost.
    """

    report: Report
    lost: tuple[str, ...]
    error: Exception | None


class ParameterServer:
    """Owns the state of a training, asks hosts for evaluations and applies them. Lives on a worker."""

    def __init__(self, training: bytes, n_leaves: int) -> None:
        self._training: Training = cloudpickle.loads(training)
        self._n_leaves = n_leaves
        self._state: State | None = None
        self._running = self._stopping = False
        self._slowest = START_SECONDS / SLOWER  # seconds of a step; a guess before the first
        self._timed = False

    def prepare(self) -> None:
        """Compile the prior term."""
        self._training.prepare()

    async def close(self) -> None:
        """End the block of steps that is under way, if one is, and wait for it."""
        self._stopping = True
        while self._running:
            await asyncio.sleep(0.001)

    async def run(self, state: State | None, step: int, hosts: dict[str, str], n_steps: int) -> Block:
        """Run up to ``n_steps`` steps from ``state``, or from the server's own state, which is at ``step``."""
        self._state = state if state is not None else self._state
        if self._state is None or self._state.step != step:
            raise RuntimeError(f"the server is not at step {step}")
        elbos: list[float] = []
        n_rows = 0
        lost: tuple[str, ...] = ()
        failure: Exception | None = None
        self._running = True
        try:
            while len(elbos) < n_steps and not lost and not self._stopping:
                evaluation, lost = await self._ask(self._training.round(self._state), hosts)
                if evaluation is not None:
                    self._state, info = self._training.apply(self._state, evaluation)
                    elbos.append(info.elbo)
                    n_rows += info.n_rows
        except Exception as error:
            failure = error
        finally:
            self._running = False
        return Block(Report(self._state, np.array(elbos), n_rows), lost, failure)

    async def _ask(self, round: Round, hosts: dict[str, str]) -> tuple[Evaluation | None, tuple[str, ...]]:
        worker, started = get_worker(), time.monotonic()
        patience = max(STEP_SECONDS, SLOWER * self._slowest)
        calls = (_evaluate(worker, address, key, round, patience) for address, key in hosts.items())
        answers = await asyncio.gather(*calls, return_exceptions=True)
        lost = []
        nodes: dict[Node, Evaluation] = {}
        for address, answer in zip(hosts, answers, strict=True):
            if isinstance(answer, _LostError):
                lost.append(address)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                nodes |= answer.unpack()
        if lost:
            return None, tuple(lost)
        elapsed = time.monotonic() - started
        self._slowest = max(elapsed, self._slowest if self._timed else 0.0)
        self._timed = True
        return combine(nodes, self._n_leaves)[height(self._n_leaves), 0], ()


class _LostError(Exception):
    """A host that cannot be reached, does not answer in time, or has forgotten its actor."""


async def _evaluate(worker: Worker, address: str, key: str, round: Round, seconds: float) -> Message:
    """Ask the host on another worker for its evaluation.

    Spoken in the protocol of actors but not through :class:`distributed.Actor`, which waits for a lost actor's future
    instead of failing.
    """
    call = worker.rpc(address).actor_execute(
        actor=key, function="evaluate", args=[to_serialize(round.step), to_serialize(round.Z)]
    )
    try:
        answer = await asyncio.wait_for(call, seconds)
    except Exception as error:
        raise _LostError(address) from error
    if answer["status"] != "OK":
        raise answer["exception"]
    message: Message = answer["result"]
    return message
