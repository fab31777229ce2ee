"""Requests to hosts on the machine of the server, over sockets of their own, which take less time than Dask's messages.

A host listens in the folder of its worker, to its own user alone, and says where. A server that finds the socket asks
over it for evaluations, one after the other or several at once, which are answered in their order; another server, on
another machine, goes on with Dask's messages. Requests hold numbers alone; an answer is a pickle of a few integers, or
of an error, and an array.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import socket
import struct
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Collection, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dvi.execution.tree import Message
from dvi.types import FloatArray

type Answer = Message | Exception

_REQUEST = struct.Struct("<qqq")  # step, draws, dimensions
_ANSWER = struct.Struct("<qq")  # bytes of the record, and of the array
_SHORT = 65_536  # bytes
_SPIN_SECONDS = 1e-3
_MOST_SLEEPS = 512
_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


@dataclass(slots=True)
class Spin:
    """Waits by looking again and again for a millisecond, before it sleeps, where that has paid lately.

    A thread that sleeps takes some 0.1 ms to be woken, and finds its core at rest. Where nothing has come while it
    looked, it sleeps at once the next 2 times, then 4, 8 and so on.

    Parameters
    ----------
    sleeps : int
        Times that it sleeps at once after it has looked in vain.
    left : int
        Of which so many are left.
    """

    sleeps: int = 1
    left: int = 0

    def poll(self, polling: select.poll, milliseconds: float | None = None) -> list[tuple[int, int]]:
        """What a poll object finds within some time; as long as it takes by default."""
        if self.left:
            self.left -= 1
            return polling.poll(milliseconds)
        until = time.perf_counter() + _SPIN_SECONDS
        while time.perf_counter() < until:
            if ready := polling.poll(0):
                self.sleeps = 1
                return ready
            _yield()
        self.left = self.sleeps = min(2 * self.sleeps, _MOST_SLEEPS)
        return polling.poll(milliseconds)


class Listener:
    """Answers requests over a socket, one thread for each server, until it is closed or nobody has it any more.

    Parameters
    ----------
    answer : bound method
        Of step and draws ``(S, d)``. It is not kept alive.
    folder : str
        Of this process, on a disk of this machine.
    """

    def __init__(self, answer: Callable[[int, FloatArray], Answer], folder: str) -> None:
        self.path = str(Path(folder) / f"dvi-{uuid.uuid4().hex[:12]}")
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(self.path)
            Path(self.path).chmod(0o600)
            listening.listen()
        except OSError:
            listening.close()
            raise
        self._close = weakref.finalize(self, _stop, listening, self.path)
        method = weakref.WeakMethod(answer)
        threading.Thread(target=_accept, args=(listening, method), name="dvi-line", daemon=True).start()

    def close(self) -> None:
        """Take no more servers; those that are connected are answered until they go."""
        self._close()


def listen(answer: Callable[[int, FloatArray], Answer], folder: str) -> Listener | None:
    """A listener; None where there can be none, as where the name of the folder is too long."""
    try:
        return Listener(answer, folder)
    except (OSError, AttributeError):
        return None


def _stop(listening: socket.socket, path: str) -> None:
    with contextlib.suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)  # which wakes the thread that accepts
    listening.close()
    Path(path).unlink(missing_ok=True)


def _accept(listening: socket.socket, method: weakref.WeakMethod[Callable[[int, FloatArray], Answer]]) -> None:
    while True:
        try:
            server, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(server, method), name="dvi-line", daemon=True).start()


def _serve(server: socket.socket, method: weakref.WeakMethod[Callable[[int, FloatArray], Answer]]) -> None:
    """Answer one server until it goes, or the host does."""
    spin, polling = Spin(), select.poll()
    polling.register(server, select.POLLIN)
    with server:
        try:
            while True:
                spin.poll(polling)
                step, draws, d = _REQUEST.unpack(_received(server, bytearray(_REQUEST.size)))
                Z = np.empty((draws, d))
                _received(server, Z)
                answer = method()
                if answer is None:
                    return
                found = answer(step, Z)
                del answer
                record, array = _packed(found)
                for part in _parts(_ANSWER.pack(len(record), array.nbytes) + record, array):
                    server.sendall(part)
        except (OSError, EOFError):
            return


def _received[T: bytearray | FloatArray](connection: socket.socket, into: T) -> T:
    left = _bytes_of(into)
    while left:
        n = connection.recv_into(left)
        if n == 0:
            raise EOFError
        left = left[n:]
    return into


def _bytes_of(data: Any) -> memoryview:
    return memoryview(data).cast("B")


def _parts(head: bytes, array: FloatArray) -> list[bytes | memoryview]:
    """A message as it is sent: at once where it is short, as whoever waits is woken for every part."""
    rest = _bytes_of(array)
    return [head + bytes(rest)] if len(rest) <= _SHORT else [head, rest]


def _packed(answer: Answer) -> tuple[bytes, FloatArray]:
    if isinstance(answer, Message):
        array = np.ascontiguousarray(answer.packed)
        return pickle.dumps((answer.nodes, answer.n_rows, answer.times, array.shape)), array
    try:
        text = pickle.dumps(answer)
        pickle.loads(text)  # not every error that can be written can be read
    except Exception:
        text = pickle.dumps(RuntimeError(repr(answer)))
    return text, np.empty(0)


class Line:
    """Requests to one host. Whatever ends it, all that wait get a ConnectionError.

    It takes what the socket takes, and gives what there is; :func:`exchange` waits.

    Parameters
    ----------
    connection : socket
        Connected.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._unsent: deque[memoryview] = deque()
        self._waiting: deque[Future[Answer]] = deque()
        self._buffers = self._answers()
        self._empty = next(self._buffers)  # the rest of what is to be received next
        self.closed = False

    def fileno(self) -> int:
        """Of the socket."""
        return self._connection.fileno()

    @property
    def sends(self) -> bool:
        """Whether something is left to be sent."""
        return bool(self._unsent) and not self.closed

    def ask(self, step: int, Z: FloatArray) -> Future[Answer]:
        """What the host will make of draws ``(S, d)``, which stay as they are until they are sent."""
        answer: Future[Answer] = Future()
        if self.closed:
            answer.set_exception(ConnectionError())
            return answer
        self._waiting.append(answer)
        self._unsent.extend(map(_bytes_of, _parts(_REQUEST.pack(step, *Z.shape), np.ascontiguousarray(Z))))
        self.send()
        return answer

    def send(self) -> None:
        """Send as much as the socket takes."""
        try:
            while self._unsent:
                part = self._unsent.popleft()
                n = self._connection.send(part)
                if n < len(part):
                    self._unsent.appendleft(part[n:])
        except BlockingIOError:
            self._unsent.appendleft(part)
        except OSError:
            self.close()

    def receive(self) -> None:
        """Receive what there is."""
        try:
            while n := self._connection.recv_into(self._empty):
                self._empty = self._empty[n:] or next(self._buffers)
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    def _answers(self) -> Generator[memoryview]:
        """Buffers to be filled, one after the other."""
        while True:
            sizes = bytearray(_ANSWER.size)
            yield _bytes_of(sizes)
            n_record, n_array = _ANSWER.unpack(sizes)
            text = bytearray(n_record)
            yield _bytes_of(text)
            record = pickle.loads(text)
            if n_array:
                nodes, n_rows, times, shape = record
                array = np.empty(shape)
                yield _bytes_of(array)
                record = Message(nodes, n_rows, array, times)
            self._waiting.popleft().set_result(record)

    def close(self) -> None:
        """Ask no more."""
        self.closed = True
        self._connection.close()
        while self._waiting:
            self._waiting.popleft().set_exception(ConnectionError())


