"""One run at a time writes to a place, and what a killed one has left does not keep others out."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore as Bucket
from zarr.storage import MemoryStore, ObjectStore

from dvi.errors import StoreExistsError
from dvi.persistence import leases
from dvi.persistence.objects import Objects
from dvi.persistence.places import place_of


@pytest.fixture(params=["path", "memory", "obstore"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return {"path": tmp_path / "run", "memory": MemoryStore(), "obstore": ObjectStore(Bucket())}[request.param]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hearts that beat fast, and a silence that is long beside them."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(leases, "_ASK_SECONDS", 0.02)
    monkeypatch.setattr(leases, "SILENT_SECONDS", 30.0)


def silent_for(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SILENT_SECONDS", seconds)


def test_the_second_is_refused_until_the_first_lets_go(where: Any) -> None:
    first = leases.take(place_of(where))
    with pytest.raises(StoreExistsError, match="Another run writes its checkpoints to"):
        leases.take(place_of(where))
    first.renew()
    first.release()
    leases.take(place_of(where)).release()
    if isinstance(where, Path):
        assert list(where.parent.iterdir()) == []
    else:
        assert Objects(where).names() == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can make files")
def test_where_no_lock_can_be_made_nobody_has_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"/proc/\.run\.lock") as caught:
        leases.take(place_of("/proc/run"))
    assert not isinstance(caught.value, StoreExistsError)


def lease(**changes: Any) -> bytes:
    """A lease that another process on another machine has just written, but for some changes."""
    record = {"owner": "other", "host": "elsewhere", "pid": os.getpid(), "time": time.time(), **changes}
    return json.dumps(record).encode()


def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("changes", [{"time": 0.0}, {"time": "soon"}, {"host": socket.gethostname(), "pid": ended()}])
def test_what_a_killed_run_has_left_is_taken_over(changes: dict[str, Any]) -> None:
    store = MemoryStore()
    Objects(store).write("dvi-lease.json", lease(**changes))
    leases.take(place_of(store)).release()


@pytest.mark.parametrize("changes", [{}, {"host": socket.gethostname()}, {"time": time.time() + 1e6}])
def test_what_does_not_change_is_taken_over_whatever_the_clocks_say(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent_for(0.2, monkeypatch)
    store = MemoryStore()
    Objects(store).write("dvi-lease.json", lease(**changes))
    leases.take(place_of(store)).release()


def test_what_a_process_of_another_machine_renews_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    store, ours = MemoryStore(), socket.gethostname()
    names = {"dvi-lease": "elsewhere"}  # by the name of the thread that asks
    monkeypatch.setattr(socket, "gethostname", lambda: names.get(threading.current_thread().name, ours))
    first = leases.take(place_of(store))
    with pytest.raises(StoreExistsError, match="by process"):
        leases.take(place_of(store))
    first.release()


def test_a_lease_that_is_let_go_meanwhile_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    Objects(store).write("dvi-lease.json", lease())
    ask = leases.StoreLease._found
    asked: list[Any] = []

    def released(self: leases.StoreLease) -> dict[str, Any]:
        asked.append(ask(self))
        if len(asked) == 2:
            Objects(store).delete("dvi-lease.json")
        return asked[-1]

    monkeypatch.setattr(leases.StoreLease, "_found", released)
    leases.take(place_of(store)).release()
    assert asked[2] == {}


def test_a_heart_that_beats_while_the_store_is_away_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, away = MemoryStore(), threading.Event()
    renewed, write = threading.Event(), Objects.write

    def failing(self: Objects, key: str, value: bytes) -> None:
        if not away.is_set():
            away.set()
            raise OSError("planted")
        write(self, key, value)
        renewed.set()

    first = leases.take(place_of(store))
    monkeypatch.setattr(Objects, "write", failing)
    assert renewed.wait(60)
    first.release()
    assert "was not renewed: planted" in caplog.text
    assert Objects(store).names() == []


def test_a_place_that_is_known_to_be_left_is_cleared(where: Any) -> None:
    if not isinstance(where, Path):
        Objects(where).write("dvi-lease.json", lease())
    leases.clear(place_of(where))
    leases.take(place_of(where)).release()


def test_a_lease_that_cannot_be_read_is_nobody_s() -> None:
    store = MemoryStore()
    Objects(store).write("dvi-lease.json", b"\xff[")
    leases.take(place_of(store)).release()


@pytest.mark.parametrize("part", [b"", b'{"owner": "12'])
def test_a_lease_of_which_a_killed_service_has_kept_a_part_stays_its_owner_s(part: bytes) -> None:
    store = MemoryStore()
    first = leases.take(place_of(store))
    Objects(store).write("dvi-lease.json", part)
    first.renew()
    with pytest.raises(StoreExistsError, match="Another run writes"):
        leases.take(place_of(store))
    first.release()
    assert Objects(store).names() == []


def test_a_lease_that_is_gone_is_another_s() -> None:
    store = MemoryStore()
    first = leases.take(place_of(store))
    Objects(store).delete("dvi-lease.json")
    with pytest.raises(StoreExistsError, match="another run has taken"):
        first.renew()


def test_who_was_silent_for_too_long_learns_that_another_has_the_place() -> None:
    store = MemoryStore()
    first = leases.take(place_of(store))
    Objects(store).write("dvi-lease.json", lease())
    with pytest.raises(StoreExistsError, match="another run has taken"):
        first.renew()
    first.release()
    assert Objects(store).names() == ["dvi-lease.json"]


class SlowMemory(MemoryStore):
    """A store whose answers take a while, and which is not asked to write only where nothing is."""

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        if not await self.exists(key):
            await asyncio.sleep(0.05)
            await self.set(key, value)


@pytest.mark.parametrize("left", [None, lease(time=0.0)])
def test_of_many_at_once_one_has_it(left: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "FsspecStore", SlowMemory)
    store, n = SlowMemory(), 6
    if left is not None:
        Objects(store).write("dvi-lease.json", left)
    ready, taken = threading.Barrier(n), []

    def run() -> None:
        ready.wait()
        with suppress(StoreExistsError):
            taken.append(leases.take(place_of(store)))

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = taken
    winner.renew()
