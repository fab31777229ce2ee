"""Requests to hosts on the machine of the server, over sockets of their own, which take less time than Dask's messages.

A host listens in the folder of its worker, to its own user alone, and says where. A server that finds the socket asks
over it for evaluations, one after the other or several at once, which are answered in their order; another server, on
another machine, goes on with Dask's messages. Requests hold numbers alone; an answer is a pickle of a few integers, or
of an error, and an array.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import struct
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from dvi.execution.tree import Message
from dvi.types import FloatArray

type Answer = Message | Exception

_REQUEST = struct.Struct("<qqq")  # step, draws, dimensions
_ANSWER = struct.Struct("<qq")  # bytes of the record, and of the array
_SHORT = 65_536  # bytes


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
    with server:
        try:
            while True:
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
        return pickle.dumps(answer), np.empty(0)
    except Exception:
        return pickle.dumps(RuntimeError(repr(answer))), np.empty(0)


class Line:
    """Requests to one host. Whatever ends it, all that wait get a ConnectionError.

    Parameters
    ----------
    connection : socket
        Connected, and not blocking.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._loop = connection, asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._waiting: deque[asyncio.Future[Answer]] = deque()
        self.closed = False
        self._reading = asyncio.ensure_future(self._read())

    async def ask(self, step: int, Z: FloatArray) -> Answer:
        """What the host makes of draws ``(S, d)``."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        async with self._sending:
            if self.closed:
                raise ConnectionError
            self._waiting.append(answer)
            try:
                for part in _parts(_REQUEST.pack(step, *Z.shape), np.ascontiguousarray(Z)):
                    await self._loop.sock_sendall(self._connection, part)
            except BaseException:  # a part of a request is none
                answer.cancel()
                self.close()
                raise
        return await answer

    async def _read(self) -> None:
        try:
            while True:
                sizes = await self._received(bytearray(_ANSWER.size))
                n_record, n_array = _ANSWER.unpack(sizes)
                record = pickle.loads(await self._received(bytearray(n_record)))
                if n_array:
                    *rest, shape = record
                    array = np.empty(shape)
                    await self._received(array)
                    record = Message(rest[0], rest[1], array, rest[2])
                waiting = self._waiting.popleft()
                if not waiting.done():  # as one that is not waited for any more
                    waiting.set_result(record)
        except (OSError, EOFError):
            pass
        finally:
            self.close()
            async with self._sending:  # not before the loop has forgotten its number, which the next socket may have
                self._connection.close()

    async def _received[T: bytearray | FloatArray](self, into: T) -> T:
        left = _bytes_of(into)
        while left:
            n = await self._loop.sock_recv_into(self._connection, left)
            if n == 0:
                raise EOFError
            left = left[n:]
        return into

    def close(self) -> None:
        """Ask no more."""
        if self.closed:
            return
        self.closed = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # which ends what is being read and sent
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(ConnectionError())


class Lines:
    """The lines of a server, opened when a host is first asked."""

    def __init__(self) -> None:
        self._known: dict[str, asyncio.Task[Line | None]] = {}

    async def to(self, host: str, where: Callable[[], Awaitable[str | None]]) -> Line | None:
        """The line to a host, a new one where it was closed; None where there is none.

        Parameters
        ----------
        host : str
        where : callable
            Asks the host where it listens.
        """
        opening = self._known.get(host)
        if opening is None or _is_over(opening):
            opening = self._known[host] = asyncio.ensure_future(_opened(where))
        return await asyncio.shield(opening)

    def close(self) -> None:
        """Close them all."""
        for opening in self._known.values():
            if opening.done() and not _is_over(opening) and (line := opening.result()) is not None:
                line.close()
        self._known.clear()


def _is_over(opening: asyncio.Task[Line | None]) -> bool:
    """Whether opening a line has failed, or it is closed."""
    if not opening.done():
        return False
    if opening.cancelled() or opening.exception() is not None:
        return True
    line = opening.result()
    return line is not None and line.closed


async def _opened(where: Callable[[], Awaitable[str | None]]) -> Line | None:
    path = await where()
    if path is None:
        return None
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, path)
    except OSError:  # of another machine, most likely
        connection.close()
        return None
    return Line(connection)
