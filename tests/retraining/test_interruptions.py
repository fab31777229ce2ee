"""A scheduled run that is killed anywhere, or started twice, ends in the same state."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dvi
from dvi.persistence.leases import take
from dvi.persistence.places import place_of
from tests.retraining.models import config_of, deliver, delivery
from tests.retraining.processes import KILLED, POINTS, Processes, processes
from tests.retraining.states import state
from tests.storage.service import Service


@pytest.fixture(scope="module")
def parent(service: Service) -> Iterator[Processes]:
    with processes(service.environment) as found:
        yield found


def config_in(folder: object) -> dict[str, Any]:
    return config_of(str(folder), runs={"keep": 1})


def prepare(folder: object, parent: Processes) -> None:
    """A folder after one promoted run, with a second delivery."""
    deliver(f"{folder}/rows.zarr", delivery(0))
    assert parent.run(config_in(folder)) == ["promoted"]
    deliver(f"{folder}/rows.zarr", delivery(1))


@pytest.fixture(scope="module")
def before(parent: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    prepare(folder, parent)
    return folder


@pytest.fixture
def folder(before: Path, tmp_path: Path) -> Path:
    """A copy to work in."""
    return shutil.copytree(before, tmp_path / "copy")


@pytest.fixture(scope="module")
def undisturbed(parent: Processes, before: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = shutil.copytree(before, tmp_path_factory.mktemp("undisturbed") / "copy")
    assert parent.run(config_in(folder)) == ["promoted"]
    found = state(folder)
    assert len(found) == 5  # the pointer, and what there is of one run
    return found


@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_killed_at_every_phase(
    kind: str, parent: Processes, undisturbed: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    if kind == "disk":
        folder = request.getfixturevalue("folder")
    else:
        folder = request.getfixturevalue("s3").url("killed")
        prepare(folder, parent)
    for point in POINTS:
        assert parent.run(config_in(folder), at=point) == [KILLED], point
    assert parent.run(config_in(folder)) == ["nothing new"]
    assert state(folder) == undisturbed


def test_sigterm_writes_a_checkpoint(parent: Processes, folder: Path, undisturbed: dict[str, Any]) -> None:
    config = config_in(folder)
    assert parent.run(config, at="fit", sent=signal.SIGTERM) == [143]
    (checkpoint,) = (folder / "runs").glob("*/checkpoint")
    assert 100 <= len(dvi.load(checkpoint).hist) < 300
    assert parent.run(config, at="save", sent=signal.SIGTERM) == [143]
    assert parent.run(config) == ["promoted"]
    assert state(folder) == undisturbed


def test_two_at_once(parent: Processes, folder: Path, undisturbed: dict[str, Any]) -> None:
    assert parent.run(config_in(folder), copies=2) == ["busy", "promoted"]
    assert state(folder) == undisturbed


def test_two_at_once_in_an_object_store(s3: Service) -> None:
    config = config_of(s3.url("two"))
    lease = take(place_of(config["runs"]["folder"]))
    outcome = dvi.retrain(config)
    lease.release()
    assert outcome.kind == "busy"
    assert s3.keys(config["runs"]["folder"]) == []
