"""What a user can ask of an approximation, and what PyMC would answer."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import arviz_base
import cloudpickle
import numpy as np
import pymc as pm
import pytest
import xarray as xr
import zarr
from scipy.stats import norm
from zarr.storage import MemoryStore

import dvi
from dvi import sampling
from dvi.approximation import Approximation
from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.data.store import COMPLETE
from dvi.errors import ArgumentError, ModelError, StoreError, StoreExistsError
from dvi.model.graph import split
from tests.stopping import ENDLESS, StoppingStore

QUICK = "FAST_COMPILE"


def regression(data: Any = None) -> pm.Model:
    with pm.Model(coords={"group": ["a", "b", "c"]}) as model:
        mu = pm.Normal("mu", dims="group")
        sigma = pm.HalfNormal("sigma")
        pm.Dirichlet("share", np.ones(3), dims="group")
        pm.Deterministic("scaled", mu * sigma, dims="group")
        if data is not None:
            pm.Normal("y", mu.sum(), sigma, observed=data)
    return model


def approximation(model: pm.Model, sd: float = 0.7) -> Approximation:
    layout = split(model).layout
    family = MeanFieldFamily(layout.ndim)
    theta = family.initial(np.linspace(-1, 1, layout.ndim), np.full(layout.ndim, sd))
    return Approximation(family, theta, layout, np.empty(0), {"method": "advi"}, model)


@pytest.fixture(scope="module")
def approx() -> Approximation:
    return approximation(regression())


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_BLOCK_DRAWS", 16)


@pytest.fixture(params=["path", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return tmp_path / "new" / "draws.zarr" if request.param == "path" else MemoryStore()


class TestSample:
    def test_dims_and_coords_are_kept(self, approx: Approximation) -> None:
        posterior = approx.sample(20, random_seed=1)["posterior"]
        assert dict(posterior.sizes) == {"chain": 1, "draw": 20, "group": 3}
        assert posterior["group"].values.tolist() == ["a", "b", "c"]
        np.testing.assert_allclose(posterior["scaled"], posterior["mu"] * posterior["sigma"])

    @pytest.mark.usefixtures("small_blocks")
    def test_a_store_holds_the_same_draws(self, approx: Approximation, place: Any) -> None:
        lazy = approx.sample(50, random_seed=1, store=place)
        assert lazy["posterior"]["mu"].encoding["chunks"] == (1, 16, 3)
        assert not lazy["posterior"]["mu"].variable._in_memory
        expected = approx.sample(50, random_seed=1)["posterior"].to_dataset()
        xr.testing.assert_equal(lazy["posterior"].to_dataset().load(), expected)

    def test_a_store_is_not_replaced(self, approx: Approximation, place: Any) -> None:
        approx.sample(5, store=place)
        with pytest.raises(StoreExistsError, match="exists already"):
            approx.sample(5, store=place)

    @pytest.mark.usefixtures("small_blocks")
    def test_a_store_is_whole_or_absent(
        self, approx: Approximation, place: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Drawing fails in the second block."""
        to_tree, made = sampling.to_tree, []

        def fail(*arguments: Any) -> Any:
            made.append(arguments)
            if len(made) == 2:
                raise RuntimeError("stopped")
            return to_tree(*arguments)

        monkeypatch.setattr(sampling, "to_tree", fail)
        with pytest.raises(StoreError, match="stopped"):
            approx.sample(50, store=place)
        if isinstance(place, Path):
            assert not list(place.parent.iterdir())
        else:
            assert zarr.open_group(place, mode="r").attrs[COMPLETE] is False
        monkeypatch.setattr(sampling, "to_tree", to_tree)
        assert approx.sample(50, store=place).sizes == {}
        assert xr.open_datatree(place, engine="zarr").attrs[COMPLETE] is True

    @pytest.mark.usefixtures("small_blocks")
    def test_a_write_that_is_stopped_anywhere_in_a_store_that_cannot_rename_can_be_repeated(
        self, approx: Approximation
    ) -> None:
        expected = approx.sample(20, random_seed=1)["posterior"].to_dataset()
        for left in itertools.count():
            store = StoppingStore()
            store.left = left
            with suppress(StoreError):
                approx.sample(20, random_seed=1, store=store)
                break
            store.left = ENDLESS
            with suppress(StoreExistsError):  # all but a copy of the metadata was written
                approx.sample(20, random_seed=1, store=store)
            found = xr.open_datatree(store, engine="zarr", consolidated=False)["posterior"].to_dataset()
            xr.testing.assert_equal(found.load(), expected)
        assert left > 20

    def test_blocks_are_bounded_in_bytes(self, approx: Approximation, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampling, "_BLOCK_BYTES", 2000)
        blocks = list(approx._blocks(40, 1))
        assert max(b.Z.nbytes + sum(v.nbytes for v in b.values.values()) for b in blocks) <= 2000
        assert sum(len(b.Z) for b in blocks) == 40

    def test_multitrace_is_that_of_pymc(self, approx: Approximation) -> None:
        trace = approx.sample(20, random_seed=1, return_inferencedata=False)
        with approx.model:
            expected = pm.fit(1, progressbar=False, random_seed=1).sample(2, return_inferencedata=False)
        assert trace.varnames == expected.varnames
        assert len(trace) == 20
        posterior = approx.sample(20, random_seed=1)["posterior"]
        np.testing.assert_array_equal(trace["scaled"], posterior["scaled"][0])
        np.testing.assert_allclose(np.exp(trace["sigma_log__"]), trace["sigma"])
        assert trace.point(3).keys() == set(trace.varnames)
        assert len(trace[5:10]) == 5
        converted = pm.to_inference_data(trace, model=approx.model)
        np.testing.assert_array_equal(converted["posterior"]["mu"], posterior["mu"])

    def test_multitrace_has_no_store(self, approx: Approximation, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match="leave out store"):
            approx.sample(2, return_inferencedata=False, store=tmp_path / "x.zarr")


