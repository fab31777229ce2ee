"""Every place to run gives the same bits: one row for each driver and size."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import pymc as pm
import pytest
from distributed import Client, LocalCluster

import dvi
from dvi.errors import NonFiniteError
from dvi.execution.cluster import server

PLACES: dict[str, dict[str, Any]] = {
    "one thread": {"threads": 1},
    "two threads": {"threads": 2},
    "five threads": {"threads": 5},
    "one worker in this process": {"processes": False, "n_workers": 1, "threads_per_worker": 2},
    "two workers in this process": {"processes": False, "n_workers": 2, "threads_per_worker": 1},
    "one process": {"n_workers": 1, "threads_per_worker": 1},
    "two processes": {"n_workers": 2, "threads_per_worker": 1},
    "three processes": {"n_workers": 3, "threads_per_worker": 1},
}


@contextlib.contextmanager
def place(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Keywords of fit() that run it in a place."""
    if "threads" in settings:
        yield settings
        return
    with LocalCluster(dashboard_address=":0", **settings) as cluster, Client(cluster) as client:
        yield {"client": client}


def logistic() -> pm.Model:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30_000, 8))
    y = (rng.random(30_000) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.int8)
    group = rng.integers(0, 5, 30_000).astype(np.int16)
    xs, ys, groups = dvi.Minibatch(x, y, group, batch_size=8192)
    with pm.Model() as model:
        b = pm.Normal("b", 0, 1, shape=8)
        a = pm.Normal("a", 0, pm.HalfNormal("s"), shape=5)
        pm.Bernoulli("y", logit_p=xs @ b + a[groups], observed=ys)
    return model


def hierarchical_robust(folder: Any) -> pm.Model:
    rng = np.random.default_rng(2)
    n = 20_000
    data = {
        "delay": rng.standard_t(3, n) * 20,
        "carrier": rng.integers(0, 16, n).astype(np.int16),
        "distance": rng.normal(size=n),
    }
    stored = dvi.ingest(data, folder / "flights.zarr", chunk_bytes=16_000, progressbar=False)
    y, carrier, distance = dvi.Minibatch(stored["delay"], stored["carrier"], stored["distance"], batch_size=5000)
    with pm.Model() as model:
        effect = pm.Normal("effect", 0, pm.HalfNormal("scale", 10), shape=16)
        mu = pm.Normal("mu", 0, 10) + effect[carrier] + pm.Normal("slope", 0, 5) * distance
        pm.StudentT("delay", nu=pm.Gamma("nu", 2, 0.1), mu=mu, sigma=pm.HalfNormal("sigma", 20), observed=y)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pm.Model]:
    folder = tmp_path_factory.mktemp("flights")
    return {"logistic": logistic(), "robust": hierarchical_robust(folder), "ordinary": ordinary()}


def digest(approx: dvi.Approximation) -> str:
    return hashlib.sha256(approx.theta.tobytes() + approx.hist.tobytes()).hexdigest()


def ordinary() -> pm.Model:
    """Without a Minibatch: everything is in the prior term."""
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 3, shape=2), 1.0, observed=np.random.default_rng(3).normal(size=(50, 2)))
    return model


def particles(n: int) -> dict[str, Any]:
    return {"method": "svgd", "n": 10, "inf_kwargs": {"n_particles": n, "jitter": 0.5}}


# Every method that has work of its own to share, by the model it is run on.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "advi, logistic": ("logistic", {"n": 60}),
    "advi, robust": ("robust", {"n": 60}),
    "one step behind": ("robust", {"n": 60, "staleness": 1}),
    "full rank, four draws": ("logistic", {"n": 40, "method": "fullrank_advi", "obj_n_mc": 4}),
    "particles on minibatches": ("logistic", particles(300)),
    "particles without": ("ordinary", particles(700)),
}


@pytest.fixture(scope="module")
def alone(models: dict[str, pm.Model]) -> dict[str, str]:
    """What one thread gives."""
    fits = {name: fit(models, name, threads=1) for name in METHODS}
    assert all(term["lanes"] == 4 for approx in fits.values() for term in approx.run["lanes"])
    return {name: digest(approx) for name, approx in fits.items()}


