"""Particles: their number, where they start, what they find, and the mass of the modes that they find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.errors import ArgumentError, ArgumentTypeError

QUIET: dict[str, Any] = {"progressbar": False, "threads": 1}
RATE = dvi.adam(dvi.schedules.Cosine(0.05, 300))


@pytest.fixture(scope="module")
def normal() -> pm.Model:
    with pm.Model() as made:
        pm.Normal("mu", [1.0, -2.0], [0.5, 2.0])
    return made


@pytest.fixture(scope="module")
def mixture() -> pm.Model:
    with pm.Model() as made:
        pm.NormalMixture("x", w=[0.2, 0.8], mu=[-0.3, 0.5], sigma=[0.1, 0.1])
    return made


def fitted(model: pm.Model, n: int = 300, **settings: Any) -> dvi.Approximation:
    inference = dvi.SVGD(model=model, **({"random_seed": 1} | settings))
    return inference.fit(n, obj_optimizer=RATE, **QUIET)


@pytest.mark.parametrize("n_particles", [2, 130, 257])
def test_any_number_of_particles(normal: pm.Model, n_particles: int) -> None:
    approx = fitted(normal, n_particles=n_particles)
    assert approx.params["histogram"].shape == (n_particles, 2)
    assert len(np.unique(approx.params["histogram"], axis=0)) == n_particles
    np.testing.assert_allclose(approx.mean.eval(), [1.0, -2.0], atol=0.3)
    if n_particles > 100:
        np.testing.assert_allclose(approx.std.eval(), [0.5, 2.0], rtol=0.15)
    assert approx.hist[-1] < approx.hist[0]
    assert approx.hist.min() > -1e-9  # a squared discrepancy


def test_one_particle_finds_the_mode(normal: pm.Model) -> None:
    np.testing.assert_allclose(fitted(normal, n_particles=1).params["histogram"], [[1.0, -2.0]], atol=0.02)


def test_blocks_of_particles_have_the_same_bits_on_any_threads(normal: pm.Model) -> None:
    found = [
        dvi.SVGD(n_particles=300, model=normal, random_seed=1).fit(20, progressbar=False, threads=threads)
        for threads in (1, 3)
    ]
    assert found[0].theta.tobytes() == found[1].theta.tobytes()


def test_minibatches_lead_to_the_posterior() -> None:
    y = np.random.default_rng(1).normal(3.0, 1.0, 5000)
    with pm.Model() as conjugate:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=dvi.Minibatch(y, batch_size=500))
    optimizer = dvi.adam(dvi.schedules.Cosine(0.05, 2000))
    inference = dvi.SVGD(n_particles=50, jitter=0.1, start={"mu": 2.5}, model=conjugate, random_seed=1)
    approx = inference.fit(2000, obj_optimizer=optimizer, **QUIET)
    sd = 5000**-0.5
    assert abs(approx.mean.eval()[0] - y.mean()) < 0.3 * sd
    assert approx.std.eval()[0] == pytest.approx(sd, rel=0.3)


def test_temperature_spreads_particles(normal: pm.Model) -> None:
    hot = fitted(normal, n_particles=130, temperature=4.0)
    np.testing.assert_allclose(hot.std.eval(), [1.0, 4.0], rtol=0.2)
    with pytest.raises(ArgumentError, match="temperature"):
        dvi.SVGD(temperature=0.0, model=normal)


def test_jitter_and_start(normal: pm.Model) -> None:
    def start(**settings: Any) -> np.ndarray:
        settings = {"n_particles": 2000, "random_seed": 1, "start": {"mu": [5.0, 6.0]}} | settings
        return dvi.SVGD(model=normal, **settings).approx.params["histogram"]

    np.testing.assert_allclose(start(jitter=0.1).mean(axis=0), [5.0, 6.0], atol=0.02)
    np.testing.assert_allclose(start(jitter=0.1).std(axis=0), 0.1, rtol=0.05)
    np.testing.assert_allclose(start().std(axis=0), 1.0, rtol=0.05)
    assert np.array_equal(start(), start())
    assert not np.array_equal(start(), start(random_seed=2))
    named = dvi.fit(0, "svgd", normal, random_seed=1, start={"mu": [5.0, 6.0]}, inf_kwargs={"n_particles": 2000})
    assert np.array_equal(named.params["histogram"], start())


def test_particles_go_on_from_those_of_another_fit(normal: pm.Model) -> None:
    first = fitted(normal, n_particles=30)
    again = dvi.SVGD(n_particles=30, start=first, model=normal)
    assert again.approx.theta.tobytes() == first.theta.tobytes()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_particles": 0}, ArgumentError, "n_particles=0 is not allowed"),
        ({"n_particles": 10.0}, ArgumentTypeError, "n_particles=10.0 is of type float"),
        ({"jitter": -1.0}, ArgumentError, "jitter = -1.0"),
        ({"start_sigma": {"mu": 1.0}}, ArgumentTypeError, "particles have no start_sigma; give jitter"),
        ({"particles": 10}, ArgumentTypeError, "unknown keyword 'particles'; did you mean 'n_particles'"),
        ({"start": {"nu": 1.0}}, ArgumentError, "start names"),
    ],
)
def test_settings_that_are_not_allowed(
    normal: pm.Model, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dvi.SVGD(model=normal, **settings)


def test_particles_are_never_one_step_behind(normal: pm.Model) -> None:
    with pytest.raises(ArgumentError, match=r"staleness=1 is for methods that maximise the ELBO; .* with SVGD"):
        dvi.SVGD(n_particles=3, model=normal).fit(3, staleness=1, **QUIET)


def test_what_goes_on_has_to_be_particles(normal: pm.Model) -> None:
    again = dvi.SVGD(approx=fitted(normal, n_particles=7)).fit(3, **QUIET)
    assert (again.params["histogram"].shape, len(again.hist)) == ((7, 2), 303)
    with pytest.raises(ArgumentTypeError, match="does not consist of particles"):
        dvi.SVGD(approx=dvi.MeanField(model=normal))


# Weights


@pytest.fixture(scope="module")
def weighted(mixture: pm.Model) -> list[dvi.Approximation]:
    """From a start whose basins of attraction say nothing of the masses, which are 0.2 and 0.8."""
    return [fitted(mixture, n_particles=200, jitter=1.0, weighted=True, random_seed=seed) for seed in range(5)]


def test_weights_give_each_mode_its_mass(weighted: list[dvi.Approximation]) -> None:
    for approx in weighted:
        x, weights = approx.params["histogram"].ravel(), np.exp(approx.params["log_weights"])
        assert weights.sum() == pytest.approx(1.0)
        assert weights[x < 0.1].sum() == pytest.approx(0.2, abs=0.05)
        assert abs(np.mean(x < 0.1) - 0.2) > 0.05  # which their numbers do not tell


def test_everything_that_is_drawn_honours_the_weights(weighted: list[dvi.Approximation]) -> None:
    approx = weighted[0]
    mean, sd = 0.2 * -0.3 + 0.8 * 0.5, np.sqrt(0.01 + 0.2 * 0.8 * 0.8**2)
    assert approx.mean.eval()[0] == pytest.approx(mean, abs=0.05)
    assert approx.std.eval()[0] == pytest.approx(sd, abs=0.05)
    draws = approx.sample(4000, random_seed=1).posterior["x"]
    assert float((draws < 0.1).mean()) == pytest.approx(0.2, abs=0.06)
    assert approx.model is not None
    nodes = approx.sample_node(approx.model["x"], size=4000, random_seed=1).eval()
    assert np.mean(nodes < 0.1) == pytest.approx(0.2, abs=0.06)


def test_without_weights_all_particles_are_equal(mixture: pm.Model) -> None:
    assert not fitted(mixture, n=20, n_particles=50).params["log_weights"].any()


def test_weighted_particles_move_on_as_equals(normal: pm.Model, mixture: pm.Model) -> None:
    """As those without weights do, each of them by its own step."""
    for model in (normal, mixture):
        runs = [dvi.SVGD(n_particles=60, weighted=w, model=model, random_seed=1) for w in (True, False)]
        for run in runs:
            run.fit(100, obj_optimizer=dvi.adam(0.05), **QUIET)
            run.refine(30)
        assert runs[0].hist.tobytes() == runs[1].hist.tobytes()
        assert np.array_equal(*(run.approx.params["histogram"] for run in runs))


# Amortised


def test_draws_of_a_distribution_follow_the_same_direction(normal: pm.Model) -> None:
    approx = dvi.ASVGD(model=normal, random_seed=1).fit(300, obj_n_mc=100, obj_optimizer=RATE, **QUIET)
    assert approx.cov.eval().shape == (2, 2)
    np.testing.assert_allclose(approx.mean.eval(), [1.0, -2.0], atol=0.3)
    assert approx.run["method"] == "asvgd"


def test_it_takes_any_approximation(normal: pm.Model) -> None:
    approx = dvi.MeanField(model=normal, start={"mu": [0.5, -1.0]})
    assert dvi.ASVGD(approx).fit(10, obj_n_mc=20, **QUIET) is approx
    assert dvi.ASVGD(model=normal, start=None)._draws == 500


@pytest.mark.parametrize("settings", [{"start": {"mu": [0.0, 0.0]}}, {"start_sigma": {"mu": 1.0}}])
def test_its_start_belongs_to_the_approximation(normal: pm.Model, settings: dict[str, Any]) -> None:
    with pytest.raises(ArgumentTypeError, match="start belongs to the approximation"):
        dvi.ASVGD(model=normal, **settings)
