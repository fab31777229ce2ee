"""A save is whole or absent in every place, and replaces nothing but a saved approximation."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from dvi import persistence
from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError, ArgumentTypeError, DviError, StoreError, StoreExistsError, StoreNotFoundError
from dvi.model.layout import Entry, Layout, Transform
from dvi.persistence import load, places, publishing, records, save
from tests.stopping import ENDLESS, StoppingStore


@functools.cache  # with its compiled draws
def tiny(seed: int = 1) -> Approximation:
    entries = (
        Entry("mu", "mu", (2,), 0, 2, ("group",), Transform("identity")),
        Entry("sigma", "sigma_log__", (), 2, 3, (), Transform("log")),
    )
    rng = np.random.default_rng(seed)
    layout = Layout(entries, {"group": ("a", "b")})
    return Approximation(MeanFieldFamily(3), rng.normal(0, 0.5, 6), layout, rng.normal(100, 1, 50))


def same(a: Approximation, b: Approximation) -> bool:
    return a.theta.tobytes() == b.theta.tobytes() and a.hist.tobytes() == b.hist.tobytes() and a.layout == b.layout


@pytest.fixture
def store(tmp_path: Path) -> Path:
    save(tiny(), tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def url() -> str:
    return "memory://test_persistence/run.zarr"


PLACES: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: folder / "new" / "folder" / "run.zarr",
    "text": lambda folder: str(folder / "run.zarr"),
    "file URL": lambda folder: f"file://{folder / 'run.zarr'}",
    "LocalStore": lambda folder: LocalStore(folder / "run.zarr"),
    "MemoryStore": lambda folder: MemoryStore(),
    "URL": lambda folder: url(),
    "FsspecStore": lambda folder: FsspecStore.from_url(url()),
}


@pytest.fixture(params=PLACES.values(), ids=PLACES.keys())
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    yield request.param(tmp_path)
    memory = fsspec.filesystem("memory")
    if memory.exists("/test_persistence"):
        memory.rm("/test_persistence", recursive=True)


def test_save_load_and_overwrite_in_every_place(place: Any) -> None:
    with pytest.raises(StoreNotFoundError, match="There is no"):
        load(place)
    save(tiny(), place)
    assert same(load(place), tiny())
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        save(tiny(2), place)
    assert same(load(place), tiny())
    save(tiny(2), place, overwrite=True)
    assert same(load(place), tiny(2))
    assert xr.open_datatree(place, engine="zarr")["posterior"].sizes["draw"] == 1000


def test_nothing_but_a_saved_approximation_is_replaced(place: Any) -> None:
    xr.Dataset({"x": ("row", np.arange(3.0))}).to_zarr(place)
    with pytest.raises(StoreExistsError, match="another name"):
        save(tiny(), place)
    with pytest.raises(StoreError, match="not a saved approximation"):
        save(tiny(), place, overwrite=True)
    with pytest.raises(StoreError, match="not a saved approximation"):
        load(place)
    assert xr.open_zarr(place)["x"].values.tolist() == [0, 1, 2]


def test_folders_and_files_that_are_no_store_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    for name in ("file", "folder"):
        for overwrite in (False, True):
            with pytest.raises(StoreError):
                save(tiny(), tmp_path / name, overwrite=overwrite)
        with pytest.raises(StoreError, match="not a Zarr group"):
            load(tmp_path / name)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "thesis.tex"]


def test_an_empty_folder_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        load(tmp_path)
    save(tiny(), tmp_path / ".")
    assert same(load(tmp_path), tiny())


def test_a_link_is_followed(tmp_path: Path) -> None:
    save(tiny(1), tmp_path / "real")
    (tmp_path / "latest").symlink_to("real")
    save(tiny(2), tmp_path / "latest", overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert same(load(tmp_path / "real"), tiny(2))


def test_home_is_meant_by_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tiny(), "~/run.zarr")
    assert same(load("~/run.zarr"), tiny())
    assert (tmp_path / "run.zarr").is_dir()


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        save(tiny(), tmp_path / "file" / "run.zarr")
    assert not isinstance(caught.value, StoreExistsError)


def test_a_store_that_is_read_only() -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        save(tiny(), MemoryStore(read_only=True))


@pytest.mark.parametrize("store", [3, None, object()])
def test_what_is_not_a_store(store: Any) -> None:
    with pytest.raises(ArgumentTypeError):
        save(tiny(), store)
    with pytest.raises(ArgumentTypeError):
        load(store)


def test_errors_do_not_show_secrets() -> None:
    with pytest.raises(DviError) as caught:
        load("nosuch://user:secret@host/run.zarr?signature=secret")
    assert "secret" not in str(caught.value)


def test_a_run_that_json_cannot_hold(tmp_path: Path) -> None:
    for value in (object(), float("nan")):
        approx = tiny(seed=3)  # of its own, as it is spoilt
        approx.run["note"] = value
        with pytest.raises(ArgumentError, match=r"approx\.run"):
            save(approx, tmp_path / "run.zarr")
    assert list(tmp_path.iterdir()) == []


STEPS = [
    (publishing, "_write"),
    (publishing, "_encoding"),
    (publishing, "flush"),
    (publishing, "_publish"),
    (records, "_parameters"),
    (zarr.Group, "attrs"),
]


@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
def test_a_save_that_fails_leaves_what_was_there(
    owner: Any, name: str, error: type[BaseException], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error("planted")

    for path, overwrite in ((store, True), (store.with_name("new.zarr"), False)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, property(fail) if owner is zarr.Group else fail)
            with pytest.raises(BaseException):  # noqa: B017, PT011 of several kinds
                save(tiny(2), path, overwrite=overwrite)
    assert same(load(store), tiny())
    assert [p.name for p in store.parent.iterdir()] == [store.name]


def stop_at_move(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Be killed in place of one of the moves of a publication. KeyboardInterrupt is SIGKILL, as nothing catches it."""
    move, count = publishing._move, itertools.count()

    def move_or_stop(old: Path, new: Path) -> None:
        if next(count) >= number:
            raise KeyboardInterrupt
        move(old, new)

    monkeypatch.setattr(publishing, "_move", move_or_stop)


