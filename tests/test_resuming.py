"""A fit that goes on from a checkpoint ends with the bits of one that was never stopped, and refuses anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytest
import zarr
from distributed import Client, LocalCluster
from zarr.storage import MemoryStore

import dvi
from dvi.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    DviWarning,
    NonFiniteError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from dvi.inference.stein import Stein
from dvi.persistence.checkpoints import read_checkpoint
from dvi.persistence.versions import current
from dvi.underway import Underway, packed, unpacked, with_steps

Y = np.random.default_rng(3).normal(2.0, 1.0, (2000, 2))
QUIET: dict[str, Any] = {"progressbar": False, "threads": 1}
N = 60


def conjugate(data: Any = Y, batch_size: int = 200, name: str = "mu") -> pm.Model:
    with pm.Model() as made:
        pm.Normal("y", pm.Normal(name, 0, 10, shape=2), 1.0, observed=dvi.Minibatch(data, batch_size=batch_size))
    return made


@pytest.fixture(scope="module")
def model() -> pm.Model:
    return conjugate()


def stop_at(step: int) -> Callable[..., None]:
    def stop(approx: Any, losses: Any, i: int) -> None:
        if i == step:
            raise StopIteration

    return stop


def bits(approx: dvi.Approximation) -> tuple[bytes, bytes]:
    return approx.theta.tobytes(), approx.hist.tobytes()


METHODS: dict[str, Callable[[pm.Model], dvi.Inference]] = {
    "advi": lambda m: dvi.ADVI(model=m, random_seed=1, estimator="entropy"),
    "fullrank": lambda m: dvi.FullRankADVI(model=m, random_seed=1),
    "lowrank": lambda m: dvi.LowRankADVI(model=m, random_seed=1, rank=1),
    "nfvi": lambda m: dvi.NFVI("planar-loc", model=m, random_seed=1),
    "groups": lambda m: dvi.KLqp(dvi.Structured([dvi.Group(["mu"], "full_rank")], model=m, random_seed=1)),
    "map": lambda m: dvi.MAP(model=m, random_seed=1),
    "svgd": lambda m: dvi.SVGD(n_particles=8, temperature=1.5, model=m, random_seed=1),
    "weighted svgd": lambda m: dvi.SVGD(n_particles=8, weighted=True, model=m, random_seed=1),
    "asvgd": lambda m: dvi.ASVGD(dvi.FullRank(model=m, random_seed=1), temperature=2.0),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS.keys())
def test_a_fit_that_goes_on_has_the_bits_of_one_that_was_never_stopped(
    make: Callable[[pm.Model], dvi.Inference], model: pm.Model
) -> None:
    draws = {"obj_n_mc": 6} if make is METHODS["asvgd"] else {}
    whole = make(model).fit(N, **draws, **QUIET)
    for step in (1, 12, 40, N):  # in the first stage, at its end, in the second, at the end of all
        store = MemoryStore()
        part = make(model).fit(N, callbacks=[stop_at(step)], checkpoint=store, **draws, **QUIET)
        assert len(part.hist) == step
        assert bits(dvi.load(store)) == bits(part)
        again = dvi.resume(store, model, callbacks=[], progressbar=False, threads=2)
        assert bits(again) == bits(whole)
        assert bits(dvi.load(store)) == bits(whole)
        assert bits(dvi.resume(store, model, callbacks=[], progressbar=False)) == bits(whole)


@pytest.mark.parametrize("optimizer", [None, dvi.momentum(1e-6)], ids=["default", "own"])
def test_a_fit_whose_steps_are_one_behind_goes_on_too(optimizer: Any, model: pm.Model) -> None:
    run: dict[str, Any] = {"staleness": 1, "obj_optimizer": optimizer, **QUIET}
    whole = METHODS["fullrank"](model).fit(N, **run)
    for step in (1, 12, 40):
        store = MemoryStore()
        METHODS["fullrank"](model).fit(N, callbacks=[stop_at(step)], checkpoint=store, **run)
        again = dvi.resume(store, model, callbacks=[], progressbar=False)
        assert bits(again) == bits(whole)


@pytest.mark.parametrize("step", [700, 1000, 2500])
def test_a_fit_until_convergence_goes_on_to_the_same_end(step: int, model: pm.Model) -> None:
    until: dict[str, Any] = {"random_seed": 1, "tolerance": 1e-6, "max_steps": 4000, **QUIET}
    with pytest.warns(DviWarning, match="max_steps"):
        whole = dvi.fit(None, model=model, **until)
    store = MemoryStore()
    dvi.fit(None, model=model, callbacks=[stop_at(step)], checkpoint=store, **until)
    with pytest.warns(DviWarning, match="max_steps"):
        again = dvi.resume(store, model, callbacks=[], **QUIET)
    assert bits(again) == bits(whole)
    with pytest.raises(ArgumentError, match="n=5000 is given, and the fit was started with n=None"):
        dvi.resume(store, model, 5000, callbacks=[])


@pytest.mark.cluster
def test_what_began_on_a_cluster_goes_on_with_threads_and_the_other_way_round(model: pm.Model) -> None:
    whole = dvi.fit(N, model=model, random_seed=1, **QUIET)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for first, second in (({"client": client}, {"threads": 1}), ({"threads": 1}, {"client": client})):
            store = MemoryStore()
            dvi.fit(
                N, model=model, random_seed=1, callbacks=[stop_at(30)], checkpoint=store, progressbar=False, **first
            )
            again = dvi.resume(store, model, callbacks=[], progressbar=False, **second)
            assert bits(again) == bits(whole)


def test_a_fit_goes_on_with_the_lanes_that_were_chosen_when_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version may choose others."""
    stored = zarr.create_array(MemoryStore(), data=np.tile(Y, (10, 1)), chunks=(5000, 2))
    made, store = conjugate(stored), MemoryStore()
    with monkeypatch.context() as patch:
        patch.setattr("dvi.execution.lane.default_lanes", lambda *of: 4)
        whole = dvi.ADVI(model=made, random_seed=1).fit(N, **QUIET)
        dvi.ADVI(model=made, random_seed=1).fit(N, checkpoint=store, callbacks=[stop_at(20)], **QUIET)
    assert whole.run["lanes"][0]["lanes"] == 4
    assert bits(dvi.resume(store, made, progressbar=False, threads=1, callbacks=[])) == bits(whole)


