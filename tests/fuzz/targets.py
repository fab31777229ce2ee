"""What is fuzzed: for each target, inputs, and what may come of them. Anything but a documented error is a failure."""

from __future__ import annotations

import collections
import io
import shutil
import string
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

import dvi
from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import DviError
from dvi.inference import optimizers, schedules
from dvi.model.batch import binding
from dvi.model.layout import Entry, Layout, Transform
from dvi.model.reference import model_from
from dvi.settings import RUN, make_settings
from tests.fuzz.calls import CALLS


@dataclass(frozen=True, slots=True)
class Target:
    """A strategy for inputs, and what is done with one. It returns normally or raises DviError."""

    inputs: st.SearchStrategy[Any]
    run: Callable[[Any], object]


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=8),
    st.binary(max_size=8), st.lists(st.integers(), max_size=3), st.complex_numbers(), st.just(object()),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2), st.just(np.array([1.0, np.nan])),
    st.just(np.float32(2)),
)  # fmt: skip
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
words = st.text(string.ascii_lowercase + "_.:-/\\0 ", max_size=20)


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of some bytes: put ``new`` in the place of ``length`` bytes at a part ``at`` of the whole."""

    at: float
    length: int
    new: bytes

    def apply(self, content: bytes) -> bytes:
        start = int(self.at * len(content))
        return content[:start] + self.new + content[start + self.length :]


edits = st.builds(Edit, st.floats(0, 1), st.sampled_from([0, 1, 1, 1, 4, 1000]), st.binary(max_size=6))


@dataclass(frozen=True, slots=True)
class Damage:
    """What becomes of one file of a folder: it is edited, or removed where there is no edit."""

    file: float
    edit: Edit | None

    def apply(self, folder: Path) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = files[min(int(self.file * len(files)), len(files) - 1)]
        if self.edit is None:
            path.unlink()
        else:
            path.write_bytes(self.edit.apply(path.read_bytes()))


damages = st.builds(Damage, st.floats(0, 1), st.one_of(st.none(), edits))


@contextmanager
def damaged(original: Path, damage: Damage) -> Any:
    """A copy of a folder, damaged."""
    with tempfile.TemporaryDirectory(prefix="dvi-fuzz-") as scratch:
        copy = shutil.copytree(original, Path(scratch) / "copy.zarr")
        damage.apply(copy)
        yield copy


@lru_cache(maxsize=1)
def scratch() -> Path:
    """A folder for what is damaged in copies."""
    return Path(tempfile.mkdtemp(prefix="dvi-fuzz-originals-"))


@lru_cache(maxsize=1)
def saved() -> Path:
    entries = (
        Entry("mu", "mu", (2,), 0, 2, ("group",), Transform("identity")),
        Entry("sigma", "sigma_log__", (), 2, 3, (), Transform("log")),
    )
    approximation = Approximation(
        MeanFieldFamily(3), np.linspace(-1, 1, 6), Layout(entries, {"group": ("a", "b")}), np.arange(9.0)
    )
    approximation.save(scratch() / "approximation.zarr")
    return scratch() / "approximation.zarr"


def load_damaged(damage: Damage) -> None:
    with damaged(saved(), damage) as copy:
        found = dvi.load(copy)
        expected = dvi.load(saved())
        same = np.array_equal(found.theta, expected.theta) and np.array_equal(found.hist, expected.hist)
        if not same or repr(found.layout) != repr(expected.layout) or found.run != expected.run:
            raise AssertionError(f"another approximation was read without an error: {found!r}")


@lru_cache(maxsize=1)
def stored() -> Path:
    path = scratch() / "data.zarr"
    dvi.ingest({"x": np.arange(400.0).reshape(100, 4), "y": np.arange(100)}, path, chunk_bytes=1000, shuffle=False)
    return path


def stream_damaged(damage: Damage) -> None:
    with damaged(stored(), damage) as copy:
        batch = dvi.Minibatch(str(copy / "x"), batch_size=10)
        bound = binding(batch)
        assert bound is not None
        source = bound.batch.source
        found = np.concatenate([source.read(chunk)[0] for chunk in range(source.n_chunks)])
        if not np.array_equal(found, np.arange(400.0).reshape(100, 4)):
            raise AssertionError("wrong rows were read without an error")


def ingest_text(text: bytes) -> None:
    ingest_file("table.csv", text)


def ingest_file(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="dvi-fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        dvi.ingest(str(path), MemoryStore(), chunk_bytes=10_000)


@lru_cache(maxsize=1)
def parquet() -> bytes:
    out = io.BytesIO()
    pd.DataFrame({"a": np.arange(50.0), "b": np.arange(50)}).to_parquet(out)
    return out.getvalue()


@lru_cache(maxsize=1)
def npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.arange(60.0).reshape(20, 3))
    return out.getvalue()


def huge_npy(shape: tuple[int, ...]) -> None:
    """A header that claims more rows than there are."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": shape})
    ingest_file("array.npy", out.getvalue() + b"\0" * 64)


