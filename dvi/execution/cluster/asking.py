"""How the server asks hosts: one of its own process at once, one of its machine over a line, any other by Dask."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from distributed import Worker
from distributed.protocol.serialize import to_serialize

from dvi.execution.cluster.lines import Line, Lines, Spin, exchange
from dvi.execution.tree import Message

START_SECONDS = 600.0  # to compile and to read the first rows
STEP_SECONDS = 10.0  # or SLOWER times the slowest step so far, after which a host that does not answer is given up
SLOWER = 20.0


class LostError(Exception):
    """Hosts that cannot be reached, do not answer in time, or have forgotten their actors."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.addresses = addresses


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a method of the host that is the actor of a key."""

    key: str
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """Hosts that were asked, by the addresses of their workers.

    Parameters
    ----------
    calls : mapping of str to Call
    at, deadline : float
        When they were asked, and until when they have to answer.
    lines : dict of str to Line
        Over which some of them were.
    answers : dict of str to Future
        Of all but a host of this process, which is asked when its answer is wanted.
    arrived : dict of str to float
        When those answers came that came by Dask.
    """

    calls: Mapping[str, Call]
    at: float
    deadline: float
    lines: dict[str, Line] = field(default_factory=dict)
    answers: dict[str, Future[Any]] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)

    def is_own(self, address: str) -> bool:
        """Whether a host is one of this process."""
        return address not in self.answers


class Asking:
    """The hosts as a server sees them. Used by one thread, which is not that of Dask's event loop.

    Parameters
    ----------
    worker : distributed.Worker
        Of the server.

    Attributes
    ----------
    waited : dict of str to float
        Seconds that answers took, by host, until somebody clears it.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        loop: Any = worker.loop  # of Tornado, whose types do not tell that it is one of asyncio
        self._loop: asyncio.AbstractEventLoop = loop.asyncio_loop
        self._lines, self._spin = Lines(), Spin()
        self._slowest = START_SECONDS / SLOWER  # seconds that answers took; a guess before the first
        self._timed = False
        self._answered = 0.0  # when the last answers were there
        self.waited: dict[str, float] = defaultdict(float)

    def ask(self, calls: Mapping[str, Call]) -> Asked:
        """Send a call to each host, and wait for no answer."""
        now = time.monotonic()
        patience = max(STEP_SECONDS, SLOWER * self._slowest)
        asked = Asked(calls, now, now + patience)
        for address, call in calls.items():
            if self._own(address, call) is None:
                self._send(asked, address, call, patience)
        return asked

    def flush(self, asked: Asked) -> None:
        """Wait until whoever was asked over a line has all of the request."""
        exchange(asked.lines.values(), (), asked.deadline, self._spin)

    def answers(self, asked: Asked) -> list[Any]:
        """The answers, in the order of the calls.

        Raises
        ------
        LostError
            That names all hosts that do not answer.
        Exception
            That a host has returned.
        """
        found = {address: self._done(address, call) for address, call in asked.calls.items() if asked.is_own(address)}
        exchange(asked.lines.values(), [asked.answers[address] for address in asked.lines], asked.deadline, self._spin)
        found |= {address: self._answer(asked, address) for address in asked.answers}
        answers = [found[address] for address in asked.calls]
        lost = [a for answer in answers if isinstance(answer, LostError) for a in answer.addresses]
        if lost:
            raise LostError(*lost)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        self._answered = time.monotonic()
        self._slowest = max(self._answered - asked.at, self._slowest if self._timed else 0.0)
        self._timed = True
        return answers

    def close(self) -> None:
        """Close all lines."""
        self._lines.close()

    def _own(self, address: str, call: Call) -> Any:
        """The actor of a host of this process, None of any other."""
        return self._worker.state.actors.get(call.key) if address == self._worker.address else None

    def _done(self, address: str, call: Call) -> Any:
        """What a host of this process returns."""
        started = time.monotonic()
        answer = getattr(self._own(address, call), call.method)(*call.arguments)
        self.waited[address] += time.monotonic() - started
        return answer

    def _send(self, asked: Asked, address: str, call: Call, seconds: float) -> None:
        if call.method == "evaluate":
            where = Call(call.key, "line", ())
            try:
                line = self._lines.to(call.key, lambda: self._by_dask(address, where, seconds).result())
            except LostError as error:
                asked.answers[address] = Future()
                asked.answers[address].set_exception(error)
                return
            if line is not None:
                asked.lines[address], asked.answers[address] = line, line.ask(*call.arguments)
                return
        asked.answers[address] = self._by_dask(address, call, seconds)
        asked.answers[address].add_done_callback(lambda _: asked.arrived.setdefault(address, time.monotonic()))

    def _by_dask(self, address: str, call: Call, seconds: float) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(_called(self._worker, address, call, seconds), self._loop)

    def _answer(self, asked: Asked, address: str) -> Any:
        """What a host has returned over a line, or returns by Dask, or LostError."""
        line, answer = asked.lines.get(address), asked.answers[address]
        if line is not None and not answer.done():
            line.close()
        try:
            result = answer.result()
        except (LostError, ConnectionError):
            return LostError(address)
        if isinstance(result, Message) and line is not None:  # which may have come while this thread did something else
            self.waited[address] += result.times.total
        elif line is None:
            arrived = asked.arrived.get(address, time.monotonic())
            self.waited[address] += max(0.0, arrived - max(asked.at, self._answered))
        return result


async def _called(worker: Worker, address: str, call: Call, seconds: float) -> Any:
    """What the host on another worker returns.

    Spoken in the protocol of actors but not through :class:`distributed.Actor`, which waits for a lost actor's future
    instead of failing.
    """
    arguments = [to_serialize(argument) for argument in call.arguments]
    asked = worker.rpc(address).actor_execute(actor=call.key, function=call.method, args=arguments)
    try:
        answer = await asyncio.wait_for(asked, seconds)
    except Exception as error:
        raise LostError(address) from error
    if answer["status"] != "OK":  # as of a worker that retires and takes no more work
        raise LostError(address) from answer["exception"]
    return answer["result"]
