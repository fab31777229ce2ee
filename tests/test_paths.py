"""What cannot be a path is an error of dvi's wherever a path is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import dvi
from dvi.errors import ArgumentError, DviError
from tests.fuzz.targets import approximation

TAKE: dict[str, Callable[[str], object]] = {
    "save": lambda path: approximation().save(path),
    "load": dvi.load,
    "resume": lambda path: dvi.resume(path, None),  # type: ignore[arg-type]
    "report": lambda path: approximation().report(path),
    "sample": lambda path: approximation().sample(10, store=path),
    "open_store": dvi.open_store,
    "ingest": lambda path: dvi.ingest({"x": [1.0, 2.0]}, path, progressbar=False),
    "ingest from": lambda path: dvi.ingest(path, "never.zarr", progressbar=False),
    "Minibatch": lambda path: dvi.Minibatch(path, batch_size=1),
    "retrain": dvi.retrain,
}
HOPELESS = {
    "null": "a\0b", "url of a null": "file://\0", "user of a null": "~\0", "no encoding": "\ud800",
    "long name": "x" * 5000, "long path": "a/" * 3000,
}  # fmt: skip


@pytest.mark.parametrize("path", HOPELESS.values(), ids=HOPELESS)
@pytest.mark.parametrize("take", TAKE.values(), ids=TAKE)
def test_what_cannot_be_a_path(
    take: Callable[[str], object], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DviError):
        take(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/", "//", "", "http://nowhere"])
def test_a_report_has_a_name(path: str) -> None:
    with pytest.raises(ArgumentError, match="names no file"):
        approximation().report(path)


def test_a_name_that_is_nearly_too_long_is_an_error_of_the_report(tmp_path: Path) -> None:
    with pytest.raises(DviError, match="could not be written"):
        approximation().report(tmp_path / ("x" * 250))  # what it is written to first has a longer name