class TestMoments:
    def test_unconstrained_by_the_names_of_values(self, approx: Approximation) -> None:
        with approx.model:
            names = pm.fit(1, progressbar=False).std_data.data_vars.keys()
        assert approx.mean_data.data_vars.keys() == approx.std_data.data_vars.keys() == names
        assert approx.mean_data["mu"].dims == ("group",)
        assert approx.mean_data["share_simplex__"].dims == ("share_simplex___dim_0",)
        assert approx.std_data["sigma_log__"] == pytest.approx(0.7)

    def test_state_is_that_of_draws(self, approx: Approximation) -> None:
        posterior = approx.sample(10_000, random_seed=0)["posterior"].to_dataset()
        xr.testing.assert_allclose(approx.state.mean, posterior.mean(("chain", "draw")))
        xr.testing.assert_allclose(approx.state.std, posterior.std(("chain", "draw")))

    def test_state_of_a_transformed_variable_is_exact(self, approx: Approximation) -> None:
        """A log-normal variable, whose moments are known; four standard errors of 10,000 draws."""
        m, s = approx.mean_data["sigma_log__"].item(), 0.7
        sd = np.exp(m + s**2 / 2) * np.sqrt(np.expm1(s**2))
        assert approx.state.mean["sigma"].item() == pytest.approx(np.exp(m + s**2 / 2), abs=4 * sd / 100)
        assert approx.state.std["sigma"].item() == pytest.approx(sd, rel=0.1)

    def test_state_with_unconstrained_values(self) -> None:
        approx = approximation(regression())
        approx.include_transformed = True
        extra = approx.state.std.data_vars.keys() - {"mu", "sigma", "share", "scaled"}
        assert extra == {"sigma_log__", "share_simplex__"}

    def test_moments_of_blocks_are_those_of_all(self) -> None:
        x = np.random.default_rng(1).normal(1e6, 1.0, (100, 2))
        blocks = [sampling.Block(i, x[i : i + 30], {"x": x[i : i + 30]}) for i in range(0, 100, 30)]
        mean, std = sampling.moments(iter(blocks))
        np.testing.assert_allclose(mean["x"], x.mean(0), rtol=1e-14)
        np.testing.assert_allclose(std["x"], x.std(0), rtol=1e-9)