@pytest.mark.parametrize("number", range(4))
def test_a_save_that_is_killed_between_two_moves(number: int, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at_move(patch, number)
        if number < 3:
            with pytest.raises(KeyboardInterrupt):
                save(tiny(2), store, overwrite=True)
        else:
            save(tiny(2), store, overwrite=True)
    assert same(load(store), tiny() if number < 2 else tiny(2))
    with pytest.raises(StoreExistsError):
        save(tiny(3), store)
    save(tiny(3), store, overwrite=True)
    assert same(load(store), tiny(3))
    assert [p.name for p in store.parent.iterdir()] == [store.name]


def test_the_old_one_is_put_back_when_the_new_one_cannot_be_moved(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = publishing._move

    def move_or_fail(old: Path, new: Path) -> None:
        if old.name == "new":
            raise OSError("planted")
        move(old, new)

    monkeypatch.setattr(publishing, "_move", move_or_fail)
    with pytest.raises(StoreError, match="planted"):
        save(tiny(2), store, overwrite=True)
    assert [p.name for p in store.parent.iterdir()] == [store.name]
    assert same(load(store), tiny())


def test_what_killed_saves_have_left_is_swept_after_a_day(store: Path) -> None:
    old, new = (store.with_name(f".run.zarr.{name}.partial") for name in ("old", "new"))
    for folder in (old, new):
        shutil.copytree(store, folder / "new")
    os.utime(old, (0, 0))
    save(tiny(2), store, overwrite=True)
    assert sorted(p.name for p in store.parent.iterdir()) == [new.name, store.name]


def test_a_group_that_is_moved_while_it_is_looked_for(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader sees the moment between the two moves, and then the second move is made."""
    is_free, aside = places.is_free, places.aside(store)
    store.rename(aside)

    def is_free_and_moved(path: Path) -> bool:
        found = is_free(path)
        if aside.exists():
            aside.rename(store)
        return found

    monkeypatch.setattr(places, "is_free", is_free_and_moved)
    assert same(load(store), tiny())


def test_a_group_that_is_moved_before_it_is_opened(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_free, calls = places.is_free, itertools.count()

    def is_free_and_moved(path: Path) -> bool:
        found = is_free(path)
        if next(calls) == 0:
            store.rename(places.aside(store))
        return found

    monkeypatch.setattr(places, "is_free", is_free_and_moved)
    assert same(load(store), tiny())


def test_what_appears_while_saving_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.zarr"
    write = publishing._write

    def write_after_another(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(publishing, "_write", write)
        save(tiny(2), path)
        write(*args, **kwargs)

    monkeypatch.setattr(publishing, "_write", write_after_another)
    with pytest.raises(StoreExistsError):
        save(tiny(1), path)
    assert same(load(path), tiny(2))
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


def test_without_rename_a_first_save_that_was_stopped_is_refused_and_can_be_repeated() -> None:
    for left in itertools.count():
        store = StoppingStore()
        store.left = left
        with suppress(StoreError):
            save(tiny(2), store)
            break
        whole = is_whole(store)
        assert left > 20 or not whole  # all but a copy of the metadata
        store.left = ENDLESS
        save(tiny(2), store, overwrite=whole)
        assert same(load(store), tiny(2))
    assert left > 20


def is_whole(store: StoppingStore) -> bool:
    try:
        load(store)
    except StoreNotFoundError:
        return False
    except StoreError as error:
        return "not saved to its end" not in str(error)
    return True


def test_without_rename_what_is_replaced_stays_until_the_new_one_is_whole() -> None:
    found = []
    for left in itertools.count():
        store = StoppingStore()
        save(tiny(1), store)
        store.left = left
        try:
            save(tiny(2), store, overwrite=True)
        except StoreError:
            pass
        else:
            break
        found.append(next(k for k in (1, 2) if same(load(store), tiny(k))))
        store.left = ENDLESS
        save(tiny(3), store, overwrite=True)
        assert same(load(store), tiny(3))
    assert found == sorted(found)
    assert set(found) == {1, 2}
    assert same(load(store), tiny(2))
    assert sorted(xr.open_datatree(store, engine="zarr").children) == ["approximation", "history", "posterior"]


def test_without_rename_a_neighbour_below_the_address_is_kept() -> None:
    store = MemoryStore()
    save(tiny(), store)
    zarr.create_group(store, path="other").create_array("x", shape=(2,), dtype="f8")
    save(tiny(2), store, overwrite=True)
    assert "other/x" in zarr.open_group(store, mode="r", use_consolidated=False)


@pytest.mark.parametrize("times", [1, 100])
def test_a_store_that_is_replaced_while_it_is_read(times: int, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rebuilt, seeds = records.rebuilt, iter(range(2, 2 + times))

    def rebuilt_after_another_save(*args: Any) -> Approximation:
        if (seed := next(seeds, None)) is not None:
            save(tiny(seed), store, overwrite=True)
        return rebuilt(*args)

    monkeypatch.setattr(persistence, "rebuilt", rebuilt_after_another_save)
    if times == 1:
        assert same(load(store), tiny(2))
    else:
        with pytest.raises(StoreError, match="again and again"):
            load(store)