def exchange(lines: Collection[Line], answers: Collection[Future[Answer]], deadline: float, spin: Spin) -> None:
    """Send all that is unsent and wait for answers, but no longer than to a time of the monotonic clock."""
    while not all(answer.done() for answer in answers) or any(line.sends for line in lines):
        polling = select.poll()
        known = {line.fileno(): line for line in lines if not line.closed}
        for number, line in known.items():
            polling.register(number, select.POLLIN | (select.POLLOUT if line.sends else 0))
        ready = spin.poll(polling, 1e3 * max(0.0, deadline - time.monotonic()))
        if not ready:
            return
        for number, events in ready:
            if events & select.POLLOUT:
                known[number].send()
            if events & ~select.POLLOUT:
                known[number].receive()


class Lines:
    """The lines of a server, opened when a host is first asked."""

    def __init__(self) -> None:
        self._known: dict[str, Line | None] = {}

    def to(self, host: str, where: Callable[[], str | None]) -> Line | None:
        """The line to a host, a new one where it was closed; None where there is none.

        Parameters
        ----------
        host : str
        where : callable
            Asks the host where it listens.
        """
        line = self._known.get(host)
        if host not in self._known or (line is not None and line.closed):
            line = self._known[host] = _opened(where())
        return line

    def close(self) -> None:
        """Close them all."""
        for line in filter(None, self._known.values()):
            line.close()
        self._known.clear()


def _opened(path: str | None) -> Line | None:
    if path is None:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:  # of another machine, most likely
        connection.close()
        return None
    return Line(connection)
