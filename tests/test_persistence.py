"""A saved approximation reads back with the same bits, and a store is whole, absent or refused."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
import pytest
import xarray as xr
import zarr
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from dvi import persistence
from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import (
    ArgumentError,
    ArgumentTypeError,
    ModelError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from dvi.model.graph import split
from dvi.model.layout import Entry, Layout, Transform
from dvi.persistence import load, places, records, save

RUN = {"method": "advi", "seed": 2**62 + 1, "lanes": [{"batch_size": 10}], "data": [{"n_rows": 3, "arrays": []}]}


def every_transform() -> pm.Model:
    with pm.Model(coords={"group": ["a", "b", "c"], "day": np.array(["2024-01-01", "2024-01-02"], "M8[D]")}) as model:
        plain = pm.Normal("plain", dims=("group", "day"))
        pm.HalfNormal("log", dims="group")
        pm.Beta("logodds", 2, 2)
        pm.Uniform("interval", -1, 3)
        pm.TruncatedNormal("one_sided", 0, 1, lower=1.5)
        pm.Normal("ordered", shape=3, transform=pm.distributions.transforms.ordered, initval=[-1, 0, 1])
        pm.Dirichlet("simplex", np.ones(3), dims="group")
        pm.ZeroSumNormal("zerosum", dims="group")
        pm.VonMises("circular", 0, 1)
        pm.Deterministic("twice", 2 * plain, dims=("group", "day"))
    return model


def approximation_of(layout: Layout, model: pm.Model | None = None, seed: int = 1) -> Approximation:
    rng = np.random.default_rng(seed)
    family = MeanFieldFamily(layout.ndim)
    theta = rng.normal(0, 0.5, 2 * layout.ndim)
    return Approximation(family, theta, layout, rng.normal(100, 1, 50), dict(RUN), model)


def tiny(seed: int = 1) -> Approximation:
    entries = (
        Entry("mu", "mu", (2,), 0, 2, ("group",), Transform("identity")),
        Entry("sigma", "sigma_log__", (), 2, 3, (), Transform("log")),
    )
    return approximation_of(Layout(entries, {"group": ("a", "b")}), seed=seed)


def same(a: Approximation, b: Approximation) -> bool:
    return a.theta.tobytes() == b.theta.tobytes() and a.hist.tobytes() == b.hist.tobytes() and a.layout == b.layout


def posterior(approx: Approximation, draws: int = 20) -> xr.Dataset:
    return approx.sample(draws, random_seed=1).posterior.to_dataset()


@pytest.fixture(scope="module")
def full() -> Approximation:
    model = every_transform()
    return approximation_of(split(model).layout, model)


@pytest.fixture(scope="module")
def full_store(full: Approximation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "run.zarr"
    save(full, path)
    return path


@pytest.fixture(scope="module")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "run.zarr"
    save(tiny(), path)
    return path


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(tiny_store, tmp_path / "run.zarr")


# Round trips


def test_every_transform_reads_back_without_a_model(full: Approximation, full_store: Path) -> None:
    kinds = {e.transform.kind for e in full.layout.entries}
    assert kinds == {"identity", "log", "logodds", "interval", "ordered", "simplex", "zerosum", "circular"}
    loaded = load(full_store)
    assert loaded.model is None
    assert same(loaded, full)
    assert loaded.family == full.family
    assert loaded.run == full.run
    before, after = posterior(full), posterior(loaded)
    assert set(before) - set(after) == {"twice"}
    for name, values in after.items():
        assert values.dims == before[name].dims
        assert values.values.tobytes() == before[name].values.tobytes(), name


def test_with_the_model_the_deterministics_come_back(full: Approximation, full_store: Path) -> None:
    xr.testing.assert_identical(posterior(load(full_store, full.model)).drop_attrs(), posterior(full).drop_attrs())


def test_arviz_and_xarray_read_the_store(full: Approximation, full_store: Path) -> None:
    with xr.open_datatree(full_store, engine="zarr") as tree:
        assert set(tree.children) == {"posterior", "approximation", "history"}
        expected = full.sample(1000, random_seed=0).posterior.to_dataset()
        xr.testing.assert_equal(tree["posterior"].to_dataset(), expected)
        summary = az.summary(tree)
        assert len(summary) == sum(v[0, 0].size for v in expected.values())
        parameters = tree["approximation"].to_dataset()
        np.testing.assert_array_equal(parameters["mu"], full.params["mu"])
        np.testing.assert_array_equal(parameters["rho"], full.params["rho"])
        assert parameters["unconstrained"].values.tolist() == full.layout.names()
        np.testing.assert_array_equal(tree["history"]["loss"], full.hist)
        assert tree["history"]["step"].values.tolist() == list(range(1, 51))
        assert tree.attrs["run"] == RUN
        assert dt.datetime.fromisoformat(tree.attrs["created"]).tzinfo is not None


def test_attributes_are_strict_json(full_store: Path) -> None:
    def refuse(token: str) -> None:
        raise AssertionError(token)

    for path in full_store.rglob("zarr.json"):
        json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize(
    "values",
    [
        ("a", "b"),
        (1, 2),
        (0.5, float("inf")),
        (True, False),
        (dt.date(2024, 1, 1), dt.date(2024, 2, 1)),
        (dt.datetime(2024, 1, 1, 12), dt.datetime(2024, 1, 2)),  # noqa: DTZ001 as a coordinate has it
        tuple(np.array(["2024-01-01", "2024-01-02"], "M8[ns]")),
        tuple(np.array([1, 2], "m8[s]")),
    ],
    ids=str,
)
def test_coordinates_of_any_type_read_back(values: tuple[Any, ...]) -> None:
    entry = Entry("mu", "mu", (2,), 0, 2, ("group",), Transform("identity"))
    approx = approximation_of(Layout((entry,), {"group": values}))
    store = MemoryStore()
    save(approx, store)
    loaded = load(store)
    assert loaded.layout == approx.layout
    tree = xr.open_datatree(store, engine="zarr")
    np.testing.assert_array_equal(tree["posterior"]["group"], posterior(loaded)["group"])


def test_coordinates_of_no_type_that_arrays_have_become_text() -> None:
    entry = Entry("mu", "mu", (2,), 0, 2, ("group",), Transform("identity"))
    store = MemoryStore()
    save(approximation_of(Layout((entry,), {"group": (None, 1)})), store)
    assert load(store).layout.coords == {"group": ("None", "1")}


def test_an_approximation_that_was_not_fitted_yet() -> None:
    approx = tiny()
    approx.hist = np.empty(0)
    store = MemoryStore()
    save(approx, store)
    assert same(load(store), approx)


def test_a_transform_that_only_the_model_knows() -> None:
    with pm.Model() as model:
        upper = pm.HalfNormal("upper")
        pm.Uniform("x", 0, upper)
    approx = approximation_of(split(model).layout, model)
    store = MemoryStore()
    save(approx, store)
    assert same(load(store), approx)
    with pytest.raises(ModelError, match="model="):
        load(store).sample(10)
    np.testing.assert_array_equal(posterior(load(store, model))["x"], posterior(approx)["x"])


def test_a_long_array_is_cut_into_chunks_of_bounded_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places, "_CHUNK_BYTES", 1600)
    save(tiny(), tmp_path / "run.zarr")
    root = zarr.open_group(tmp_path / "run.zarr", mode="r")
    assert root["posterior/mu"].chunks == (1, 100, 2)
    assert same(load(tmp_path / "run.zarr"), tiny())


# Places


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
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    import fsspec

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
    with pytest.raises(StoreError) as caught:
        load("nosuch://user:secret@host/run.zarr?signature=secret")
    assert "secret" not in str(caught.value)


def test_a_run_that_json_cannot_hold(tmp_path: Path) -> None:
    approx = tiny()
    for value in (object(), float("nan")):
        approx.run["note"] = value
        with pytest.raises(ArgumentError, match=r"approx\.run"):
            save(approx, tmp_path / "run.zarr")
    assert list(tmp_path.iterdir()) == []


# Whole or absent

STEPS = [
    (places, "_write"),
    (places, "_encoding"),
    (places, "_flush"),
    (places, "_publish"),
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


def stop_at_move(monkeypatch: pytest.MonkeyPatch, number: int, error: type[BaseException]) -> None:
    """Fail in place of one of the moves of a publication, and of those after it."""
    move, count = Path.replace, iter(range(100))

    def replace(self: Path, target: Path) -> Path:
        if next(count) >= number:
            raise error("planted")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("number", range(4))
def test_a_save_that_is_killed_between_two_moves(number: int, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt stands for SIGKILL: nothing is put back."""
    with monkeypatch.context() as patch:
        stop_at_move(patch, number, KeyboardInterrupt)
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
    move = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("planted")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(StoreError, match="planted"):
        save(tiny(2), store, overwrite=True)
    assert [p.name for p in store.parent.iterdir()] == [store.name]
    assert same(load(store), tiny())