def test_a_fit_can_go_on_more_than_once_and_after_a_fit_before(model: pm.Model, tmp_path: Path) -> None:
    run: dict[str, Any] = {"obj_optimizer": dvi.momentum(1e-5), "obj_n_mc": 4, "lanes": 1, **QUIET}
    whole, parts = (dvi.ADVI(model=model, random_seed=1) for _ in range(2))
    for advi in (whole, parts):
        advi.fit(20, **run)
    whole.fit(N, **run)
    parts.fit(N, callbacks=[stop_at(30)], checkpoint=tmp_path / "run", **run)
    for step in (31, 50):
        dvi.resume(tmp_path / "run", model, callbacks=[stop_at(step)], **QUIET)
    assert bits(dvi.resume(tmp_path / "run", model, callbacks=[], **QUIET)) == bits(whole.approx)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_refine_goes_on_writing_to_the_same_place(model: pm.Model) -> None:
    store = MemoryStore()
    advi = dvi.ADVI(model=model, random_seed=1)
    advi.fit(20, checkpoint=store, **QUIET)
    approx = advi.refine(30)
    assert bits(dvi.load(store)) == bits(approx)
    assert bits(dvi.resume(store, model, **QUIET)) == bits(approx)
    with pytest.raises(StoreExistsError, match=r"the checkpoints of another fit\. Go on with it by dvi\.resume"):
        advi.fit(20, checkpoint=store, **QUIET)


# Another number of steps


@pytest.mark.parametrize(("stopped", "n"), [(5, 90), (5, 8), (30, 90), (30, 40), (60, 90), (30, 30)])
def test_another_number_of_steps(stopped: int, n: int, model: pm.Model) -> None:
    store = MemoryStore()
    part = dvi.fit(N, model=model, random_seed=1, callbacks=[stop_at(stopped)], checkpoint=store, **QUIET)
    rates: list[Any] = []
    approx = dvi.resume(store, model, n, callbacks=[lambda a, *_: rates.append(a.learning_rate)], **QUIET)
    assert len(approx.hist) == n
    assert np.array_equal(approx.hist[:stopped], part.hist)
    assert bits(dvi.resume(store, model, callbacks=[], **QUIET)) == bits(approx)
    if n > stopped:
        assert rates[-1] < 0.05 * max(rates) or n - stopped < 5