class TestParameters:
    def test_setting_one_changes_the_approximation(self) -> None:
        approx = approximation(regression())
        node = approx.sample_node(approx.model["mu"], deterministic=True)
        mean, mu = approx.mean, approx.shared_params["mu"]
        mu.set_value(np.arange(6.0))
        assert approx.params["mu"].tolist() == mean.eval().tolist() == mu.get_value().tolist() == list(range(6))
        assert node.eval(mode=QUICK).tolist() == [0, 1, 2]
        approx.shared_params["rho"].set_value(np.full(6, -40.0))
        np.testing.assert_allclose(approx.sample(3)["posterior"]["mu"][0], [[0, 1, 2]] * 3, atol=1e-12)
        assert approx.shared_params["mu"] is mu

    @pytest.mark.parametrize(
        ("name", "value", "message"), [("mu", [1.0], r"shape \(6,\)"), ("mu", [np.nan] * 6, "not finite")]
    )
    def test_values_are_checked(self, name: str, value: Any, message: str) -> None:
        approx = approximation(regression())
        before = approx.theta.copy()
        with pytest.raises(ArgumentError, match=message):
            approx.shared_params[name].set_value(value)
        assert np.array_equal(approx.theta, before)
        assert np.array_equal(approx.shared_params[name].get_value(), approx.params[name])

    def test_what_follows_cannot_be_set(self, approx: Approximation) -> None:
        with pytest.raises(ArgumentError, match="std follows from the parameters; set one of mu, rho"):
            approx.std.set_value(np.ones(6))

    def test_moments_follow(self) -> None:
        approx = approximation(regression())
        mean, std, cov = approx.mean, approx.std, approx.cov
        approx.update(approx.family.initial(np.ones(6), np.full(6, 2.0)), np.ones(1))
        np.testing.assert_allclose(mean.eval(), np.ones(6))
        np.testing.assert_allclose(std.eval(), np.full(6, 2.0))
        np.testing.assert_allclose(cov.eval(), 4 * np.eye(6))

    def test_histogram(self, approx: Approximation) -> None:
        family = EmpiricalFamily(6, 4)
        particles = Approximation(family, family.initial(np.zeros(6), np.ones(6)), approx.layout, np.empty(0))
        assert particles.histogram.eval().shape == (4, 6)
        moved = particles.histogram.eval() + 3
        particles.histogram.set_value(moved)
        np.testing.assert_allclose(particles.mean.eval(), moved.mean(0))
        assert not hasattr(approx, "histogram")

    def test_ordering_is_that_of_pymc(self, approx: Approximation) -> None:
        with approx.model:
            group = pm.fit(1, progressbar=False).groups[0]
        assert approx.ordering == dict(group.ordering)
        assert approx.ndim == approx.ddim == group.ddim


