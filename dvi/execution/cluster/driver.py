"""The client's side: places actors on workers, gives lanes to hosts, asks the server for blocks of steps, and heals."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Concatenate

import cloudpickle
import numpy as np
from distributed import Actor, Client, Future, default_client

from dvi.errors import ClusterError, DviWarning
from dvi.execution.cluster import dashboard
from dvi.execution.cluster.asking import START_SECONDS, STEP_SECONDS
from dvi.execution.cluster.host import LaneHost
from dvi.execution.cluster.server import Block, ParameterServer
from dvi.execution.cluster.workers import live_workers, wait_for_workers
from dvi.execution.lane import Problem
from dvi.execution.tree import assign
from dvi.types import FloatArray, Report, State, Times, Training

logger = logging.getLogger(__name__)

MOST_LOSSES = 20  # without a step done between them
LARGE_BYTES = 1e9  # of arrays in this process, above which a store serves better
_LOOK_SECONDS = 1.0  # between looks for workers that joined
_AT_ONCE = 4  # chunks on their way to a host
_LOST = (OSError, RuntimeError, TimeoutError)


@dataclass(frozen=True, slots=True)
class _Probe:
    """A call of which only the answer matters, and when it was made."""

    call: Any
    asked: float

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self.asked > STEP_SECONDS


@dataclass(slots=True)
class _Placed:
    """An actor, the future that keeps it alive, and the worker it is on."""

    address: str
    future: Future[Any]
    actor: Actor
    leaves: range = range(0)
    delivered: set[tuple[int, int]] = field(default_factory=set)  # chunks by term
    probe: _Probe | None = None  # since when it is not known to answer

    def call(self, method: str, *arguments: Any) -> Any:
        """An answer to wait for; where the worker is known to be lost, waiting for it raises what the actor does."""
        try:
            return getattr(self.actor, method)(*arguments)
        except RuntimeError as error:
            failed: concurrent.futures.Future[Any] = concurrent.futures.Future()
            failed.set_exception(error)
            return failed

    def answers(self) -> bool:
        """Whether it answers; asked again and again, and never waited for."""
        if self.probe is not None and self.probe.call.done():
            self.probe = None
            return True
        if self.probe is None or self.probe.is_late:
            self.probe = _Probe(self.call("ping"), time.monotonic())
        return False


def _with_client[**P, R](
    method: Callable[Concatenate[ClusterDriver, P], R],
) -> Any:
    """A method during which the driver's client is the current one, as actors need, whatever the default is."""

    @functools.wraps(method)
    def wrapped(self: ClusterDriver, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._client.as_current():
            return method(self, *args, **kwargs)

    return wrapped


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
        _warn_of_large_arrays(problem)
        self._client = client
        dashboard.register(client)
        self._training_bytes = cloudpickle.dumps(training)
        self._training = training
        self._problem = problem
        self._problem_bytes = cloudpickle.dumps(problem)
        self._hosts: dict[str, _Placed] = {}
        self._silent: dict[str, _Placed] = {}  # hosts that were given up, on workers that Dask has not given up
        self._server: _Placed | None = None
        self._at: State | None = None  # the server's own state
        self._looked = 0.0
        self._missing = True  # whether lanes have to be given out again
        self._interrupted = False
        self._trouble = "no worker had a lane"

    @property
    def n_hosts(self) -> int:
        return len(self._hosts)

    @_with_client
    def check(self, state: State) -> None:
        """Place actors, compile, and try the likelihood on the first rows."""
        self._place(state)

    @_with_client
    def use(self, training: Training) -> None:
        """Go on with another training of the same problem."""
        self._training, self._training_bytes, self._at = training, cloudpickle.dumps(training), None
        if self._server is not None:
            try:
                self._await(self._server.call("use", self._training_bytes), self._server.address, START_SECONDS)
            except _LOST as error:
                self._note("the parameter server went away", self._server.address, error)
                self._server = None

    @_with_client
    def advance(self, state: State, n_steps: int) -> Report:
        """Run ``n_steps`` steps from a state, healing what is lost on the way."""
        objectives: list[FloatArray] = []
        n_rows, target, fruitless, times = 0, state.step + n_steps, 0, Times()
        while state.step < target and not self._interrupted:
            self._place(state)
            started = time.monotonic()
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
            objectives.append(block.report.objectives)
            n_rows += block.report.n_rows
            times += block.report.times
            lanes = {address: len(placed.leaves) for address, placed in self._hosts.items()}
            dashboard.tell(self._client, block.report, time.monotonic() - started, lanes, block.waits)
            for address in block.lost:
                self._note("the lane host went away", address, f"step {state.step}")
                self._give_up(address)
        return Report(state, np.concatenate(objectives or [np.empty(0)]), n_rows, self._interrupted, times)

    def _run(self, state: State, n_steps: int) -> Block | None:
        """A block of steps from the server, or None if the server is lost."""
        if self._server is None or self._missing:
            time.sleep(0.1)
            return None
        sent = None if self._at is state else state
        hosts = {address: str(placed.actor.key) for address, placed in self._hosts.items() if len(placed.leaves)}
        try:
            call = self._server.call("run", sent, state.step, hosts, n_steps)
            block = self._finished(call, self._server)
        except _LOST as error:
            self._note("the parameter server went away", self._server.address, f"step {state.step}: {error}")
            self._give_up(self._server.address)
            self._server, self._at = None, None
            return None
        if block.error is not None:
            raise block.error
        self._at = block.report.state
        return block

    def _finished(self, call: Any, server: _Placed) -> Block:
        """The block that the server was asked for, or as much of it as was done when the user interrupted."""
        try:
            block: Block = self._await(call, server.address, math.inf, server)
        except KeyboardInterrupt:
            self._interrupted = True
            self._await(server.call("close"), server.address, STEP_SECONDS)
            block = self._await(call, server.address, STEP_SECONDS)
        return block

    def _await(self, call: Any, address: str, seconds: float, busy: _Placed | None = None) -> Any:
        """The result of a call to a worker, or TimeoutError as soon as the worker is gone: a call may hang for ever.

        An actor that is ``busy`` for as long as it likes has to answer to other calls meanwhile.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                return call.result(timeout=_LOOK_SECONDS)
            except TimeoutError:
                if call.done():
                    raise
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer within {seconds:.0f} s") from None
                late = busy is not None and busy.probe is not None and busy.probe.is_late
                if busy is not None and not busy.answers() and late:
                    raise TimeoutError(f"no sign of life within {STEP_SECONDS:.0f} s") from None
                if address not in live_workers(self._client):
                    raise TimeoutError("the worker is gone") from None

    def _place(self, state: State) -> None:
        """Make sure that every worker has a host with its share of lanes, and one the server."""
        now = time.monotonic()
        whole = self._server is not None and bool(self._hosts)
        if whole and now - self._looked < _LOOK_SECONDS and not self._missing:
            return
        self._looked = now
        workers = self._heard(wait_for_workers(self._client))
        for address in [a for a in self._hosts if a not in workers or self._hosts[a].future.status == "error"]:
            self._forget(address)
        lost = self._server is None or self._server.address not in workers or self._server.future.status == "error"
        preparing = self._start_server(list(workers)[-1]) if lost else None
        if set(self._hosts) != set(workers) or self._missing:
            self._settle(state, workers)
        if preparing is not None:
            self._finish_server(preparing, list(workers)[-1])

    def _heard(self, workers: dict[str, int]) -> dict[str, int]:
        """The workers without those that stand still. A host that answers again has its place back."""
        for address, placed in list(self._silent.items()):
            if address not in workers or placed.future.status == "error":
                _release(self._silent.pop(address))
            elif placed.answers():
                self._hosts[address] = self._silent.pop(address)
                self._missing = True
        heard = {a: n for a, n in workers.items() if a not in self._silent}
        if heard:
            return heard
        while self._silent:  # nobody else is left to ask: wait for them
            _release(self._silent.popitem()[1])
        return workers

    def _settle(self, state: State, workers: dict[str, int]) -> None:
        """Give every worker a host and every host its lanes."""
        fresh = {a: self._submit(LaneHost, a, self._problem_bytes) for a in workers if a not in self._hosts}
        for address, future in fresh.items():
            placed = self._placed(address, future)
            if placed is not None:
                self._hosts[address] = placed
        Z = self._training.round(state).Z
        runs = assign(self._problem.costs, [workers[a] for a in self._hosts])
        calls = {}
        for placed, run in zip(self._hosts.values(), runs, strict=True):
            placed.leaves = run
            self._deliver(placed)
            calls[placed.address] = placed.call("prepare", run, Z)
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

    def _deliver(self, placed: _Placed) -> None:
        """Send a host the rows that only this process holds, chunk by chunk, for the lanes it was given."""
        needed = [k for k in self._problem.chunks(placed.leaves) if self._problem.terms[k[0]].source.in_memory]
        calls: list[Any] = []
        for term, chunk in needed:
            if (term, chunk) not in placed.delivered:
                piece = self._problem.terms[term].source.pieces(chunk)
                calls.append(placed.call("receive", term, chunk, piece))
            if len(calls) >= _AT_ONCE:
                self._settled(calls.pop(0), placed)
        for call in calls:
            self._settled(call, placed)
        placed.delivered = set(needed)

    def _settled(self, call: Any, placed: _Placed) -> None:
        """Wait for a delivery; a host that is gone is found out when it is asked to prepare."""
        with contextlib.suppress(*_LOST):
            self._await(call, placed.address, START_SECONDS)

    def _start_server(self, address: str) -> Any:
        """Make a server, and begin to compile the prior term while the hosts compile theirs."""
        future = self._submit(ParameterServer, address, self._training_bytes, len(self._problem.leaves))
        self._server, self._at = self._placed(address, future), None
        return None if self._server is None else self._server.call("prepare")

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

    def _give_up(self, address: str) -> None:
        """Go on without a host until it answers, or Dask gives up its worker."""
        if address in self._hosts:
            self._silent[address] = self._hosts.pop(address)
            self._missing = True

    def _forget(self, address: str) -> None:
        _release(self._hosts.pop(address))
        self._missing = True
        if self._server is not None and self._server.address == address:
            self._looked = 0.0

    @_with_client
    def close(self) -> None:
        """Stop the server, close the hosts and release the actors."""
        placed = [*filter(None, [self._server]), *self._hosts.values()]
        for silent in self._silent.values():
            _release(silent)
        for actor in placed:
            if actor.future.status == "finished":
                with contextlib.suppress(*_LOST):
                    self._await(actor.call("close"), actor.address, STEP_SECONDS)
        for actor in placed:
            _release(actor)
        self._hosts, self._silent, self._server = {}, {}, None


def _release(placed: _Placed) -> None:
    """Let the scheduler forget an actor: both the future that made it and the one that its proxy holds."""
    placed.future.release()
    held = placed.actor._future
    if held is not None:
        held.release()


def _warn_of_large_arrays(problem: Problem) -> None:
    for term in problem.terms:
        n_bytes = term.source.in_memory_nbytes
        if n_bytes > LARGE_BYTES:
            warnings.warn(
                f"{n_bytes / 1e9:.1f} GB of {', '.join(term.source.in_memory)} are sent from this process to the "
                "workers; dvi.ingest writes them to a store that workers read by themselves",
                DviWarning,
                stacklevel=2,
            )


def active_client() -> Client | None:
    """The Dask client of this process, if there is one."""
    try:
        client: Client = default_client()
        return client
    except ValueError:
        return None