def test_fewer_steps_than_are_done_are_refused(model: pm.Model) -> None:
    store = MemoryStore()
    dvi.fit(N, model=model, random_seed=1, checkpoint=store, **QUIET)
    with pytest.raises(ArgumentError, match="n=59 is less than the 60 steps that are done"):
        dvi.resume(store, model, 59, **QUIET)


# What no file can hold


class Own:
    """An optimizer of other make."""

    def __init__(self, n_slots: int = 1) -> None:
        self.n_slots = n_slots

    def init(self, theta: Any) -> Any:
        return (np.zeros_like(theta),) * self.n_slots

    def update(self, step: int, theta: Any, gradient: Any, state: Any, scale: float = 1.0) -> Any:
        velocity = 0.9 * state[0] - 1e-5 * gradient
        return theta + velocity, (velocity,)


def test_an_optimizer_of_other_make_has_to_be_given_again(model: pm.Model) -> None:
    whole = dvi.fit(N, model=model, random_seed=1, obj_optimizer=Own(), **QUIET)
    store = MemoryStore()
    run = {"obj_optimizer": Own(), "callbacks": [stop_at(30)], "checkpoint": store}
    dvi.fit(N, model=model, random_seed=1, **run, **QUIET)
    with pytest.raises(ArgumentError, match="the fit had obj_optimizer, which no checkpoint can hold"):
        dvi.resume(store, model, callbacks=[], **QUIET)
    with pytest.raises(ArgumentError, match="obj_optimizer is not that of the fit"):
        dvi.resume(store, model, callbacks=[], obj_optimizer=Own(2), **QUIET)
    again = dvi.resume(store, model, callbacks=[], obj_optimizer=Own(), **QUIET)
    assert bits(again) == bits(whole)


@pytest.mark.parametrize("rate", [lambda step: 1e-3, pytensor.shared(1e-3)], ids=["function", "shared"])
def test_a_learning_rate_that_lives_here_has_to_be_given_again(rate: Any, model: pm.Model) -> None:
    store = MemoryStore()
    optimizer = dvi.adam(learning_rate=rate)
    dvi.fit(N, model=model, callbacks=[stop_at(3)], checkpoint=store, obj_optimizer=optimizer, **QUIET)
    with pytest.raises(ArgumentError, match="the fit had obj_optimizer"):
        dvi.resume(store, model, callbacks=[], **QUIET)
    assert len(dvi.resume(store, model, callbacks=[], obj_optimizer=optimizer, **QUIET).hist) == N


def test_callbacks_and_replacements_have_to_be_given_again_and_others_are_refused() -> None:
    y, other = (dvi.Minibatch(data, batch_size=200) for data in (Y, Y + 5))
    with pm.Model() as own:
        pm.Normal("y", pm.Normal("mu", 0, 10, shape=2), 1.0, observed=y)
    run: dict[str, Any] = {"model": own, "random_seed": 1, "more_replacements": {y: other}, **QUIET}
    whole, store = dvi.fit(N, **run), MemoryStore()
    dvi.fit(N, callbacks=[stop_at(3)], checkpoint=store, **run)
    with pytest.raises(ArgumentError, match="the fit had callbacks, which"):
        dvi.resume(store, own, more_replacements={y: other}, **QUIET)
    with pytest.raises(ArgumentError, match="the fit had more_replacements, which"):
        dvi.resume(store, own, callbacks=[], **QUIET)
    with pytest.raises(ArgumentError, match="without the obj_optimizer that is given"):
        dvi.resume(store, own, callbacks=[], more_replacements={y: other}, obj_optimizer=dvi.sgd(0.1), **QUIET)
    assert bits(dvi.resume(store, own, callbacks=[], more_replacements={y: other}, **QUIET)) == bits(whole)


# What is not the same


@pytest.fixture(scope="module")
def stopped(model: pm.Model) -> MemoryStore:
    store = MemoryStore()
    dvi.fit(N, model=model, random_seed=1, callbacks=[stop_at(3)], checkpoint=store, **QUIET)
    return store


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"name": "nu"}, ArgumentError, "model is not the one that .* was fitted to: "),
        ({"data": Y[:1500]}, DataError, r"minibatch\.0 has shape \[1500, 2\], and had \[2000, 2\]"),
        ({"data": np.concatenate([Y[:-1], Y[:1]])}, DataError, r"the rows of minibatch\.0 have changed"),
        ({"data": Y.astype("f4")}, DataError, r"minibatch\.0 has dtype float32, and had float64"),
        ({"batch_size": 100}, DataError, "term 0 has batch size 100, and had 200"),
    ],
)
def test_another_model_or_other_data_are_refused(
    other: dict[str, Any], error: type[Exception], message: str, stopped: MemoryStore
) -> None:
    with pytest.raises(error, match=message):
        dvi.resume(stopped, conjugate(**other), callbacks=[], **QUIET)
    assert len(dvi.load(stopped).hist) == 3


