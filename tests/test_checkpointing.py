"""Checkpoints never cost a fit: not a store that fails, not another run, not a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytest
from obstore.store import MemoryStore as Bucket
from zarr.storage import MemoryStore, ObjectStore

import dvi
from dvi.errors import DviWarning, StoreExistsError
from dvi.persistence.objects import Objects
from dvi.persistence.places import place_of
from dvi.persistence.versions import store_of
from dvi.persistence.writing import CheckpointWriter
from dvi.signals import keyboard_interrupts
from tests.stopping import ENDLESS, StoppingStore

Y = np.random.default_rng(3).normal(2.0, 1.0, 2000)
QUIET: dict[str, Any] = {"progressbar": False, "threads": 1}
SOON = 1e-9  # seconds, so that a checkpoint is due after every block of steps


def conjugate() -> pm.Model:
    with pm.Model() as made:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=dvi.Minibatch(Y, batch_size=200))
    return made


@pytest.fixture(scope="module")
def model() -> pm.Model:
    return conjugate()


@pytest.fixture(scope="module")
def whole(model: pm.Model) -> dvi.Approximation:
    return dvi.fit(60, model=model, random_seed=1, **QUIET)


def bits(approx: dvi.Approximation) -> tuple[bytes, bytes]:
    return approx.theta.tobytes(), approx.hist.tobytes()


def at(step: int, action: Callable[[], object]) -> Callable[..., None]:
    def callback(approx: Any, losses: Any, i: int) -> None:
        if i == step:
            action()

    return callback


def no_thread_left() -> bool:
    return not any(thread.name == "dvi-checkpoint" for thread in threading.enumerate())


# Beside the fit


PLACES: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: folder / "run",
    "URL": lambda folder: f"memory://checkpointing{folder}",
    "MemoryStore": lambda folder: MemoryStore(),
    "ObjectStore": lambda folder: ObjectStore(Bucket()),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_checkpoints_do_not_change_the_bits(
    place: Callable[[Path], Any], model: pm.Model, whole: dvi.Approximation, tmp_path: Path
) -> None:
    where = place(tmp_path)
    run = {"checkpoint": where, "checkpoint_every": SOON, "keep": 3}
    approx = dvi.fit(60, model=model, random_seed=1, **run, **QUIET)
    assert bits(approx) == bits(dvi.load(where)) == bits(whole)
    assert bits(dvi.resume(where, model, **QUIET)) == bits(whole)
    versions = Objects(store_of(place_of(where))).names()
    assert 1 <= len([name for name in versions if name.startswith("version")]) <= 3
    assert no_thread_left()


class SlowStore(MemoryStore):
    """A store in which the first version takes until the event is set."""

    go: threading.Event
    names: list[str]

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        if key.startswith("version"):
            self.names.append(key.partition("/")[0])
            self.go.wait(60)
        await super().set(key, value, byte_range)


def test_the_fit_does_not_wait_and_only_the_latest_that_waits_is_written(model: pm.Model) -> None:
    store = SlowStore()
    store.go, store.names = threading.Event(), []
    seen = [at(50, store.go.set), lambda *_: None]
    dvi.fit(60, model=model, random_seed=1, callbacks=seen, checkpoint=store, checkpoint_every=SOON, **QUIET)
    assert len(set(store.names)) < 20
    assert len(dvi.load(store).hist) == 60


# Stores that fail


def test_a_store_that_is_lost_costs_a_warning_and_what_was_there_stays(
    model: pm.Model, whole: dvi.Approximation
) -> None:
    store = StoppingStore()
    written: list[int] = []

    def lose() -> None:
        deadline = time.monotonic() + 60
        while "dvi_current" not in str(Objects(store).read("zarr.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        store.left = 0
        written.append(len(dvi.load(store).hist))

    run: dict[str, Any] = {"callbacks": [at(40, lose), lambda *_: None], "checkpoint": store, "checkpoint_every": SOON}
    with pytest.warns(DviWarning, match="no checkpoint was written: .*planted.* The fit goes on") as caught:
        approx = dvi.fit(60, model=model, random_seed=1, **run, **QUIET)
    assert len([warning for warning in caught if warning.category is DviWarning]) == 1
    assert bits(approx) == bits(whole)
    assert written[0] <= len(dvi.load(store).hist) <= 40
    store.left = ENDLESS
    Objects(store).delete("dvi-lease.json")
    assert bits(dvi.resume(store, model, callbacks=[], **QUIET)) == bits(whole)


def test_a_store_that_cannot_be_written_from_the_start(model: pm.Model, whole: dvi.Approximation) -> None:
    with pytest.warns(DviWarning, match=r"no checkpoint was written: .*read-only"):
        approx = dvi.fit(60, model=model, random_seed=1, checkpoint=MemoryStore(read_only=True), **QUIET)
    assert bits(approx) == bits(whole)


def test_a_folder_in_place_of_which_there_is_a_file(model: pm.Model, whole: dvi.Approximation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(DviWarning, match="no checkpoint was written"):
        approx = dvi.fit(60, model=model, random_seed=1, checkpoint=tmp_path / "file" / "run", **QUIET)
    assert bits(approx) == bits(whole)


def test_a_run_that_json_cannot_hold_costs_a_warning(model: pm.Model) -> None:
    advi = dvi.ADVI(model=model, random_seed=1)
    advi.approx.run["note"] = object()
    with pytest.warns(DviWarning, match=r"approx\.run holds what JSON cannot"):
        advi.fit(60, checkpoint=MemoryStore(), **QUIET)


# Two runs


@pytest.mark.parametrize("place", ["path", "store"])
def test_a_second_run_into_one_place_is_refused_before_it_compiles(place: str, model: pm.Model, tmp_path: Path) -> None:
    where = tmp_path / "run" if place == "path" else MemoryStore()
    refused: list[str] = []

    def second() -> None:
        for start in (lambda: dvi.fit(9, model=model, checkpoint=where, **QUIET), lambda: dvi.resume(where, model)):
            with pytest.raises((StoreExistsError, dvi.errors.StoreError)) as caught:
                start()
            refused.append(str(caught.value))

    approx = dvi.fit(60, model=model, random_seed=1, callbacks=[at(10, second)], checkpoint=where, **QUIET)
    assert len(approx.hist) == len(dvi.load(where).hist) == 60
    assert "Another run writes its checkpoints" in refused[0]
    assert len(refused) == 2


def test_a_run_whose_place_was_taken_goes_on_without_checkpoints(model: pm.Model, whole: dvi.Approximation) -> None:
    store = MemoryStore()
    other = b'{"owner": "other", "host": "elsewhere", "time": 1e12}'
    run: dict[str, Any] = {"callbacks": [at(10, lambda: Objects(store).write("dvi-lease.json", other))]}
    with pytest.warns(DviWarning, match="another run has taken"):
        approx = dvi.fit(60, model=model, random_seed=1, checkpoint=store, **run, **QUIET)
    assert bits(approx) == bits(whole)
    assert Objects(store).read("dvi-lease.json") == other


# Signals


@contextmanager
def handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_ctrl_c_returns_the_approximation_and_writes_it(model: pm.Model, whole: dvi.Approximation) -> None:
    store = MemoryStore()
    interrupt = at(20, lambda: signal.raise_signal(signal.SIGINT))
    approx = dvi.fit(60, model=model, random_seed=1, callbacks=[interrupt], checkpoint=store, **QUIET)
    assert len(approx.hist) == 20
    assert bits(dvi.load(store)) == bits(approx)
    assert bits(dvi.resume(store, model, callbacks=[], **QUIET)) == bits(whole)


def test_sigterm_writes_a_checkpoint_and_exits(model: pm.Model, whole: dvi.Approximation) -> None:
    store = MemoryStore()
    terminate = at(20, lambda: signal.raise_signal(signal.SIGTERM))
    with handled(signal.SIGTERM, signal.SIG_DFL):
        with pytest.raises(SystemExit) as caught:
            dvi.fit(60, model=model, random_seed=1, callbacks=[terminate], checkpoint=store, **QUIET)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert caught.value.code == 143
    assert len(dvi.load(store).hist) == 20
    assert bits(dvi.resume(store, model, callbacks=[], **QUIET)) == bits(whole)
    assert no_thread_left()


def test_a_handler_of_the_user_s_stays(model: pm.Model) -> None:
    received: list[int] = []
    terminate = at(20, lambda: signal.raise_signal(signal.SIGTERM))
    with handled(signal.SIGTERM, lambda number, frame: received.append(number)):
        approx = dvi.fit(60, model=model, callbacks=[terminate], checkpoint=MemoryStore(), **QUIET)
    assert (received, len(approx.hist)) == ([signal.SIGTERM], 60)


def test_an_interruption_waits_for_the_last_checkpoint(tmp_path: Path) -> None:

    class Writing:
        def contents(self) -> Any:
            time.sleep(0.5)
            raise OSError("planted")

    writer = CheckpointWriter(place_of(tmp_path / "run"), 60.0, 2)
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.warns(DviWarning, match="planted"), pytest.raises(KeyboardInterrupt), keyboard_interrupts():
        writer.close(Writing())  # type: ignore[arg-type]
    assert no_thread_left()


FIT = """
import sys, dvi
from tests.test_checkpointing import conjugate

print("ready", flush=True)
dvi.fit(10**7, model=conjugate(), random_seed=1, threads=1, progressbar=False, checkpoint=sys.argv[1],
        checkpoint_every=0.1)
"""


def test_a_process_that_is_terminated_or_killed_can_be_resumed(model: pm.Model, tmp_path: Path) -> None:
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        path = tmp_path / number.name
        process = subprocess.Popen([sys.executable, "-c", FIT, path])
        deadline = time.monotonic() + 300
        while not (path / "zarr.json").exists() or b"dvi_current" not in (path / "zarr.json").read_bytes():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, number)
        assert process.wait(30) == code
        steps = len(dvi.load(path).hist)
        assert steps > 0
        approx = dvi.resume(path, model, steps + 5, **QUIET)
        assert len(approx.hist) == steps + 5
