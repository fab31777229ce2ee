"""The parameter server, which owns the state of a training and asks the hosts. Lives on one worker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np
from distributed import get_worker

from dvi.execution.cluster.asking import Asked, Asking, Call, LostError
from dvi.execution.stepping import step_of
from dvi.execution.tree import Message, Node, aligned, assign, combine, height
from dvi.types import Evaluation, Report, Round, State, StepInfo, Times, Training, Work


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
    """Owns the state of a training, asks hosts for evaluations and applies them. Lives on a worker.

    Steps run in a thread of their own, so that the event loop of the worker answers meanwhile. That thread does what a
    host of the same process is asked for, while the others work.
    """

    def __init__(self, training: bytes, n_leaves: int) -> None:
        self._training: Training = cloudpickle.loads(training)
        self._n_leaves = n_leaves
        self._state: State | None = None
        self._running = self._stopping = False
        self._read = self._idle = 0.0  # seconds in this block of steps, of the mean host
        self._early: _Early | None = None
        self._hosts = Asking(get_worker())

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
        self._early = None
        self._hosts.close()

    async def run(self, state: State | None, step: int, hosts: dict[str, str], n_steps: int) -> Block:
        """Run up to ``n_steps`` steps from ``state``, or from the server's own state, which is at ``step``."""
        self._state = _aligned_state(state) if state is not None else self._state
        if self._state is None or self._state.step != step:
            raise RuntimeError(f"the server is not at step {step}")
        self._running = True
        try:
            return await _in_thread(lambda: self._run(hosts, n_steps))
        finally:
            self._running = False

    def _run(self, hosts: dict[str, str], n_steps: int) -> Block:
        assert self._state is not None
        objectives: list[float] = []
        n_rows = 0
        lost: tuple[str, ...] = ()
        failure: Exception | None = None
        self._hosts.waited.clear()
        self._read = self._idle = 0.0
        started = time.perf_counter()
        try:
            while len(objectives) < n_steps and not self._stopping:
                self._state, info = self._step(self._state, hosts)
                objectives.append(info.objective)
                n_rows += info.n_rows
        except LostError as error:
            lost = error.addresses
        except Exception as error:
            failure = error
        if lost or failure is not None:
            self._early = None
        waits = {address: waited / max(1, len(objectives)) for address, waited in self._hosts.waited.items()}
        compute = max(0.0, time.perf_counter() - started - self._read - self._idle)
        times = Times(self._read, compute, self._idle)
        return Block(Report(self._state, np.array(objectives), n_rows, times=times), lost, failure, waits)

    def _step(self, state: State, hosts: dict[str, str]) -> tuple[State, StepInfo]:
        following = self._training.following(state)

        def answer(request: Round | Work) -> Any:
            if isinstance(request, Work):
                return self._share(request, hosts)
            started = time.perf_counter()
            messages = self._evaluations(request, following, hosts)
            self._time(time.perf_counter() - started, [message.times for message in messages])
            nodes: dict[Node, Evaluation] = {}
            for message in messages:
                nodes |= message.unpack()
            return combine(nodes, self._n_leaves)[height(self._n_leaves), 0]

        return step_of(self._training, state, answer)

    def _evaluations(self, request: Round, following: Round | None, hosts: dict[str, str]) -> list[Message]:
        """What hosts make of a request, who have the following one, if it is known, before this one is applied."""
        early, self._early = self._early, None
        if early is not None and early.matches(request, hosts):
            asked = early.asked
        else:
            asked = self._ask(request, hosts)
            self._hosts.flush(asked)
        if following is not None:
            self._early = _Early(following, dict(hosts), self._ask(following, hosts))
        return self._hosts.answers(asked)

    def _ask(self, request: Round, hosts: dict[str, str]) -> Asked:
        arguments = (request.step, request.Z)
        return self._hosts.ask({address: Call(key, "evaluate", arguments) for address, key in hosts.items()})

    def _time(self, seconds: float, hosts: list[Times]) -> None:
        """Add up where the seconds of an evaluation went: what hosts did not read or compute in, they waited."""
        read = min(seconds, sum(times.read for times in hosts) / len(hosts))
        compute = sum(times.compute for times in hosts) / len(hosts)
        self._read += read
        self._idle += max(0.0, seconds - read - compute)  # of a request that was early, a part was done before

    def _share(self, work: Work, hosts: dict[str, str]) -> list[Any]:
        """Results of some work, of which every host does a run."""
        calls = {}
        for (address, key), run in zip(hosts.items(), assign([1.0] * len(work.items), [1] * len(hosts)), strict=True):
            if len(run):
                calls[address] = Call(key, "map", (replace(work, items=work.items[run.start : run.stop]),))
        return [result for results in self._hosts.answers(self._hosts.ask(calls)) for result in results]


async def _in_thread[T](function: Callable[[], T]) -> T:
    """What a function returns, of which the end of the process does not wait."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="dvi-server", daemon=True).start()
    return await asyncio.shield(asyncio.wrap_future(result))


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
    asked: Asked

    def matches(self, request: Round, hosts: dict[str, str]) -> bool:
        """Whether its answers are those to a request."""
        same_hosts = list(self.hosts.items()) == list(hosts.items())  # lanes go by their order
        return same_hosts and self.request.step == request.step and np.array_equal(self.request.Z, request.Z)
