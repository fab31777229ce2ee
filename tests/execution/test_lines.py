"""Requests between processes of one machine over a socket of their own."""

from __future__ import annotations

import contextlib
import gc
import select
import socket
import stat
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from dvi.errors import NonFiniteError
from dvi.execution.cluster.lines import Answer, Line, Lines, Listener, Spin, exchange, listen
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


def connected(lines: Lines, listener: Listener) -> Line:
    line = lines.to("host", lambda: listener.path)
    assert line is not None
    return line


def answered(line: Line, *answers: Future[Answer], seconds: float = 30.0) -> None:
    exchange([line], answers, time.monotonic() + seconds, Spin())


def ask(listener: Listener, requests: list[tuple[int, FloatArray]]) -> list[Answer]:
    """All of them at once."""
    lines = Lines()
    line = connected(lines, listener)
    assert connected(lines, listener) is line
    answers = [line.ask(*request) for request in requests]
    answered(line, *answers)
    lines.close()
    return [answer.result(0) for answer in answers]


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


class UnreadableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"of {first} {second}")


@pytest.mark.parametrize("error", [UnpicklableError(), UnreadableError("a", "lock")])
def test_an_error_that_cannot_travel_is_named(error: Exception, tmp_path: Path) -> None:
    class Odd(Host):
        def evaluate(self, step: int, Z: FloatArray) -> Answer:
            return error

    host = Odd()
    listener = Listener(host.evaluate, str(tmp_path))
    (found,) = ask(listener, [(0, np.zeros((1, 2)))])
    assert isinstance(found, RuntimeError)
    assert "of a lock" in str(found)
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
    (tmp_path / "file").touch()
    for path in (None, str(tmp_path / "elsewhere"), str(tmp_path / "file")):
        assert Lines().to("host", lambda path=path: path) is None


class Polls:
    """A poll object that finds something when it is asked for the given time."""

    def __init__(self, *finds: int) -> None:
        self.finds, self.asked = finds, 0
        self.timeouts: list[float | None] = []

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        self.asked += 1
        if timeout != 0:
            self.timeouts.append(timeout)
        return [(0, 1)] if timeout != 0 or self.asked in self.finds else []


def test_who_spins_finds_what_comes_soon_and_does_not_sleep() -> None:
    spin, polls = Spin(), Polls(3)
    assert spin.poll(polls) == [(0, 1)]  # type: ignore[arg-type]
    assert (polls.asked, polls.timeouts, spin) == (3, [], Spin())


def test_who_spins_in_vain_sleeps_twice_as_often_before_the_next_time() -> None:
    spin, looked = Spin(), []
    for _ in range(40):
        polls = Polls()
        assert spin.poll(polls, 7.0) == [(0, 1)]  # type: ignore[arg-type]
        assert polls.timeouts == [7.0]
        looked.append(polls.asked > 1)
    assert [i for i, found in enumerate(looked) if found] == [0, 3, 8, 17, 34]
    spin.left = 0
    spin.poll(Polls(1))  # type: ignore[arg-type]
    assert spin == Spin()


def test_where_a_host_listens_is_asked_once(tmp_path: Path) -> None:
    lines, asked = Lines(), []
    for _ in range(2):
        assert lines.to("host", lambda: asked.append(1)) is None
    assert asked == [1]


def test_all_that_wait_hear_of_a_host_that_is_gone(tmp_path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "host"))
    listening.listen()
    line = Lines().to("host", lambda: str(tmp_path / "host"))
    assert line is not None
    host, _ = listening.accept()
    waiting = [line.ask(step, np.zeros((1, 3))) for step in range(3)]
    host.close()
    answered(line, *waiting)
    for answer in [*waiting, line.ask(4, np.zeros((1, 3)))]:
        with pytest.raises(ConnectionError):
            answer.result(0)
    listening.close()


def test_an_answer_that_is_not_waited_for_any_more_is_no_other_request_s(tmp_path: Path) -> None:
    host = Host()
    listener = Listener(host.evaluate, str(tmp_path))
    line = connected(Lines(), listener)
    first = line.ask(4, np.zeros((1, 2)))
    answered(line, first, seconds=0.01)
    assert not first.done()
    host.go.set()
    second = line.ask(5, np.zeros((1, 2)))
    answered(line, second)
    for answer, step in ((first, 4), (second, 5)):
        message = answer.result(0)
        assert isinstance(message, Message)
        assert message.nodes == ((0, step),)
    line.close()
    listener.close()


def test_what_is_there_is_received_however_late_it_is_looked_for(tmp_path: Path) -> None:
    host = Host()
    listener = Listener(host.evaluate, str(tmp_path))
    line = connected(Lines(), listener)
    answer = line.ask(0, np.zeros((1, 2)))
    while not select.select([line], [], [], 30.0)[0]:
        pass
    answered(line, answer, seconds=-1.0)
    assert answer.done()
    line.close()
    listener.close()


def test_a_request_that_a_host_does_not_take_waits_without_blocking(tmp_path: Path) -> None:
    host = Host()
    listener = Listener(host.evaluate, str(tmp_path))
    lines = Lines()
    line = connected(lines, listener)
    first = line.ask(4, np.zeros((1, 2)))  # keeps the host from reading on
    second = line.ask(5, np.ones((1, 2_000_000)))
    answered(line, seconds=0.05)
    assert line.sends
    host.go.set()
    answered(line, first, second)
    message = second.result(0)
    assert isinstance(message, Message)
    assert np.all(message.packed == 1.0)
    assert not line.sends
    line.close()
    assert connected(lines, listener) is not line
    lines.close()
    listener.close()


def test_threads_end_with_their_servers(tmp_path: Path) -> None:
    host, before = Host(), threading.active_count()
    listener = Listener(host.evaluate, str(tmp_path))
    ask(listener, [(0, np.zeros((1, 1)))])
    listener.close()
    while threading.active_count() > before:
        time.sleep(0.001)
