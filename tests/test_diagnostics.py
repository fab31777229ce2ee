"""What a diagnosis says: each statistic against closed forms, the verdict on planted failures and on good fits."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from arviz_stats.base.array import array_stats

import dvi
from dvi.approximation import Approximation
from dvi.approximations.meanfield import softplus_inverse
from dvi.diagnostics import Diagnosis, diagnose
from dvi.diagnostics.history import recent_trend
from dvi.diagnostics.scores import fit_scores, standardised
from dvi.diagnostics.weights import smoothed_weights
from dvi.errors import ArgumentError, ArgumentTypeError, DviWarning, ModelError
from dvi.evaluation import evaluate_all
from dvi.model.graph import split

QUIET: dict[str, Any] = {"progressbar": False, "random_seed": 1}


def verdict(approx: Approximation, **settings: Any) -> str:
    return diagnose(approx, **{**QUIET, **settings}).verdict


def normal(n: int = 10_000, batch_size: int = 500) -> pm.Model:
    y = np.random.default_rng(1).normal(3.0, 1.0, n)
    with pm.Model() as model:
        mu, sd = pm.Normal("mu", 0, 10), pm.HalfNormal("sd", 1)
        pm.Normal("y", mu, sd, observed=dvi.Minibatch(y, batch_size=batch_size))
    return model


def gaussian(cov: np.ndarray, mean: np.ndarray | None = None) -> pm.Model:
    with pm.Model() as model:
        pm.MvNormal("x", np.zeros(len(cov)) if mean is None else mean, cov=cov, shape=len(cov))
    return model


def covariance(d: int) -> np.ndarray:
    rng = np.random.default_rng(8)
    factor = rng.normal(size=(d, d))
    cov = factor @ factor.T + 0.5 * d * np.eye(d)
    sd = np.exp(rng.normal(size=d)) / np.sqrt(np.diag(cov))
    return cov * np.outer(sd, sd)


def mean_field(model: pm.Model, mean: np.ndarray, sd: np.ndarray) -> Approximation:
    approx = dvi.MeanField(model=model, random_seed=1)
    approx.theta = approx.family.pack({"mu": mean, "rho": softplus_inverse(sd)})
    return approx


def moved(approx: Approximation, shift: float = 0.0, scale: float = 1.0) -> Approximation:
    sd = approx.family.std(approx.theta)
    return mean_field(approx.model, approx.params["mu"] + shift * sd, sd * scale)


# Statistics.


def test_khat_and_weights_are_those_of_arviz() -> None:
    ratios = np.random.default_rng(0).standard_t(3, size=1000)
    found = smoothed_weights(ratios, np.zeros(1000))
    log_weights, khat = array_stats.psislw(-ratios)
    assert found.khat == float(khat)
    np.testing.assert_array_equal(found.log_weights, log_weights)
    assert found.ess == pytest.approx(1 / np.sum(np.exp(log_weights) ** 2))
    assert found.threshold == pytest.approx(2 / 3)


def test_equal_weights_have_no_tail() -> None:
    found = smoothed_weights(np.full(1000, 1e6) + np.random.default_rng(0).normal(size=1000) * 1e-9, np.zeros(1000))
    assert found.khat == -np.inf
    assert found.ess == pytest.approx(1000)


def test_weights_that_are_too_far_apart_are_those_of_one_draw() -> None:
    found = smoothed_weights(1e5 * np.random.default_rng(0).normal(size=1000), np.zeros(1000))
    assert found.khat > found.threshold
    assert found.ess == pytest.approx(1.0)


@pytest.mark.parametrize("full", [False, True])
def test_step_is_the_exact_distance_between_normal_distributions(full: bool) -> None:
    d, rng = 6, np.random.default_rng(0)
    cov, mean = covariance(d), rng.normal(size=d)
    own_mean = rng.normal(size=d)
    own = covariance(d + 1)[:d, :d] if full else np.diag(rng.uniform(0.5, 2.0, d))
    Z = rng.multivariate_normal(own_mean, own, size=200)
    precision = np.linalg.inv(cov)
    score, own_score = -(Z - mean) @ precision, -(Z - own_mean) @ np.linalg.inv(own)
    sd = np.sqrt(np.diag(own))
    fit = fit_scores(standardised(Z, score, own_score, own_mean, sd, own if full else None))
    np.testing.assert_allclose(fit.shift, (mean - own_mean) / np.sqrt(np.diag(cov)), rtol=1e-8)
    np.testing.assert_allclose(fit.sd * sd, np.sqrt(np.diag(cov)), rtol=1e-8)
    np.testing.assert_allclose(fit.correlation, cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov))), atol=1e-8)
    np.testing.assert_allclose(fit.nonlinear, 0.0, atol=1e-12)
    assert fit.shift_error.max() < 1e-8
    ratios = np.sqrt(np.linalg.eigvals(np.linalg.solve(own, cov)).real)
    assert (fit.narrowest, fit.widest) == pytest.approx((ratios.min(), ratios.max()))
    if not full:
        np.testing.assert_allclose(fit.scale * sd, np.diag(precision) ** -0.5, rtol=1e-8)
        curvature = np.diag(precision) * sd**2
        gap = own_mean - mean
        gain = 0.5 * gap @ precision @ gap + 0.5 * np.sum(curvature - 1 - np.log(curvature))
        assert fit.improvement == pytest.approx(gain)


def test_many_dimensions_are_regressed_one_by_one() -> None:
    d, rng = 300, np.random.default_rng(0)
    Z = rng.normal(size=(1000, d))
    fit = fit_scores(standardised(Z, -(Z - 0.5) / 4.0, -Z, np.zeros(d), np.ones(d), None))
    assert not fit.joint
    np.testing.assert_allclose(fit.scale, 2.0, rtol=1e-8)
    np.testing.assert_allclose(fit.shift, 0.125, rtol=1e-8)  # the natural gradient


def test_standard_errors_are_those_of_repeated_draws() -> None:
    shifts, errors = [], []
    for seed in range(300):
        u = np.random.default_rng(seed).normal(size=(400, 1))
        fit = fit_scores(standardised(u, 0.3 - u - 0.3 * (u**2 - 1), -u, np.zeros(1), np.ones(1), None))
        shifts.append(fit.shift[0])
        errors.append(fit.shift_error[0])
    assert np.mean(shifts) == pytest.approx(0.3, abs=0.01)
    assert np.std(shifts) == pytest.approx(np.mean(errors), rel=0.3)


def test_trend_of_noise_and_of_a_fall() -> None:
    noise = np.random.default_rng(0).normal(size=20_000)
    flat, steep = recent_trend(noise), recent_trend(noise - np.linspace(0, 10, 20_000))
    assert flat is not None and not flat.falling
    assert steep is not None and steep.falling
    assert steep.fall == pytest.approx(1.0, abs=4 * steep.error)
    assert recent_trend(noise[:500]) is None


# The pass over the data.


def test_pass_is_the_log_joint_density_and_does_not_depend_on_threads() -> None:
    model = normal(30_000)
    Z = np.array([[3.0, 0.0], [2.9, 0.1], [3.1, -0.1]])
    found = [evaluate_all(split(model), Z, threads=threads, progressbar=False) for threads in (1, 3)]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    y = np.random.default_rng(1).normal(3.0, 1.0, 30_000)
    with pm.Model() as plain:
        pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sd", 1), observed=y)
    logp = plain.compile_logp()
    np.testing.assert_allclose(found[0][0], [logp({"mu": z[0], "sd_log__": z[1]}) for z in Z], rtol=1e-12)


@pytest.mark.cluster
def test_workers_give_the_bits_of_threads() -> None:
    distributed = pytest.importorskip("distributed")
    approx = mean_field(normal(), np.array([3.0, 0.0]), np.array([0.01, 0.007]))
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        there = diagnose(approx, client=client, draws=200, **QUIET)
    assert there.to_json() == diagnose(approx, threads=2, draws=200, **QUIET).to_json()


# What a user sees.


@pytest.fixture(scope="module")
def off() -> Approximation:
    return mean_field(gaussian(np.diag([1.0, 4.0])), np.array([0.5, 0.0]), np.array([1.0, 2.0]))


def test_numbers_of_a_shifted_normal(off: Approximation) -> None:
    found = diagnose(off, **QUIET)
    assert found.verdict == "mean"
    assert found.findings[0].what.startswith("the mean of x[0] is about 0.5 posterior standard deviations")
    assert found.numbers["elbo"] == pytest.approx(-0.125, abs=4 * found.numbers["elbo_error"])
    assert found.numbers["improvement"] == pytest.approx(0.125)
    first = found.elements[0]
    assert (first.shift, first.scale, first.posterior_sd) == pytest.approx((-0.5, 1.0, 1.0))
    assert first.corrected_mean == pytest.approx(0.0, abs=0.15)
    assert found.worst(1) == (first,)


def test_same_seed_same_bits(off: Approximation) -> None:
    assert diagnose(off, threads=1, **QUIET).to_json() == diagnose(off, threads=2, **QUIET).to_json()


def test_shown_stored_and_read_back(off: Approximation, tmp_path: Any) -> None:
    found = diagnose(off, **QUIET)
    text, html = repr(found), found._repr_html_()
    assert "k-hat" in text and "x[0]" in text and max(map(len, text.splitlines())) <= 120
    assert html.startswith("<div") and html.endswith("</div>") and "<dvi" not in html
    off.save(tmp_path / "fit.zarr")
    again = Diagnosis.from_json(dvi.load(tmp_path / "fit.zarr").run["diagnosis"])
    assert again.to_json() == json.loads(json.dumps(found.to_json()))
    assert again.findings == found.findings
    assert repr(again) == text
    with pytest.raises(ArgumentError, match="diagnose again"):
        again.resample()


def test_resampled_draws_are_those_of_the_posterior(off: Approximation) -> None:
    found = diagnose(off, draws=20_000, **QUIET)
    x = found.resample(20_000, random_seed=2).posterior["x"].values[0]
    assert x.shape == (20_000, 2)
    assert x[:, 0].mean() == pytest.approx(0.0, abs=0.05)
    np.testing.assert_allclose(x.std(axis=0), [1.0, 2.0], rtol=0.03)


def test_resampling_by_weights_that_cannot_be_trusted_warns() -> None:
    found = diagnose(mean_field(gaussian(np.eye(1)), np.zeros(1), np.full(1, 0.1)), draws=5000, **QUIET)
    assert found.numbers["khat"] > found.numbers["khat_threshold"]
    with pytest.warns(DviWarning, match="k-hat"):
        found.resample(10)


def test_what_is_refused(off: Approximation) -> None:
    with pytest.raises(ArgumentError, match="point estimate"):
        diagnose(dvi.MAP(model=off.model).approx, **QUIET)
    with pytest.raises(ArgumentError, match="at least 100"):
        diagnose(off, draws=10, **QUIET)
    with pytest.raises(ArgumentError, match="not the one of the approximation"):
        diagnose(off, gaussian(np.eye(3)), **QUIET)
    with pytest.raises(ArgumentTypeError, match="give an Approximation"):
        diagnose(off.theta, **QUIET)
    lost = Approximation(off.family, off.theta, off.layout, off.hist)
    with pytest.raises(ModelError, match="needs the model"):
        diagnose(lost, **QUIET)
    assert diagnose(lost, off.model, **QUIET).verdict == "mean"


def test_density_that_is_not_finite_is_a_finding() -> None:
    with pm.Model() as model:
        x = pm.Normal("x", shape=1)
        pm.Potential("wall", pt.switch(x < 1.0, 0.0, -np.inf).sum())
    found = diagnose(mean_field(model, np.zeros(1), np.ones(1)), **QUIET)
    assert found.verdict == "nonfinite"
    assert "nonfinite" in repr(found)


def test_particles_have_a_discrepancy_and_no_weights_of_draws() -> None:
    model = gaussian(np.diag([1.0, 4.0]))
    draws = np.random.default_rng(0).normal(size=(400, 2)) * [1.0, 2.0]
    good, bad = (diagnose(dvi.Empirical(Z, model=model), **QUIET) for Z in (draws, draws * 0.5 + 1.0))
    assert good.verdict == "ok"
    assert bad.verdict.startswith("mean, scale")
    assert bad.numbers["stein"] > good.numbers["stein"] > 0
    assert good.numbers["ess"] == pytest.approx(400)
    assert "khat" not in good.numbers and "elbo" not in good.numbers


def test_mild_correlation_is_a_note_and_strong_correlation_a_finding() -> None:
    for rho, code, factor in ((0.5, "ok", "1.15"), (0.99, "correlation", "7.1")):
        model = gaussian(np.array([[1.0, rho], [rho, 1.0]]))
        found = diagnose(mean_field(model, np.zeros(2), np.full(2, np.sqrt(1 - rho**2))), **QUIET)
        assert found.verdict == code
        said = (found.findings or found.notes)[0]
        assert said.code == "correlation" and f"{rho:.2f}" in said.what and "fullrank_advi" in said.advice
        assert f" {factor}" in said.what  # (1 - rho**2) ** -0.5


# Planted failures and good fits.


def linear(n: int = 5000, d: int = 8, batch_size: int = 500) -> pm.Model:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(n, d)) @ np.linalg.cholesky(0.3 * np.ones((d, d)) + 0.7 * np.eye(d)).T
    x, y = dvi.Minibatch(X, X @ rng.normal(size=d) + rng.normal(size=n), batch_size=batch_size)
    with pm.Model() as model:
        pm.Normal("y", x @ pm.Normal("b", 0, 3, shape=d), pm.HalfNormal("s"), observed=y)
    return model


def logistic() -> pm.Model:
    n, d, rng = 50_000, 10, np.random.default_rng(3)
    X = rng.normal(size=(n, d)) @ np.linalg.cholesky(0.1 * np.ones((d, d)) + 0.9 * np.eye(d)).T
    y = rng.random(n) < 1 / (1 + np.exp(-X @ rng.normal(size=d) * 0.5))
    x, y = dvi.Minibatch(X, y.astype(int), batch_size=2000)
    with pm.Model() as model:
        b, a = pm.Normal("b", 0, 2, shape=d), pm.Normal("a")
        pm.Bernoulli("y", logit_p=x @ b + a, observed=y)
    return model


def poisson() -> pm.Model:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(5000, 5))
    x, y = dvi.Minibatch(X, rng.poisson(np.exp(X @ np.array([0.3, -0.2, 0.1, 0.4, 0.0]) + 0.5)), batch_size=500)
    with pm.Model() as model:
        pm.Poisson("y", pt.exp(x @ pm.Normal("b", 0, 1, shape=5) + pm.Normal("a")), observed=y)
    return model


def hierarchical() -> pm.Model:
    groups, rng = 40, np.random.default_rng(5)
    group = rng.permutation(np.repeat(np.arange(groups), 30))
    g, y = dvi.Minibatch(group, 1 + rng.normal(0, 0.2, groups)[group] + rng.normal(size=len(group)), batch_size=300)
    with pm.Model() as model:
        tau, z, mu = pm.HalfNormal("tau", 1), pm.Normal("z", shape=groups), pm.Normal("mu", 0, 3)
        pm.Normal("y", mu + tau * z[g], 1.0, observed=y)
    return model


def student_t() -> pm.Model:
    y = dvi.Minibatch(np.random.default_rng(6).standard_t(4, 2000) + 2, batch_size=200)
    with pm.Model() as model:
        pm.StudentT("y", nu=4, mu=pm.Normal("mu", 0, 10), sigma=pm.HalfNormal("s", 2), observed=y)
    return model


def beta_binomial() -> pm.Model:
    with pm.Model() as model:
        y = dvi.Minibatch(np.random.default_rng(7).binomial(20, 0.3, 200), batch_size=50)
        pm.Binomial("y", 20, pm.Beta("p", 2, 2), observed=y)
    return model


def funnel() -> pm.Model:
    with pm.Model() as model:
        pm.Normal("x", 0, pt.exp(pm.Normal("v", 0, 3) / 2), shape=9)
    return model


def bimodal() -> pm.Model:
    with pm.Model() as model:
        x = pm.Flat("x", shape=1)
        pm.Potential("modes", pt.logaddexp(-0.5 * (x - 2.5) ** 2, -0.5 * (x + 2.5) ** 2).sum())
    return model


def skewed() -> pm.Model:
    with pm.Model() as model:
        pm.Gamma("x", 0.3, 1.0, shape=2)
    return model


def fit(model: pm.Model, n: int = 10_000, method: str = "advi", **settings: Any) -> Approximation:
    return dvi.fit(n, method=method, model=model, **QUIET, **settings)


GOOD: dict[str, Callable[[], Approximation]] = {
    "conjugate_full_data": lambda: fit(normal(batch_size=10_000)),
    "conjugate_minibatch": lambda: fit(normal()),
    "linear_fullrank": lambda: fit(linear(), 20_000, "fullrank_advi"),
    "linear_lowrank": lambda: fit(linear(d=12), 20_000, "lowrank_advi", inf_kwargs={"rank": 12}),
    "logistic": lambda: fit(logistic()),
    "poisson": lambda: fit(poisson()),
    "hierarchical": lambda: fit(hierarchical(), 20_000),
    "gaussian_fullrank": lambda: fit(gaussian(covariance(20)), 20_000, "fullrank_advi"),
    "student_t": lambda: fit(student_t()),
    "beta_binomial": lambda: fit(beta_binomial()),
}

BAD: dict[str, tuple[set[str], Callable[[], Approximation]]] = {
    "too_few_steps": ({"mean", "scale"}, lambda: fit(normal(), 100)),
    "too_few_steps_logistic": ({"mean", "scale"}, lambda: fit(logistic(), 150)),
    "step_too_large": ({"mean", "scale"}, lambda: fit(normal(1_000_000), 3000, obj_optimizer=dvi.adam(0.1))),
    "constant_step": ({"scale"}, lambda: fit(linear(200_000, batch_size=100), 2000, obj_optimizer=dvi.adam(0.01))),
    "funnel": ({"shape"}, lambda: fit(funnel())),
    "bimodal": ({"shape"}, lambda: fit(bimodal())),
    "skewed": ({"shape"}, lambda: fit(skewed())),
    "correlated": ({"correlation"}, lambda: fit(gaussian(np.array([[1.0, 0.99], [0.99, 1.0]])))),
    "halved": ({"scale"}, lambda: moved(fit(poisson()), scale=0.5)),
    "doubled": ({"scale"}, lambda: moved(fit(poisson()), scale=2.0)),
    "shifted": ({"mean"}, lambda: moved(fit(logistic()), shift=0.5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_good_fit_is_not_flagged(name: str) -> None:
    approx = GOOD[name]()
    assert [verdict(approx, random_seed=seed) for seed in range(3)] == ["ok"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_planted_failure_is_flagged(name: str) -> None:
    codes, build = BAD[name]
    approx = build()
    for seed in range(3):
        assert codes <= set(verdict(approx, random_seed=seed).split(", "))