def test_places_that_hold_no_checkpoint(model: pm.Model, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        dvi.resume(tmp_path / "nothing", model)
    dvi.MeanField(model=model).save(tmp_path / "saved")
    with pytest.raises(StoreError, match="saved at the end of a fit, not a checkpoint"):
        dvi.resume(tmp_path / "saved", model)
    with pytest.raises(StoreExistsError, match="exists already"):
        dvi.fit(N, model=model, checkpoint=tmp_path / "saved", **QUIET)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(StoreError):
        dvi.fit(N, model=model, checkpoint=tmp_path, **QUIET)
    with pytest.raises(ArgumentTypeError, match="store=3"):
        dvi.fit(N, model=model, checkpoint=3, **QUIET)


@pytest.mark.parametrize(
    "change",
    [
        lambda training: training["run"]["state"].update(step=10**9),
        lambda training: training["run"]["state"]["theta"].update(shape=[10**15]),
        lambda training: training["run"]["state"]["theta"].update(start=-5),
        lambda training: training["run"].update(surprise=1),
        lambda training: training["run"].pop("leg"),
        lambda training: training["method"].update(name="__class__"),
        lambda training: training["method"].update(name="svgd"),
        lambda training: training["settings"]["run"].pop("lanes"),
        lambda training: training["settings"].update(obj_optimizer={"name": "os.system"}),
        lambda training: training.clear(),
    ],
)
def test_damage_is_an_error_of_dvi(change: Callable[[Any], object], stopped: MemoryStore, model: pm.Model) -> None:
    store = MemoryStore(dict(stopped._store_dict))
    group = zarr.open_group(store, path=current(zarr.open_group(store, mode="r"), "the run").path, mode="r+")
    training: Any = group.attrs["training"]
    change(training)
    group.attrs["training"] = training
    with pytest.raises((StoreError, ArgumentError)):
        dvi.resume(store, model, callbacks=[], **QUIET)


def test_methods_that_cannot_be_resumed_take_no_checkpoint(model: pm.Model) -> None:
    class Another(Stein):
        pass

    with pytest.raises(ArgumentTypeError, match="cannot be resumed, so it takes no checkpoint"):
        dvi.Inference(dvi.FullRank(model=model), Another()).fit(N, checkpoint=MemoryStore(), **QUIET)
    with pytest.raises(ArgumentTypeError, match="checkpoint has no use in deterministic inference"):
        dvi.DADVI(model=model).fit(checkpoint=MemoryStore(), **QUIET)
    with pytest.raises(ArgumentError, match="keep=0"):
        dvi.fit(N, model=model, keep=0)
    with pytest.raises(ArgumentError, match="checkpoint_every"):
        dvi.fit(N, model=model, checkpoint_every=0.0)


# The record


def test_a_run_is_packed_and_unpacked_bit_for_bit(stopped: MemoryStore) -> None:
    saved = read_checkpoint(stopped)
    run = unpacked(saved.record["run"], saved.numbers)
    record, numbers = packed(run)
    assert record == saved.record["run"]
    assert numbers.tobytes() == saved.numbers.tobytes()
    assert isinstance(run, Underway)
    assert with_steps(run, N, N) is run


def test_an_error_names_the_checkpoint_and_its_state_is_the_last_good_one(model: pm.Model) -> None:
    whole, store = dvi.fit(N, model=model, random_seed=1, **QUIET), MemoryStore()

    def fail(approx: Any, losses: Any, i: int) -> None:
        if i == 20:
            raise NonFiniteError("planted")

    with pytest.raises(NonFiniteError, match="planted") as caught:
        dvi.fit(N, model=model, random_seed=1, callbacks=[fail], checkpoint=store, **QUIET)
    assert any("dvi.resume(" in note for note in caught.value.__notes__)
    assert len(dvi.load(store).hist) == 20
    assert bits(dvi.resume(store, model, callbacks=[], **QUIET)) == bits(whole)