def command(arguments: list[str]) -> None:
    """The command line ends with a code that is documented, and never with a traceback."""
    from typer.testing import CliRunner

    from dvi import cli

    found = CliRunner().invoke(cli.app, arguments)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code in {0, 1, 2}, found.exit_code


def call(arguments: tuple[str, Any, Any]) -> None:
    """A public name, called in a folder of its own."""
    import matplotlib as mpl

    mpl.use("Agg")
    name, one, other = arguments
    with tempfile.TemporaryDirectory(prefix="dvi-fuzz-") as folder, chdir(folder):
        CALLS[name](approximation(), one, other)


@lru_cache(maxsize=1)
def approximation() -> Approximation:
    return dvi.load(saved())


def batch(arguments: tuple[Any, Any, Any]) -> None:
    array, batch_size, dtype = arguments
    dvi.Minibatch(array, batch_size=batch_size, dtype=dtype)


csv_rows = st.lists(st.lists(st.text("0123456789.,-e\"'\n nax;é\0", max_size=6), max_size=4), max_size=6)
csv_bytes = st.one_of(
    csv_rows.map(lambda rows: "\n".join(",".join(row) for row in rows).encode()),
    st.binary(max_size=80),
    st.builds(lambda e: e.apply(b"a,b\n1,2\n3,4\n5,6\n"), edits),
    st.text(max_size=40).map(lambda text: text.encode("utf-16")),
)
names = st.sampled_from([*RUN, "n", "callback", "lr", "__class__"])
arrays = st.one_of(
    anything, st.just(np.zeros((3, 2))), st.just(np.zeros((0, 2))), st.just(np.array(["a"])), st.just(np.zeros(5, "f2"))
)


def records(classes: Mapping[str, Any], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Descriptions of settings: JSON of any kind, and some that have a known name and known fields."""

    def named(name: str) -> st.SearchStrategy[Any]:
        known = st.fixed_dictionaries({}, optional={field.name: values for field in fields(classes[name])})
        return known.map(lambda settings: {"name": name, **settings})

    return st.one_of(json_values, st.sampled_from(sorted(classes)).flatmap(named))


numbers = st.one_of(st.floats(), st.floats(0, 1), st.integers(0, 100), json_values)
rates = records(schedules.SCHEDULES, numbers)

TARGETS: dict[str, Target] = {
    "settings": Target(
        st.tuples(anything, st.dictionaries(names, anything, max_size=3)), lambda both: make_settings(*both)
    ),
    "optimizers": Target(records(optimizers.OPTIMIZERS, st.one_of(numbers, rates)), optimizers.from_json),
    "schedules": Target(rates, schedules.from_json),
    "references": Target(words, model_from),
    "calls": Target(st.tuples(st.sampled_from(sorted(CALLS)), anything, anything), call),
    "minibatch": Target(st.tuples(arrays, anything, anything), batch),
    "load": Target(damages, load_damaged),
    "zarr": Target(damages, stream_damaged),
    "csv": Target(csv_bytes, ingest_text),
    "parquet": Target(st.lists(edits, max_size=3), lambda es: ingest_file("t.parquet", _all(es, parquet()))),
    "npy": Target(st.lists(edits, max_size=2), lambda es: ingest_file("t.npy", _all(es, npy()))),
    "npy header": Target(st.lists(st.integers(-5, 10**15), max_size=3).map(tuple), huge_npy),
    "command line": Target(
        st.lists(
            st.one_of(st.sampled_from(["info", "ingest", "predict", "report", "resume", "--json", "-h"]), words),
            max_size=4,
        ),
        command,
    ),
}


def _all(changes: list[Edit], content: bytes) -> bytes:
    for change in changes:
        content = change.apply(content)
    return content


def property_of(target: Target, seen: collections.Counter[str]) -> Any:
    """What Hypothesis tries: that an input of a target has an outcome that is documented, and is counted."""

    @given(st.data())
    def run(data: st.DataObject) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen[outcome(target, data.draw(target.inputs))] += 1

    return run


def outcome(target: Target, value: Any) -> str:
    """``ok``, or the name of the documented error."""
    try:
        target.run(value)
    except DviError as error:
        return type(error).__name__
    return "ok"
