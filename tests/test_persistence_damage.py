"""Whatever has become of the files of a saved approximation, reading them gives a StoreError and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import StoreError, StoreNotFoundError
from dvi.model.layout import Entry, Layout, Transform
from dvi.persistence import load, save


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = (
        Entry("mu", "mu", (2,), 0, 2, ("group",), Transform("identity")),
        Entry("sigma", "sigma_log__", (), 2, 3, (), Transform("log")),
    )
    layout = Layout(entries, {"group": ("a", "b")})
    path = tmp_path_factory.mktemp("saved") / "run.zarr"
    save(Approximation(MeanFieldFamily(3), np.linspace(-1, 1, 6), layout, np.arange(9.0)), path)
    return path


@pytest.fixture
def store(saved: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(saved, tmp_path / "run.zarr")


def test_without_damage(store: Path) -> None:
    assert load(store).hist.tolist() == list(range(9))


def edit(store: Path, change: Callable[[dict[str, Any]], object], where: str = "") -> None:
    path = store / where / "zarr.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def attribute(name: str, value: Any) -> Callable[[Path], None]:
    return lambda store: edit(store, lambda m: m["attributes"].update({name: value}))


def entry(name: str, value: Any) -> Callable[[Path], None]:
    return lambda store: edit(store, lambda m: m["attributes"]["layout"]["entries"][0].update({name: value}))


def without(name: str) -> Callable[[Path], None]:
    return lambda store: edit(store, lambda m: m["attributes"].pop(name))


def metadata_of(where: str, **values: Any) -> Callable[[Path], None]:
    return lambda store: edit(store, lambda m: m.update(values), where)


def text(where: str, content: str) -> Callable[[Path], object]:
    return lambda store: (store / where).write_text(content)


def flip_a_bit(store: Path) -> None:
    path = store / "approximation" / "theta" / "c" / "0"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    **{f"no {name}": without(name) for name in ("dvi_format", "dvi_complete", "family", "layout", "run", "steps")},
    **{f"no group {name}": lambda s, n=name: shutil.rmtree(s / n)
       for name in ("posterior", "approximation", "history")},
    **{f"{name} {value!r:.20}": attribute(name, value)
       for name in ("dvi_format", "dvi_complete", "family", "layout", "run", "steps")
       for value in (None, "text", 7, -1, [1])},
    "family of the os": attribute("family", {"name": "os.system", "command": "true"}),
    "family with another setting": attribute("family", {"name": "meanfield", "ndim": 3, "rank": 2}),
    **{f"entry {name} {value!r:.30}": entry(name, value)
       for name, value in [
           ("name", None), ("name", "sigma"), ("name", ["mu"]), ("shape", None), ("shape", [3]), ("shape", [-2]),
           ("shape", [2.0]), ("shape", [2**40, 2**40]), ("shape", [10**12]), ("dims", None), ("dims", ["a", "group"]),
           ("transform", None), ("transform", ["eval", []]), ("transform", ["interval", ["a", "b"]]),
           ("transform", ["interval", [0, 1, 2]]), ("transform", ["simplex", []]), ("transform", ["zerosum", [-1]]),
       ]},
    "no entries": lambda s: edit(s, lambda m: m["attributes"]["layout"].update(entries=[])),
    **{f"coords {value!r:.40}": lambda s, v=value: edit(s, lambda m: m["attributes"]["layout"].update(coords=v))
       for value in (None, {"group": ["a"]}, {"group": 3}, {"group": [["a"], ["b"]]},
                     {"group": {"dtype": "object", "bits": [1, 2]}}, {"group": {"dtype": "M8[s]"}})},
    "theta longer": metadata_of("approximation/theta", shape=[7]),
    "theta huge": metadata_of("approximation/theta", shape=[10**15]),
    "theta of float32": metadata_of("approximation/theta", data_type="float32"),
    "theta a group": text("approximation/theta/zarr.json", '{"zarr_format": 3, "node_type": "group"}'),
    "theta without its chunk": lambda s: (s / "approximation/theta/c/0").unlink(),
    "theta with a bit flipped": flip_a_bit,
    "theta cut off": lambda s: (s / "approximation/theta/c/0").write_bytes(b""),
    "losses huge": metadata_of("history/loss", shape=[10**15]),
    "losses without their chunk": lambda s: (s / "history/loss/c/0").unlink(),
    "garbage for the root": text("zarr.json", "garbage"),
    "an empty root": text("zarr.json", ""),
    "a list for the root": text("zarr.json", "[]"),
    "attributes a list": metadata_of("", attributes=[]),
    "brackets without end": text("zarr.json", "[" * 100_000),
    "garbage for theta": text("approximation/theta/zarr.json", "garbage"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_a_store_error(damage: Callable[[Path], object], store: Path) -> None:
    damage(store)
    with pytest.raises(StoreError, match=r"run\.zarr") as caught:
        load(store)
    assert not isinstance(caught.value, StoreNotFoundError)


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_says_which_dvi_to_use(version: int, store: Path) -> None:
    edit(store, lambda m: m["attributes"].update(dvi_format=version, dvi_version="9.0"))
    with pytest.raises(StoreError, match=rf"the format {version} of dvi 9\.0; this dvi reads 2, "):
        load(store)


def test_names_from_a_file_are_only_names(store: Path) -> None:
    edit(store, lambda m: m["attributes"]["layout"]["entries"][1].update(name="__class__", value_name="../../x"))
    loaded = load(store)
    assert type(loaded.layout) is Layout
    assert "__class__" in loaded.sample(2).posterior
