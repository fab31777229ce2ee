"""A saved approximation reads back with the same bits, and ArviZ and xarray read it too."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore

from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError
from dvi.model.graph import split
from dvi.model.layout import Entry, Layout, Transform
from dvi.persistence import load, places, save

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


def test_another_model_is_refused_with_the_difference(tiny_store: Path) -> None:
    with pm.Model() as model:
        pm.Normal("mu", shape=2)
        pm.Normal("sigma")
    with pytest.raises(ArgumentError, match=r"'sigma'.*transform"):
        load(tiny_store, model)
    with pytest.raises(ArgumentTypeError, match=r"pm\.Model"):
        load(tiny_store, "model")


def test_save_is_a_method_too(tmp_path: Path) -> None:
    tiny().save(tmp_path / "run.zarr")
    tiny(2).save(tmp_path / "run.zarr", overwrite=True)
    assert same(load(tmp_path / "run.zarr"), tiny(2))