class TestLogDensities:
    def test_draws_of_one_variable(self, approx: Approximation) -> None:
        one = approx.rslice("sigma_log__")
        assert one.eval(mode=QUICK).shape == (1,)
        many = approx.set_size_and_deterministic(approx.rslice("mu"), 5, False)
        first = many.eval(mode=QUICK)
        assert first.shape == (5, 3) and not np.isclose(first, many.eval(mode=QUICK)).any()
        mean = approx.set_size_and_deterministic(approx.rslice("mu"), 2, True)
        np.testing.assert_array_equal(mean.eval(mode=QUICK), [approx.mean.eval()[:3]] * 2)

    def test_density_of_the_draws(self, approx: Approximation) -> None:
        import pytensor

        Z, logq = pytensor.function([], [approx.symbolic_random, approx.logq], mode=QUICK)()
        assert logq == pytest.approx(norm(approx.mean.eval(), 0.7).logpdf(Z[0]).sum())

    def test_log_joint_reads_all_rows(self) -> None:
        rows = np.random.default_rng(2).normal(1.0, 2.0, 500)
        approx = approximation(regression(dvi.Minibatch(rows, batch_size=20)))
        exact = regression(rows).compile_logp()
        Z = approx.sample_unconstrained(3, random_seed=1)
        pieces = approx.layout.split(Z)
        names = {e.name: e.value_name for e in approx.layout.entries}
        expected = [exact({names[n]: v[s] for n, v in pieces.items()}) for s in range(3)]
        np.testing.assert_allclose(approx._full_logp()(Z), expected, rtol=1e-10)
        node = approx.set_size_and_deterministic(approx.logp, 1, True)
        at = {names[n]: v[0] for n, v in approx.layout.split(approx.mean.eval()[None]).items()}
        assert node.eval(mode=QUICK) == pytest.approx(exact(at))

    def test_elbo_of_an_exact_posterior_is_the_evidence(self) -> None:
        y = np.array([1.0, 2.0, 0.5])
        with pm.Model() as model:
            pm.Normal("y", pm.Normal("mu"), 1.0, observed=dvi.Minibatch(y, batch_size=2))
        layout = split(model).layout
        family = MeanFieldFamily(1)
        theta = family.initial(np.array([y.sum() / 4]), np.array([0.5]))
        found = Approximation(family, theta, layout, np.empty(0), model=model).elbo(50, random_seed=1)
        evidence = norm(0, 1).logpdf(0.0) + norm(0, 1).logpdf(y).sum() - norm(y.sum() / 4, 0.5).logpdf(0.0)
        assert float(found) == found.value == pytest.approx(evidence)
        assert found.standard_error == pytest.approx(0.0, abs=1e-10) and found.draws == 50

    def test_an_evaluator_is_used_where_it_is_given(self) -> None:
        approx = approximation(regression())
        approx.evaluator = lambda Z: np.arange(len(Z), dtype=float)
        node = approx.set_size_and_deterministic(approx.logp, 5, False)
        assert node.eval(mode=QUICK) == 2.0
        assert approx.elbo(5).draws == 5

    def test_without_a_model(self, approx: Approximation) -> None:
        alone = Approximation(approx.family, approx.theta, approx.layout, approx.hist)
        with pytest.raises(ModelError, match="load the approximation with model="):
            alone.elbo(5)


class TestHistory:
    def test_grows_by_whole_blocks(self) -> None:
        approx = approximation(regression())
        blocks = [np.arange(n, dtype=float) + n for n in (1, 5, 0, 2, 300, 7)]
        seen = []
        for block in blocks:
            approx.update(approx.theta, block)
            seen.append(approx.hist)
        np.testing.assert_array_equal(approx.hist, np.concatenate(blocks))
        np.testing.assert_array_equal(seen[1], np.concatenate(blocks[:2]))
        assert approx.hist is approx.hist

    def test_is_seldom_copied(self) -> None:
        approx = approximation(regression())
        buffers = set()
        for _ in range(1000):
            approx.update(approx.theta, np.ones(1))
            buffers.add(approx.hist.base.ctypes.data if approx.hist.base is not None else approx.hist.ctypes.data)
        assert len(buffers) < 30

    def test_starts_anew(self) -> None:
        approx = approximation(regression())
        approx.update(approx.theta, np.ones(3))
        approx.hist = np.empty(0)
        approx.update(approx.theta, np.full(2, 5.0))
        assert approx.hist.tolist() == [5.0, 5.0]


def test_pickle_has_the_model_and_the_draws() -> None:
    approx = approximation(regression(dvi.Minibatch(np.ones(50), batch_size=10)))
    approx.update(approx.theta, np.ones(3))
    before = approx.sample(5, random_seed=1)["posterior"].to_dataset()
    approx.shared_params["mu"].eval()
    copy = cloudpickle.loads(cloudpickle.dumps(approx))
    xr.testing.assert_equal(copy.sample(5, random_seed=1)["posterior"].to_dataset(), before)
    assert copy.hist.tolist() == [1, 1, 1] and copy.run == approx.run and repr(copy) == repr(approx)
    copy.shared_params["mu"].set_value(np.zeros(6))
    assert copy.mean.eval().tolist() == [0] * 6 and approx.mean.eval()[0] == -1


def test_repr_of_particles(approx: Approximation) -> None:
    family = EmpiricalFamily(6, 4)
    particles = Approximation(family, family.initial(np.zeros(6), np.ones(6)), approx.layout, np.ones(2))
    assert repr(particles) == "<dvi.Empirical of 6 dimensions (2 steps, ELBO -1): mu[3], sigma, share[2]>"


def test_draws_can_be_plotted(approx: Approximation) -> None:
    assert arviz_base.extract(approx.sample(10))["mu"].sizes["sample"] == 10
