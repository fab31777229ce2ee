"""Covariances by linear response, against posteriors that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytest

import dvi
from dvi import response as module
from dvi.dadvi import DADVI
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError
from dvi.response import as_full_rank, linear_response

QUIET: dict[str, Any] = {"progressbar": False, "threads": 1}
COV = np.array([[1.0, 0.9, 0.2], [0.9, 2.0, 0.1], [0.2, 0.1, 0.5]])


@pytest.fixture(scope="module")
def gaussian() -> dvi.Approximation:
    with pm.Model() as model:
        x = pm.MvNormal("x", np.arange(3.0), COV)
        pm.Deterministic("contrast", x[0] - 2.0 * x[1])
    return DADVI(model=model, random_seed=1).fit(**QUIET)


@pytest.fixture(scope="module")
def logistic() -> tuple[pm.Model, np.ndarray]:
    """A logistic regression on correlated predictors, with the covariance of Laplace's method at its mode."""
    rng = np.random.default_rng(3)
    n, d = 20_000, 4
    x = rng.normal(size=(n, d)) @ np.linalg.cholesky(0.9 * np.ones((d, d)) + 0.1 * np.eye(d)).T
    y = (rng.random(n) < 1 / (1 + np.exp(-x @ np.array([0.5, -0.5, 0.3, 0.0])))).astype(np.int8)
    mode, hessian = np.zeros(d), np.eye(d)
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ mode))
        hessian = (x.T * (p * (1 - p))) @ x + np.eye(d) / 25
        mode = mode + np.linalg.solve(hessian, x.T @ (y - p) - mode / 25)
    xs, ys = dvi.Minibatch(x, y, batch_size=1000)
    with pm.Model() as model:
        pm.Bernoulli("y", logit_p=xs @ pm.Normal("b", 0, 5, shape=d), observed=ys)
    return model, np.linalg.inv(hessian)


@pytest.mark.parametrize("dense", [True, False])
def test_covariance_of_a_gaussian_is_the_true_one(
    gaussian: dvi.Approximation, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not dense:
        monkeypatch.setattr(module, "MOST_DENSE", 0)
    found = linear_response(gaussian, var_names=["x"], threads=1)
    np.testing.assert_allclose(found["cov"], COV, atol=1e-5 if dense else 2e-3)
    np.testing.assert_allclose(found["std"], np.sqrt(np.diag(COV)), rtol=1e-5 if dense else 1e-3)
    assert found["element"].values.tolist() == ["x[0]", "x[1]", "x[2]"]
    assert (gaussian.std.eval() < 0.99 * np.sqrt(np.diag(COV))).any()  # which there was something to correct


def test_functions_by_name(gaussian: dvi.Approximation) -> None:
    found = linear_response(gaussian, var_names=["contrast", "x"], threads=1)
    assert found["element"].values.tolist()[0] == "contrast"
    weights = np.array([1.0, -2.0, 0.0])
    assert float(found["std"][0]) == pytest.approx(np.sqrt(weights @ COV @ weights), rel=1e-4)
    np.testing.assert_allclose(found["cov"][0, 1:], COV @ weights, atol=1e-4)


@pytest.mark.parametrize("method", ["dadvi", "advi"])
def test_logistic_regression(logistic: tuple[pm.Model, np.ndarray], method: str) -> None:
    model, cov = logistic
    sd = np.sqrt(np.diag(cov))
    inference = DADVI(model=model, random_seed=1) if method == "dadvi" else dvi.ADVI(model=model, random_seed=1)
    approx = inference.fit(5000, **QUIET)
    assert (approx.std.eval() < 0.6 * sd).all()
    found = linear_response(approx, threads=1)
    np.testing.assert_allclose(found["std"], sd, rtol=0.02)
    np.testing.assert_allclose(found["cov"] / np.outer(sd, sd), cov / np.outer(sd, sd), atol=0.03)
    full_rank = DADVI(model=model, full_rank=True, random_seed=1).fit(**QUIET)
    np.testing.assert_allclose(found["std"], full_rank.std.eval(), rtol=0.02)


def test_own_space_of_a_positive_variable() -> None:
    """The mean of exp(z), z normal with a small standard deviation s, has the standard deviation s exp(mean)."""
    with pm.Model() as model:
        pm.LogNormal("scale", 1.0, 0.01)
    approx = DADVI(model=model, random_seed=1).fit(**QUIET)
    found = linear_response(approx, var_names=["scale", "scale_log__"], threads=1)
    np.testing.assert_allclose(found["std"], [0.01 * np.e, 0.01], rtol=1e-3)


def test_same_bits_on_any_threads(logistic: tuple[pm.Model, np.ndarray]) -> None:
    approx = DADVI(model=logistic[0], random_seed=1).fit(**QUIET)
    one, two = (linear_response(approx, threads=threads) for threads in (1, 2))
    assert one.identical(two)


def test_an_approximation_with_the_covariance(gaussian: dvi.Approximation) -> None:
    corrected = as_full_rank(gaussian, linear_response(gaussian, threads=1))
    np.testing.assert_allclose(corrected.cov.eval(), COV, atol=1e-5)
    np.testing.assert_allclose(corrected.mean.eval(), gaussian.mean.eval())
    draws = corrected.sample(20_000, random_seed=1).posterior
    np.testing.assert_allclose(np.cov(draws["x"].values[0].T), COV, atol=0.06)
    assert float(draws["contrast"].std()) == pytest.approx(np.sqrt(1.0 - 4 * 0.9 + 4 * 2.0), rel=0.03)
    with pytest.raises(ArgumentError, match="without var_names"):
        as_full_rank(gaussian, linear_response(gaussian, var_names=["contrast"], threads=1))


def test_what_cannot_be_corrected_is_refused(gaussian: dvi.Approximation, monkeypatch: pytest.MonkeyPatch) -> None:
    full_rank = as_full_rank(gaussian, linear_response(gaussian, threads=1))
    with pytest.raises(ArgumentError, match="not a FullRankFamily"):
        linear_response(full_rank)
    with pytest.raises(UnknownNameError, match="no variable 'z'; the model has x, contrast"):
        linear_response(gaussian, var_names=["z"], threads=1)
    with pytest.raises(ArgumentTypeError, match=r"give \['x'\]"):
        linear_response(gaussian, var_names="x")
    with pytest.raises(ArgumentError, match="draws=3 is odd"):
        linear_response(gaussian, draws=3)
    monkeypatch.setattr(gaussian, "model", None)
    with pytest.raises(ModelError, match="no model"):
        linear_response(gaussian)
    monkeypatch.setattr(module, "MOST_DENSE", 2)
    with pytest.raises(ArgumentError, match="covariance of 3 dimensions is too large"):
        linear_response(gaussian)


@pytest.mark.parametrize("dense", [True, False])
def test_away_from_an_optimum_it_is_refused(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pm.Model() as model:
        pm.NormalMixture("x", w=[0.5, 0.5], mu=[-5.0, 5.0], sigma=[1.0, 1.0])
    between = dvi.MeanField(model=model, start={"x": 0.0})
    if not dense:
        monkeypatch.setattr(module, "MOST_DENSE", 0)
    with pytest.raises(ArgumentError, match="not at a maximum of its ELBO"):
        linear_response(between, var_names=["x"], threads=1)
