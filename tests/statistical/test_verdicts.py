"""How often a diagnosis is right on fits that its thresholds were not set on: other models, data and seeds.

Part of ``make gate``; sixty fits are too many for the test run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.approximation import Approximation
from dvi.approximations.meanfield import softplus_inverse
from dvi.diagnostics import diagnose
from tests.statistical.test_gate import SEEDS

pytestmark = pytest.mark.skipif(SEEDS < 32, reason="make gate runs it")
ordered_transform = pm.distributions.transforms.ordered


def predictors(seed: int, n: int, d: int, shared: float = 0.0) -> tuple[np.random.Generator, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng, rng.normal(size=(n, d)) + shared * rng.normal(size=(n, 1))


def negative_binomial() -> pm.Model:
    rng, X = predictors(31, 4000, 3)
    mean = np.exp(1.0 + X @ np.array([0.4, -0.3, 0.0]))
    x, y = dvi.Minibatch(X, rng.negative_binomial(3, 3 / (3 + mean)), batch_size=400)
    with pm.Model() as model:
        a, b, alpha = pm.Normal("a", 0, 2), pm.Normal("b", 0, 2, shape=3), pm.Gamma("alpha", 2, 0.5)
        pm.NegativeBinomial("y", mu=pm.math.exp(a + x @ b), alpha=alpha, observed=y)
    return model


def gamma(n: int = 4000, batch_size: int = 400) -> pm.Model:
    y = dvi.Minibatch(np.random.default_rng(32).gamma(2.0, 1 / 30.0, n), batch_size=batch_size)
    with pm.Model() as model:
        pm.Gamma("y", mu=pm.HalfNormal("mean", 1), sigma=pm.HalfNormal("spread", 1), observed=y)
    return model


def classes() -> pm.Model:
    rng, X = predictors(33, 3000, 3)
    logits = np.column_stack([np.zeros(3000), X @ rng.normal(size=(3, 2))])
    x, y = dvi.Minibatch(X, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1), batch_size=300)
    with pm.Model() as model:
        free = x @ pm.Normal("b", 0, 1, shape=(3, 2)) + pm.Normal("a", 0, 1, shape=2)
        first = pm.math.zeros_like(free[:, :1])
        pm.Categorical("y", logit_p=pm.math.concatenate([first, free], axis=1), observed=y)
    return model


def groups() -> pm.Model:
    rng, labels = np.random.default_rng(34), 20
    group = rng.integers(0, labels, 6000)
    g, y = dvi.Minibatch(group, rng.normal(2, 1, labels)[group] + rng.normal(size=6000), batch_size=500)
    with pm.Model() as model:
        level = pm.Normal("level", pm.Normal("mu", 0, 5), pm.HalfNormal("tau", 2), shape=labels)
        pm.Normal("y", level[g], pm.HalfNormal("sigma", 2), observed=y)
    return model


def scales() -> pm.Model:
    rng, X = predictors(35, 8000, 4)
    X *= np.array([0.01, 1.0, 100.0, 5.0])
    x, y = dvi.Minibatch(X, X @ np.array([20.0, 1.0, 0.01, -0.3]) + 0.5 * rng.normal(size=8000), batch_size=500)
    with pm.Model() as model:
        pm.Normal("y", x @ pm.Normal("b", 0, 30, shape=4), pm.HalfNormal("sigma", 1), observed=y)
    return model


def robust() -> pm.Model:
    rng, X = predictors(36, 4000, 2, shared=1.0)
    x, y = dvi.Minibatch(X, X @ np.array([1.0, -1.0]) + rng.standard_t(3, 4000), batch_size=400)
    with pm.Model() as model:
        pm.StudentT("y", nu=3, mu=x @ pm.Normal("b", 0, 5, shape=2), sigma=pm.HalfNormal("s", 2), observed=y)
    return model


def ranks() -> pm.Model:
    rng, X = predictors(37, 4000, 1)
    latent = 0.7 * X[:, 0] + rng.logistic(size=4000)
    x, y = dvi.Minibatch(X[:, 0], np.digitize(latent, [-1.0, 1.0]), batch_size=400)
    with pm.Model() as model:
        cuts = pm.Normal("cuts", 0, 3, shape=2, transform=ordered_transform, initval=np.array([-1.0, 1.0]))
        pm.OrderedLogistic("y", eta=pm.Normal("b", 0, 2) * x, cutpoints=cuts, observed=y)
    return model


def means() -> pm.Model:
    y = np.random.default_rng(38).normal(size=(200, 50)) + np.linspace(-3, 3, 50)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 10, shape=50), 1.0, observed=y)
    return model


def waiting() -> pm.Model:
    y = dvi.Minibatch(np.random.default_rng(39).exponential(0.02, 3000), batch_size=300)
    with pm.Model() as model:
        pm.Exponential("y", pm.Gamma("rate", 2, 0.1), observed=y)
    return model


def zeros() -> pm.Model:
    rng = np.random.default_rng(40)
    y = dvi.Minibatch(rng.poisson(4.0, 3000) * (rng.random(3000) < 0.7), batch_size=300)
    with pm.Model() as model:
        pm.ZeroInflatedPoisson("y", pm.Beta("psi", 2, 2), pm.Gamma("mu", 2, 0.5), observed=y)
    return model


def far() -> pm.Model:
    y = dvi.Minibatch(np.random.default_rng(41).normal(500, 3, 5000), batch_size=500)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 1000), pm.HalfNormal("sigma", 10), observed=y)
    return model


def schools() -> pm.Model:
    effects, errors = np.array([28, 8, -3, 7, -1, 1, 18, 12.0]), np.array([15, 10, 16, 11, 9, 11, 10, 18.0])
    with pm.Model() as model:
        theta = pm.Normal("theta", pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5), shape=8)
        pm.Normal("y", theta, errors, observed=effects)
    return model


def two_roots() -> pm.Model:
    with pm.Model() as model:
        x = pm.Normal("x", 0, 3)
        pm.Normal("y", x**2, 0.7, observed=1.2)
    return model


def chain() -> pm.Model:
    with pm.Model() as model:
        pm.MvNormal("x", np.zeros(10), cov=0.97 ** np.abs(np.subtract.outer(np.arange(10), np.arange(10))))
    return model


def collinear() -> pm.Model:
    rng, X = predictors(42, 3000, 3, shared=5.0)
    x, y = dvi.Minibatch(X, X @ np.array([1.0, 0.0, -1.0]) + rng.normal(size=3000), batch_size=300)
    with pm.Model() as model:
        pm.Normal("y", x @ pm.Normal("b", 0, 10, shape=3), 1.0, observed=y)
    return model


def heavy() -> pm.Model:
    with pm.Model() as model:
        pm.Cauchy("x", 0, 1, shape=3)
    return model


def fit(model: pm.Model, n: int | None = 10_000, method: str = "advi", **settings: Any) -> Approximation:
    return dvi.fit(n, method, model, random_seed=11, progressbar=False, threads=1, **settings)


def moved(approx: Approximation, shift: Any = 0.0, scale: Any = 1.0) -> Approximation:
    """Independent normals with other means, by so many of their standard deviations, and other scales."""
    sd = approx.family.std(approx.theta)
    approx.theta = approx.family.pack({"mu": approx.params["mu"] + shift * sd, "rho": softplus_inverse(sd * scale)})
    return approx


GOOD: dict[str, Callable[[], Approximation]] = {
    "negative binomial": lambda: fit(negative_binomial()),
    "gamma": lambda: fit(gamma(), method="fullrank_advi"),
    "classes": lambda: fit(classes(), method="fullrank_advi"),
    "groups": lambda: fit(groups()),
    "scales": lambda: fit(scales()),
    "robust": lambda: fit(robust(), method="fullrank_advi"),
    "ranks": lambda: fit(ranks(), method="fullrank_advi"),
    "means": lambda: fit(means(), 5000),
    "waiting, until converged": lambda: fit(waiting(), None),
    "zeros": lambda: fit(zeros(), method="lowrank_advi"),
}

BAD: dict[str, tuple[set[str], Callable[[], Approximation]]] = {
    "too few steps": ({"mean", "scale"}, lambda: fit(negative_binomial(), 60)),
    "far away": ({"mean", "scale"}, lambda: fit(far(), 300)),
    "step too large": ({"mean", "scale"}, lambda: fit(gamma(200_000, 50), 2000, obj_optimizer=dvi.adam(0.05))),
    "funnel": ({"shape", "correlation"}, lambda: fit(schools())),
    "two roots": ({"shape"}, lambda: fit(two_roots())),
    "narrow": ({"scale"}, lambda: moved(fit(ranks()), scale=0.65)),
    "chain": ({"correlation"}, lambda: fit(chain())),
    "collinear": ({"correlation"}, lambda: fit(collinear())),
    "one mean": ({"mean"}, lambda: moved(fit(means(), 5000), shift=np.eye(50)[7] * 0.5)),
    "heavy tails": ({"shape"}, lambda: fit(heavy())),
}


def verdicts(approx: Approximation) -> list[set[str]]:
    return [set(diagnose(approx, random_seed=seed, progressbar=False).verdict.split(", ")) for seed in (101, 102, 103)]


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_a_good_fit_is_not_flagged(name: str) -> None:
    assert verdicts(GOOD[name]()) == [{"ok"}] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_a_planted_failure_is_flagged_for_what_it_is(name: str) -> None:
    codes, build = BAD[name]
    assert all(codes & found for found in verdicts(build()))
