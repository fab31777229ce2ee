"""Checkpoints are saved as often as asked, kept as many as asked, and never stop a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytest
from zarr.storage import MemoryStore

import dvi
from dvi.callbacks import Checkpoint
from dvi.errors import ArgumentError, ArgumentTypeError, DviWarning, StoreError

NOTHING = np.empty(0)


class Recorder:
    """Saves that are written down, and fail on demand."""

    def __init__(self) -> None:
        self.saved: list[Any] = []
        self.fails = False

    def save(self, store: Any, *, overwrite: bool, storage_options: Any) -> None:
        assert overwrite and storage_options is None
        if self.fails:
            raise StoreError("the disk is full")
        self.saved.append(store)


def run(checkpoint: Checkpoint, approx: Any, steps: Any) -> None:
    for i in steps:
        checkpoint(approx, NOTHING, i)


def test_it_saves_every_so_many_steps() -> None:
    approx, checkpoint = Recorder(), Checkpoint("somewhere/a.zarr", every=10)
    run(checkpoint, approx, range(1, 36))
    assert approx.saved == ["somewhere/a.zarr"] * 3
    assert checkpoint.latest == "somewhere/a.zarr"
    run(checkpoint, approx, range(1, 11))  # another fit
    assert len(approx.saved) == 4


def test_the_oldest_of_several_is_replaced(tmp_path: Path) -> None:
    approx, checkpoint = Recorder(), Checkpoint(tmp_path / "a.zarr", every=1, keep=3)
    run(checkpoint, approx, range(1, 6))
    assert approx.saved == [tmp_path / f"a-{k}.zarr" for k in (0, 1, 2, 0, 1)]
    assert checkpoint.latest == tmp_path / "a-1.zarr"
    assert Checkpoint("memory://bucket/a", keep=2).stores == ("memory://bucket/a-0", "memory://bucket/a-1")


def test_a_save_that_fails_warns_once_and_the_good_ones_stay(caplog: pytest.LogCaptureFixture) -> None:
    approx, checkpoint = Recorder(), Checkpoint("a.zarr", every=1, keep=2)
    run(checkpoint, approx, [1, 2])
    approx.fails = True
    with pytest.warns(DviWarning, match=r"at step 3 was not saved: the disk is full.*The fit goes on"):
        run(checkpoint, approx, [3])
    run(checkpoint, approx, [4])
    assert "step 4 was not saved" in caplog.text
    assert checkpoint.latest == "a-1.zarr"
    approx.fails = False
    run(checkpoint, approx, [5])
    assert approx.saved == ["a-0.zarr", "a-1.zarr", "a-0.zarr"]


def test_other_errors_are_not_hidden() -> None:
    class Broken:
        def save(self, store: Any, *, overwrite: bool, storage_options: Any) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Checkpoint("a.zarr", every=1), Broken(), [1])


def test_what_is_not_a_saved_approximation_is_refused_before_the_fit(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not replaced"):
        Checkpoint(tmp_path)
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("settings", [{"every": 0}, {"keep": 0}, {"keep": 1.5}, {"every": True}])
def test_settings_that_are_not_allowed(settings: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(settings))):
        Checkpoint("a.zarr", **settings)


def test_a_store_that_has_no_name_keeps_one_save() -> None:
    assert len(Checkpoint(MemoryStore()).stores) == 1
    with pytest.raises(ArgumentTypeError, match="keep=2 needs a path or URL"):
        Checkpoint(MemoryStore(), keep=2)


def test_repr_says_where() -> None:
    assert repr(Checkpoint("a.zarr", every=5, keep=2)) == "Checkpoint('a-0.zarr', every=5, keep=2)"


def test_a_fit_is_saved_while_it_runs(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "fit.zarr", every=20)
    with pm.Model():
        pm.Normal("mu", 0, 1)
        approx = dvi.fit(50, random_seed=1, callbacks=[checkpoint], progressbar=False)
    saved = dvi.load(checkpoint.latest)
    assert len(saved.hist) == 40
    assert np.array_equal(saved.hist, approx.hist[:40])
    assert not np.array_equal(saved.theta, approx.theta)
