"""A parameter server and lane hosts as Dask actors. The only file that imports distributed.

The client makes one :class:`LaneHost` on every worker and one :class:`ParameterServer`, gives lanes to hosts, and asks
the server for blocks of steps. The server asks the hosts directly, so no step is a task. Whatever is lost, the client
makes again from the last state it holds, and the same steps give the same bits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
from distributed import Actor, Client, Future, Worker, default_client, get_worker
from distributed.protocol.serialize import to_serialize

from dvi.errors import ClusterError
from dvi.execution.lane import Problem, tune_allocator
from dvi.execution.threads import ThreadsExecutor
from dvi.execution.tree import Message, Node, assign, combine, height
from dvi.types import Evaluation, FloatArray, Report, Round, State, Training

logger = logging.getLogger(__name__)

START_SECONDS = 600.0  # to compile and to read the first rows
STEP_SECONDS = 30.0  # after which a host that does not answer is given up
HEAL_SECONDS = 60.0  # to wait for a worker when none is left
MOST_LOSSES = 20  # without a step done between them
_LOOK_SECONDS = 1.0  # between looks for workers that joined
_LOST = (OSError, RuntimeError, asyncio.TimeoutError, TimeoutError)


class LaneHost:
    """Evaluates the lanes it was given, with the threads of its worker. Lives on a worker."""

    def __init__(self, problem: bytes) -> None:
        tune_allocator()
        self._problem: Problem = cloudpickle.loads(problem)
        self._executor: ThreadsExecutor | None = None
        self._leaves = range(0)

    def prepare(self, leaves: range, Z: FloatArray, pieces: dict[int, dict[int, Any]]) -> Exception | None:
        """Compile, take over lanes, and try the likelihood on their first rows. Errors are returned.

        Parameters
        ----------
        leaves : range
        Z : array, shape (S, d)
        pieces : dict
            Rows of arrays that only the client holds, by term and chunk.
        """
        try:
            self._prepare(leaves, Z, pieces)
        except Exception as error:
            return error
        return None

    def _prepare(self, leaves: range, Z: FloatArray, pieces: dict[int, dict[int, Any]]) -> None:
        if self._executor is None:
            self._executor = ThreadsExecutor(self._problem, max(1, get_worker().state.nthreads))
        evaluator = self._executor.evaluator
        for term, chunks in pieces.items():
            owned = {c: {n: np.array(a) for n, a in arrays.items()} for c, arrays in chunks.items()}
            evaluator.use(term, self._problem.terms[term].source.with_pieces(owned))
        evaluator.drop(set(self._leaves) - set(leaves))
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
class _Block:
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

    def prepare(self) -> None:
        """Compile the prior term."""
        self._training.prepare()

    async def stop(self) -> None:
        """End the block of steps that is under way, if one is, and wait for it."""
        self._stopping = True
        while self._running:
            await asyncio.sleep(0.001)

    async def run(self, state: State | None, step: int, hosts: dict[str, str], n_steps: int) -> _Block:
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
        return _Block(Report(self._state, np.array(elbos), n_rows), lost, failure)

    async def _ask(self, round: Round, hosts: dict[str, str]) -> tuple[Evaluation | None, tuple[str, ...]]:
        worker = get_worker()
        calls = (_evaluate(worker, address, key, round) for address, key in hosts.items())
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
        return (None, tuple(lost)) if lost else (combine(nodes, self._n_leaves)[height(self._n_leaves), 0], ())


class _LostError(Exception):
    """A host that cannot be reached, does not answer in time, or has forgotten its actor."""


async def _evaluate(worker: Worker, address: str, key: str, round: Round) -> Message:
    """Ask the host on another worker for its evaluation.

    Spoken in the protocol of actors but not through :class:`distributed.Actor`, which waits for a lost actor's future
    instead of failing.
    """
    call = worker.rpc(address).actor_execute(
        actor=key, function="evaluate", args=[to_serialize(round.step), to_serialize(round.Z)]
    )
    try:
        answer = await asyncio.wait_for(call, STEP_SECONDS)
    except Exception as error:
        raise _LostError(address) from error
    if answer["status"] != "OK":
        raise answer["exception"]
    message: Message = answer["result"]
    return message


@dataclass(slots=True)
class _Placed:
    """An actor, the future that keeps it alive, and the worker it is on."""

    address: str
    future: Future[Any]
    actor: Actor
    leaves: range = range(0)


class ClusterDriver:
    """Steps of a training on the workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    training : Training
    problem : Problem
    """

    def __init__(self, client: Client, training: Training, problem: Problem) -> None:
        if client.asynchronous:
            raise ClusterError("the Dask client is asynchronous; give fit() one made without asynchronous=True")
        self._client = client
        self._training_bytes = cloudpickle.dumps(training)
        self._training = training
        self._problem = problem
        self._problem_bytes = cloudpickle.dumps(problem)
        self._hosts: dict[str, _Placed] = {}
        self._server: _Placed | None = None
        self._at: int | None = None  # step of the server's own state
        self._looked = 0.0
        self._missing = True  # whether lanes have to be given out again
        self._trouble = "no worker had a lane"

    @property
    def n_hosts(self) -> int:
        return len(self._hosts)

    def check(self, state: State) -> None:
        """Place actors, compile, and try the likelihood on the first rows."""
        self._place(state)

    def advance(self, state: State, n_steps: int) -> Report:
        """Run ``n_steps`` steps from a state, healing what is lost on the way."""
        elbos: list[FloatArray] = []
        n_rows, target, fruitless = 0, state.step + n_steps, 0
        while state.step < target:
            self._place(state)
            block = self._run(state, target - state.step)
            fruitless = 0 if block is not None and block.report.state.step > state.step else fruitless + 1
            if fruitless > MOST_LOSSES:
                raise ClusterError(
                    f"no step could be done in {fruitless} attempts, at step {state.step}: {self._trouble}; the logs "
                    "of the workers say more: often the package is not installed there, or memory runs out"
                )
            if block is None:
                continue
            state = block.report.state
            elbos.append(block.report.elbos)
            n_rows += block.report.n_rows
            for address in block.lost:
                self._note("the lane host went away", address, f"step {state.step}")
                self._forget(address)
        return Report(state, np.concatenate(elbos), n_rows)

    def _run(self, state: State, n_steps: int) -> _Block | None:
        """A block of steps from the server, or None if the server is lost."""
        if self._server is None or self._missing:
            time.sleep(0.1)
            return None
        sent = None if self._at == state.step else state
        hosts = {address: str(placed.actor.key) for address, placed in self._hosts.items() if len(placed.leaves)}
        limit = START_SECONDS + n_steps * STEP_SECONDS
        try:
            call = self._server.actor.run(sent, state.step, hosts, n_steps)
            block: _Block = self._await(call, self._server.address, limit)
        except _LOST as error:
            self._note("the parameter server went away", self._server.address, f"step {state.step}: {error}")
            self._server, self._at = None, None
            return None
        if block.error is not None:
            raise block.error
        self._at = block.report.state.step
        return block

    def _await(self, call: Any, address: str, seconds: float) -> Any:
        """The result of a call to a worker, or TimeoutError as soon as the worker is gone: a call may hang for ever."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return call.result(timeout=_LOOK_SECONDS)
            except TimeoutError:
                if call.done():
                    raise
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer within {seconds:.0f} s") from None
                if address not in self._workers():
                    raise TimeoutError("the worker is gone") from None

    def _workers(self) -> dict[str, int]:
        """Threads of every live worker by address."""
        return {str(a): int(n) for a, n in sorted(self._client.nthreads().items())}

    def _place(self, state: State) -> None:
        """Make sure that every worker has a host with its share of lanes, and one the server."""
        now = time.monotonic()
        whole = self._server is not None and bool(self._hosts)
        if whole and now - self._looked < _LOOK_SECONDS and not self._missing:
            return
        self._looked = now
        workers = self._wait_for_workers()
        for address in [a for a in self._hosts if a not in workers or self._hosts[a].future.status == "error"]:
            self._forget(address)
        lost = self._server is None or self._server.address not in workers or self._server.future.status == "error"
        preparing = self._start_server(list(workers)[-1]) if lost else None
        if set(self._hosts) != set(workers) or self._missing:
            self._settle(state, workers)
        if preparing is not None:
            self._finish_server(preparing, list(workers)[-1])

    def _wait_for_workers(self) -> dict[str, int]:
        deadline = time.monotonic() + HEAL_SECONDS
        while not (workers := self._workers()):
            if time.monotonic() > deadline:
                address = self._client.scheduler_info()["address"]
                raise ClusterError(
                    f"the Dask cluster at {address} had no worker for {HEAL_SECONDS:.0f} s; "
                    "start workers (cluster.scale(n)) and run the fit again, or resume it from a checkpoint"
                )
            time.sleep(0.1)
        return workers

    def _settle(self, state: State, workers: dict[str, int]) -> None:
        """Give every worker a host and every host its lanes."""
        fresh = {a: self._submit(LaneHost, a, self._problem_bytes) for a in workers if a not in self._hosts}
        for address, future in fresh.items():
            placed = self._placed(address, future)
            if placed is not None:
                self._hosts[address] = placed
        Z = self._training.round(state).Z
        runs = assign(len(self._problem.leaves), [workers[a] for a in self._hosts])
        calls = {}
        for placed, run in zip(self._hosts.values(), runs, strict=True):
            placed.leaves = run
            calls[placed.address] = placed.actor.prepare(run, Z, self._pieces(run))
        self._missing = not self._hosts
        for address, call in calls.items():
            try:
                failure = self._await(call, address, START_SECONDS)
            except _LOST as error:
                self._note("the lane host could not start", address, error)
                self._forget(address)
            else:
                if failure is not None:
                    raise failure

    def _pieces(self, run: range) -> dict[int, dict[int, Any]]:
        """Rows that only this process holds, for the chunks of some leaves."""
        pieces: dict[int, dict[int, Any]] = {}
        for i in run:
            leaf = self._problem.leaves[i]
            term = self._problem.terms[leaf.term]
            if term.source.in_memory:
                chunks = pieces.setdefault(leaf.term, {})
                chunks.update({int(c): term.source.pieces(int(c)) for c in term.plan.chunks(leaf.lane)})
        return pieces

    def _start_server(self, address: str) -> Any:
        """Make a server, and begin to compile the prior term while the hosts compile theirs."""
        future = self._submit(ParameterServer, address, self._training_bytes, len(self._problem.leaves))
        self._server, self._at = self._placed(address, future), None
        return None if self._server is None else self._server.actor.prepare()

    def _finish_server(self, preparing: Any, address: str) -> None:
        try:
            self._await(preparing, address, START_SECONDS)
        except _LOST as error:
            self._note("the parameter server could not start", address, error)
            self._server = None

    def _submit(self, cls: type[Any], address: str, *arguments: Any) -> Future[Any]:
        return self._client.submit(
            cls, *arguments, actor=True, workers=[address], allow_other_workers=False, pure=False, retries=0
        )

    def _placed(self, address: str, future: Future[Any]) -> _Placed | None:
        try:
            return _Placed(address, future, self._await(future, address, START_SECONDS))
        except Exception as error:
            self._note("no actor could be made", address, error)
            return None

    def _note(self, what: str, address: str, error: object) -> None:
        """Remember and log what went wrong on a worker."""
        self._trouble = f"{what} on {address}: {error}"
        logger.warning("%s", self._trouble)

    def _forget(self, address: str) -> None:
        self._hosts.pop(address).future.release()
        self._missing = True
        if self._server is not None and self._server.address == address:
            self._looked = 0.0

    def close(self) -> None:
        """Stop the server and release the actors."""
        if self._server is not None and self._server.future.status == "finished":
            with contextlib.suppress(*_LOST):
                self._await(self._server.actor.stop(), self._server.address, STEP_SECONDS)
        for placed in self._hosts.values():
            placed.future.release()
        if self._server is not None:
            self._server.future.release()
        self._hosts, self._server = {}, None


def active_client() -> Client | None:
    """The Dask client of this process, if there is one."""
    try:
        client: Client = default_client()
        return client
    except ValueError:
        return None