def test_what_appears_while_saving_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.zarr"
    write = places._write

    def write_after_another(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(places, "_write", write)
        save(tiny(2), path)
        write(*args, **kwargs)

    monkeypatch.setattr(places, "_write", write_after_another)
    with pytest.raises(StoreExistsError):
        save(tiny(1), path)
    assert same(load(path), tiny(2))
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize("old", [None, tiny(1)], ids=["new", "overwrite"])
def test_without_rename_a_save_that_was_stopped_is_refused_and_can_be_repeated(
    old: Approximation | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    if old is not None:
        save(old, store)
    with monkeypatch.context() as patch:
        to_zarr = xr.DataTree.to_zarr

        def to_zarr_and_stop(self: xr.DataTree, *args: Any, **kwargs: Any) -> None:
            to_zarr(self, *args, **kwargs)
            raise ConnectionError("planted")

        patch.setattr(xr.DataTree, "to_zarr", to_zarr_and_stop)
        with pytest.raises(StoreError, match="planted"):
            save(tiny(2), store, overwrite=True)
    with pytest.raises(StoreError, match="not saved to its end"):
        load(store)
    save(tiny(2), store)
    assert same(load(store), tiny(2))


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


# Damage


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
       for value in (None, "text", 7, -1, [1], {"a": 1})},
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


def test_a_newer_format_says_which_dvi_to_use(store: Path) -> None:
    edit(store, lambda m: m["attributes"].update(dvi_format=2, dvi_version="9.0"))
    with pytest.raises(StoreError, match=r"of dvi 9\.0"):
        load(store)


def test_names_from_a_file_are_only_names(store: Path) -> None:
    edit(store, lambda m: m["attributes"]["layout"]["entries"][1].update(name="__class__", value_name="../../x"))
    loaded = load(store)
    assert type(loaded.layout) is Layout
    assert "__class__" in posterior(loaded)


# Models


def test_another_model_is_refused_with_the_difference(store: Path) -> None:
    with pm.Model() as model:
        pm.Normal("mu", shape=2)
        pm.Normal("sigma")
    with pytest.raises(ArgumentError, match=r"'sigma'.*transform"):
        load(store, model)
    with pytest.raises(ArgumentTypeError, match=r"pm\.Model"):
        load(store, "model")


def test_save_is_a_method_too(tmp_path: Path) -> None:
    tiny().save(tmp_path / "run.zarr")
    tiny(2).save(tmp_path / "run.zarr", overwrite=True)
    assert same(load(tmp_path / "run.zarr"), tiny(2))
