"""A service that is killed under a fit, and comes back: with its data, or empty."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymc as pm
import pytest

import dvi
from dvi.data import locations, source
from dvi.errors import DviWarning, StoreNotFoundError
from dvi.execution import lane
from dvi.persistence.writing import CheckpointWriter
from tests.storage.killed import BUCKET, Mortal, mortal
from tests.storage.test_s3 import CHUNK, QUIET, table

STEPS, AT = 200, 20


@pytest.fixture(autouse=True, scope="module")
def small_pools() -> Iterator[None]:
    """Pools of one chunk, so that the data are read anew every eight steps where no more than two are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "LEAST_CHUNK_BYTES", 1)
        patch.setattr(lane, "default_pool_chunks", lambda *_: 1)
        yield


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Mortal]:
    with mortal(tmp_path) as found:
        yield found


def streaming(store: Any, **options: Any) -> pm.Model:
    """A model whose rows are read from a store again and again, as no process keeps any."""
    ds = dvi.ingest(table(), store, chunk_bytes=CHUNK * 8, progressbar=False, **options)
    x, y = dvi.Minibatch(ds["x"], ds["y"], batch_size=CHUNK)
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 10), pm.Normal("b", 0, 10)
        pm.Normal("y", a + b * x, 1, observed=y)
    return model


def fitted(model: pm.Model, *callbacks: Any, **settings: Any) -> dvi.Approximation:
    run: dict[str, Any] = {"threads": 1, "cache_bytes": 0, "callbacks": list(callbacks)}
    return dvi.fit(STEPS, model=model, **run, **settings, **QUIET)


def at(step: int, act: Callable[[], object]) -> Callable[..., None]:
    def callback(_: Any, losses: Any, i: int) -> None:
        if i == step:
            act()

    return callback


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return fitted(streaming(tmp_path_factory.mktemp("disk") / "rows.zarr")).theta.tobytes()


def test_a_fit_outlives_the_service_that_it_streams_from(service: Mortal, undisturbed: bytes) -> None:
    model = streaming(f"s3://{BUCKET}/rows.zarr", storage_options=service.options)
    coming = threading.Timer(3.0, service.start)

    def kill() -> None:
        service.kill()
        coming.start()

    approx = fitted(model, at(AT, kill))
    coming.join()
    assert service.lives == 2
    assert approx.theta.tobytes() == undisturbed


def test_an_empty_service_is_an_error_and_not_zeros(service: Mortal) -> None:
    model = streaming(f"s3://{BUCKET}/rows.zarr", storage_options=service.options)

    def replace() -> None:
        service.kill()
        service.forget()
        service.start()

    with pytest.raises(StoreNotFoundError, match=rf"s3://{BUCKET}/rows.zarr/(x|y) was not found .* chunk 'c/\d'"):
        fitted(model, at(AT, replace))


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # of Zarr's, where one of several writes fails
@pytest.mark.parametrize("torn", [[], ["zarr.json"], ["zarr.json", "dvi-lease.json"]])
def test_a_checkpoint_that_is_not_written_is_a_warning_and_the_next_one_is(
    service: Mortal, torn: list[str], undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(locations._RETRY, "max_retries", 2)
    failed, written, work = threading.Event(), threading.Event(), CheckpointWriter._work
    writing = threading.Lock()
    checkpoint = {"checkpoint": f"s3://{BUCKET}/checkpoint", "storage_options": service.options}

    def told(writer: CheckpointWriter, *arguments: Any) -> None:
        try:
            with writing:
                work(writer, *arguments)
        except BaseException:
            failed.set()
            raise
        if failed.is_set():
            written.set()

    monkeypatch.setattr(CheckpointWriter, "_work", told)

    def kill() -> None:
        with writing:  # what it leaves of its own files when it is killed at a write, no request may mend
            service.kill()
        for name in torn:  # but it may have left this
            (service.folder / BUCKET / "checkpoint" / f"{name}._S3rver_object").write_bytes(b"")

    def come_back() -> None:
        assert failed.wait(120)
        service.start()

    model = streaming(tmp_path / "rows.zarr")
    with pytest.warns(DviWarning, match=r"no checkpoint was written: s3://data/checkpoint cannot be written"):
        approx = fitted(
            model,
            at(AT, kill),
            at(AT + 10, come_back),
            at(AT + 20, lambda: written.wait(120)),
            checkpoint_every=1e-9,
            **checkpoint,
        )
    assert written.is_set()
    assert approx.theta.tobytes() == undisturbed
    found = dvi.load(f"s3://{BUCKET}/checkpoint", storage_options=service.options)
    assert found.theta.tobytes() == undisturbed
    assert len(found.hist) == STEPS
    gc.collect()  # so that what is not awaited is told of here, where that is known
