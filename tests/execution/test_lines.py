"""Requests between processes of one machine over a socket of their own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dvi.errors import NonFiniteError
from dvi.execution.cluster.lines import Answer, Line, Lines, Listener, listen
from dvi.execution.tree import Message
from dvi.types import FloatArray, Times


class Host:
    """Answers with what it was asked; errors at step 3; waits for a go at step 4."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def evaluate(self, step: int, Z: FloatArray) -> Answer:
        if step == 3:
            return NonFiniteError("row 7")
        if step == 4:
            self.go.wait(30)
        return Message(((0, step),), (len(Z),), np.concatenate([Z[:, :1], Z], axis=1)[None], Times(1.0, 2.0, 3.0))


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("of a lock")
        self.lock = threading.Lock()


def ask(listener: Listener, requests: list[tuple[int, FloatArray]]) -> list[Answer]:
    """All of them at once."""

    async def asked() -> list[Answer]:
        lines = Lines()
        found = [await lines.to("host", lambda: path_of(listener)) for _ in range(2)]
        assert found[0] is found[1]
        assert found[0] is not None
        answers = await asyncio.gather(*(found[0].ask(*request) for request in requests))
        lines.close()
        return list(answers)

    return asyncio.run(asked())


async def connected(lines: Lines, listener: Listener) -> Line:
    line = await lines.to("host", lambda: path_of(listener))
    assert line is not None
    return line


async def path_of(listener: Listener | None) -> str | None:
    return None if listener is None else listener.path


def test_answers_come_in_order_and_whole(tmp_path: Path) -> None:
    host, rng = Host(), np.random.default_rng(0)
    listener = Listener(host.evaluate, str(tmp_path))
    shapes = [(1, 1), (3, 5), (1, 1_000_000), (2, 7)]  # one larger than what a socket holds
    requests = [(step, rng.normal(size=shape)) for step, shape in zip((0, 1, 2, 5), shapes, strict=True)]
    answers = ask(listener, requests)
    for (step, Z), answer in zip(requests, answers, strict=True):
        expected = host.evaluate(step, Z)
        assert isinstance(answer, Message)
        assert isinstance(expected, Message)
        assert (answer.nodes, answer.n_rows, answer.times) == (expected.nodes, expected.n_rows, expected.times)
        assert answer.packed.tobytes() == expected.packed.tobytes()
        assert answer.packed.flags.aligned
        assert answer.packed.flags.writeable
    listener.close()


def test_an_error_is_an_answer_and_the_next_request_is_answered(tmp_path: Path) -> None:
    host = Host()
    listener = Listener(host.evaluate, str(tmp_path))
    error, after = ask(listener, [(3, np.zeros((1, 2))), (5, np.zeros((1, 2)))])
    assert isinstance(error, NonFiniteError)
    assert str(error) == "row 7"
    assert isinstance(after, Message)
    listener.close()


def test_an_error_that_cannot_travel_is_named(tmp_path: Path) -> None:
    class Odd(Host):
        def evaluate(self, step: int, Z: FloatArray) -> Answer:
            return UnpicklableError()

    host = Odd()
    listener = Listener(host.evaluate, str(tmp_path))
    (error,) = ask(listener, [(0, np.zeros((1, 2)))])
    assert isinstance(error, RuntimeError)
    assert "of a lock" in str(error)
    listener.close()


def test_only_its_own_user_may_connect_and_nothing_is_left(tmp_path: Path) -> None:
    host = Host()
    listener = Listener(host.evaluate, str(tmp_path))
    assert stat.S_IMODE(Path(listener.path).stat().st_mode) == 0o600
    listener.close()
    listener.close()
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_nobody_has_any_more_is_not_kept(tmp_path: Path) -> None:
    host = Host()
    listener = Listener(host.evaluate, str(tmp_path))
    request = np.array([0, 1, 1]).tobytes() + np.zeros(1).tobytes()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(listener.path)
        server.sendall(request)
        assert server.recv(10_000)
        del host, listener
        gc.collect()
        assert list(tmp_path.iterdir()) == []
        with contextlib.suppress(ConnectionError, TimeoutError):  # or there is an end
            server.settimeout(1.0)
            while server.recv(10_000):
                pass
        server.settimeout(30.0)
        with contextlib.suppress(ConnectionError):
            server.sendall(request)
            assert server.recv(1) == b""


@pytest.mark.parametrize("folder", ["x" * 200, "missing"])
def test_where_there_can_be_no_socket_there_is_none(tmp_path: Path, folder: str) -> None:
    assert listen(Host().evaluate, str(tmp_path / folder)) is None


def test_a_socket_of_another_machine_is_no_line(tmp_path: Path) -> None:
    async def opened(path: str | None) -> Line | None:
        async def where() -> str | None:
            return path

        return await Lines().to("host", where)

    assert asyncio.run(opened(str(tmp_path / "elsewhere"))) is None
    assert asyncio.run(opened(None)) is None
    (tmp_path / "file").touch()
    assert asyncio.run(opened(str(tmp_path / "file"))) is None


def test_all_that_wait_hear_of_a_host_that_is_gone(tmp_path: Path) -> None:
    async def asked() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "host"))
        listening.listen()

        async def where() -> str | None:
            return str(tmp_path / "host")

        line = await Lines().to("host", where)
        assert line is not None
        host, _ = listening.accept()
        waiting = [asyncio.ensure_future(line.ask(step, np.zeros((1, 3)))) for step in range(3)]
        await asyncio.sleep(0)
        host.close()
        for answer in waiting:
            with pytest.raises(ConnectionError):
                await answer
        with pytest.raises(ConnectionError):
            await line.ask(4, np.zeros((1, 3)))
        listening.close()

    asyncio.run(asked())


def test_an_answer_that_is_not_waited_for_any_more_is_no_other_requests(tmp_path: Path) -> None:
    host = Host()
    listener = Listener(host.evaluate, str(tmp_path))

    async def asked() -> Answer:
        lines = Lines()
        line = await connected(lines, listener)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.ask(4, np.zeros((1, 2))), 0.01)
        host.go.set()
        answer = await line.ask(5, np.zeros((1, 2)))
        lines.close()
        return answer

    answer = asyncio.run(asked())
    assert isinstance(answer, Message)
    assert answer.nodes == ((0, 5),)
    listener.close()


def test_a_request_that_is_given_up_half_sent_ends_the_line_and_the_next_opens_another(tmp_path: Path) -> None:
    host = Host()
    listener = Listener(host.evaluate, str(tmp_path))

    async def asked() -> Answer:
        lines = Lines()
        line = await connected(lines, listener)
        first = asyncio.ensure_future(line.ask(4, np.zeros((1, 2))))  # keeps the host from reading on
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.ask(5, np.zeros((1, 2_000_000))), 0.05)
        assert line.closed
        host.go.set()
        with pytest.raises(ConnectionError):
            await first
        again = await connected(lines, listener)
        assert again is not line
        answer = await again.ask(6, np.zeros((1, 2)))
        lines.close()
        return answer

    assert isinstance(asyncio.run(asked()), Message)
    listener.close()


def test_threads_end_with_their_servers(tmp_path: Path) -> None:
    host, before = Host(), threading.active_count()
    listener = Listener(host.evaluate, str(tmp_path))
    ask(listener, [(0, np.zeros((1, 1)))])
    listener.close()
    while threading.active_count() > before:
        time.sleep(0.001)