def fit(models: dict[str, pm.Model], name: str, **where: Any) -> dvi.Approximation:
    model, settings = METHODS[name]
    return dvi.fit(model=models[model], random_seed=5, lanes=4, progressbar=False, **settings, **where)


@pytest.mark.parametrize("name", PLACES)
def test_the_bits_are_those_of_one_thread(name: str, models: dict[str, pm.Model], alone: dict[str, str]) -> None:
    assert len(set(alone.values())) == len(METHODS)
    with place(PLACES[name]) as where:
        assert {name: digest(fit(models, name, **where)) for name in METHODS} == alone


@pytest.mark.parametrize(
    ("name", "waits"), [("one thread", False), ("two threads", True), ("two workers in this process", True)]
)
def test_a_fit_tells_where_its_time_went(name: str, waits: bool, models: dict[str, pm.Model]) -> None:
    with place(PLACES[name]) as where:
        course = fit(models, "advi, robust", **where).run["course"][0]
    read, compute, wait, seconds = (course[name][-1] for name in ("read", "compute", "wait", "seconds"))
    assert read >= 0
    assert compute > 0
    assert (wait > 0) == waits
    assert read + compute + wait <= seconds + 0.01  # rounded


@pytest.mark.parametrize("name", ["two threads", "two workers in this process"])
def test_a_likelihood_that_is_not_finite_names_the_row(name: str) -> None:
    y = np.ones(3000)
    y[1234] = -1.0  # outside the support
    with pm.Model() as model:
        pm.Exponential("y", pm.HalfNormal("rate"), observed=dvi.Minibatch(y, batch_size=3000))
    with (
        place(PLACES[name]) as where,
        pytest.raises(NonFiniteError, match=r"row 1234 in chunk 0, where minibatch.0=-1"),
    ):
        dvi.fit(5, model=model, random_seed=1, progressbar=False, **where)


@pytest.mark.parametrize("name", ["two threads", "two workers in this process"])
def test_nan_in_the_data_names_array_chunk_and_row(name: str) -> None:
    y = np.zeros(3000)
    y[77] = np.nan
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=dvi.Minibatch(y, batch_size=100))
    with place(PLACES[name]) as where, pytest.raises(NonFiniteError, match=r"minibatch\.0.*chunk 0.*row 77"):
        dvi.fit(5, model=model, random_seed=1, progressbar=False, **where)


@pytest.mark.parametrize("name", ["two threads", "two processes"])
def test_a_likelihood_whose_rows_depend_on_each_other_is_refused(name: str) -> None:
    y = dvi.Minibatch(np.random.default_rng(0).normal(size=3000), batch_size=100)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu") + y.mean(), 1.0, observed=y)
    with place(PLACES[name]) as where, pytest.raises(dvi.errors.ModelError, match="not a sum over rows"):
        dvi.fit(5, model=model, random_seed=1, progressbar=False, **where)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("name", ["two threads", "two workers in this process"])
def test_rows_of_which_a_chunk_holds_one_and_a_lane_takes_one(name: str, batch_size: int) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 10_000))  # so long that chunks are not merged
    with pm.Model() as model:
        batch = dvi.Minibatch(da.from_array(rows, chunks=(1, -1)), batch_size=batch_size)
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=batch)
    settings = {"random_seed": 1, "progressbar": False}
    with place(PLACES[name]) as where:
        found = dvi.fit(20, model=model, **settings, **where)
    alone = dvi.fit(20, model=model, threads=1, **settings)
    assert found.theta.tobytes() == alone.theta.tobytes()


def test_hosts_have_the_following_request_where_steps_are_one_behind(
    models: dict[str, pm.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    matches = server._Early.matches

    def told(early: Any, *arguments: Any) -> bool:
        found.append(matches(early, *arguments))
        return found[-1]

    monkeypatch.setattr(server._Early, "matches", told)
    with place(PLACES["two workers in this process"]) as where:
        settings = {"obj_optimizer": dvi.adam(0.01), "random_seed": 1, "progressbar": False, "staleness": 1}
        dvi.fit(30, model=models["robust"], **settings, **where)
    assert found.count(True) >= 28  # all but the first, across blocks of steps
    assert all(found)
