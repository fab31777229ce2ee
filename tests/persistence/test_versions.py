"""Whatever is stopped at whichever write, what is current is a whole version: the previous one or the new one."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from obstore.store import MemoryStore as Bucket
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from dvi.errors import StoreError
from dvi.persistence.objects import Objects
from dvi.persistence.places import label_of, open_root, place_of
from dvi.persistence.versions import Contents, add, current, store_of
from tests.stopping import ENDLESS, StoppingStore


def contents(k: int) -> Contents:
    return Contents({"group/x": np.full(5, float(k)), "y": np.zeros(3)}, {"number": k})


def found(store: Any) -> int:
    """Which one is current, checked to be whole."""
    target = place_of(store)
    group = current(open_root(target), label_of(target))
    k = group.attrs["number"]
    assert isinstance(k, int)
    assert np.array_equal(np.asarray(group["group/x"][:]), np.full(5, float(k)))  # type: ignore[index]
    assert np.array_equal(np.asarray(group["y"][:]), np.zeros(3))  # type: ignore[index]
    return k


def versions(store: Any) -> list[str]:
    return [name for name in Objects(store_of(place_of(store))).names() if name.startswith("version")]


PLACES = {
    "path": lambda folder: folder / "new" / "run",
    "text": lambda folder: str(folder / "run"),
    "LocalStore": lambda folder: LocalStore(folder / "run"),
    "MemoryStore": lambda folder: MemoryStore(),
    "ObjectStore": lambda folder: ObjectStore(Bucket()),
    "FsspecStore": lambda folder: FsspecStore.from_url(f"memory://versions{folder}"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("keep", [1, 2])
def test_the_last_is_current_and_only_the_last_are_kept(place: Any, keep: int, tmp_path: Path) -> None:
    store = place(tmp_path)
    for k in range(1, 5):
        add(place_of(store), contents(k), keep)
        assert found(store) == k
    assert versions(store) == [f"version-{k}" for k in range(5 - keep, 5)]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_store_that_is_lost_at_any_write_has_a_whole_version(keep: int) -> None:
    seen = []
    for left in itertools.count():
        store = StoppingStore()
        for k in (1, 2):
            add(place_of(store), contents(k), keep)
        store.left = left
        try:
            add(place_of(store), contents(3), keep)
        except StoreError:
            seen.append(found(store))
        else:
            break
        store.left = ENDLESS
        add(place_of(store), contents(4), keep)
        assert found(store) == 4
        assert len(versions(store)) == keep
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}


WRITER = """
import os, sys
from pathlib import Path
from zarr.storage import LocalStore
from dvi.persistence.places import place_of
from dvi.persistence.versions import add
from tests.persistence.test_versions import contents

def dying(method, left=[0]):
    async def call(self, *args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        return await method(self, *args, **kwargs)
    return call

def write(path, k):
    add(place_of(path), contents(1))
    left = [k]
    for name in ("set", "delete", "delete_dir"):
        setattr(LocalStore, name, dying(getattr(LocalStore, name), left))
    add(place_of(path), contents(2))

code, k = 9, -1
while code == 9:
    k += 1
    child = os.fork()  # imports take seconds
    if child == 0:
        write(Path(sys.argv[1]) / str(k), k)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(code)
"""


def test_a_process_that_dies_at_any_write_leaves_a_whole_version(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", WRITER, tmp_path], check=True)
    seen = [found(tmp_path / str(k)) for k in range(len(list(tmp_path.iterdir())))]
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}
    assert len(seen) > 8


LOOP = """
import os, signal, sys
from pathlib import Path
from dvi.persistence.places import place_of
from dvi.persistence.versions import add
from tests.persistence.test_versions import contents

for trial in range(20):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        for k in range(1, 10**6):
            add(place_of(Path(sys.argv[1]) / str(trial)), contents(k), 2)
            os.write(writing, b".")
    os.close(writing)
    n = sum(len(os.read(reading, 1)) for _ in range(1 + trial // 4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(n + len(os.read(reading, 10**6)), flush=True)
"""


def test_a_process_that_is_killed_at_any_moment_leaves_what_it_said_or_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", LOOP, tmp_path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    said = [int(line) for line in done.stdout.split()]
    assert len(said) == 20
    for trial, k in enumerate(said):
        assert found(tmp_path / str(trial)) in (k, k + 1)


@pytest.mark.parametrize("name", ["../other", "version-0", "version-7", "group", "", 3, ["version-1"]])
def test_a_name_from_a_file_is_only_that_of_a_version(name: Any) -> None:
    store = MemoryStore()
    add(place_of(store), contents(1))
    root = zarr.open_group(store, mode="r+")
    root.create_group("group")
    root.attrs["dvi_current"] = name
    with pytest.raises(StoreError, match=r"names .* as its current version"):
        current(open_root(place_of(store)), "store")


def test_what_others_keep_in_the_store_stays() -> None:
    store = MemoryStore()
    Objects(store).write("version-notes", b"mine")
    for k in (1, 2):
        add(place_of(store), contents(k))
    assert versions(store) == ["version-2", "version-notes"]


def test_what_zarr_left_when_it_was_killed_goes(tmp_path: Path) -> None:
    add(place_of(tmp_path / "run"), contents(1))
    (tmp_path / "run" / "zarr.0123.partial").touch()
    add(place_of(tmp_path / "run"), contents(2))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["version-2", "zarr.json"]


@pytest.mark.parametrize("part", [b"", b'{"attributes": {"dvi_cur'])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_root_of_which_a_killed_service_has_kept_a_part_is_written_anew(
    place: Any, part: bytes, tmp_path: Path
) -> None:
    store = place(tmp_path)
    for k in (1, 2):
        add(place_of(store), contents(k))
    Objects(store_of(place_of(store))).write("zarr.json", part)
    with pytest.raises(StoreError, match="is not a Zarr group that can be read"):
        open_root(place_of(store))
    add(place_of(store), contents(3))
    assert found(store) == 3
    assert len(versions(store)) == 1
