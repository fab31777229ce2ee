"""Held-out rows are scored exactly, and a fit ends at its best parameters once they are predicted no better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pymc as pm
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

import dvi
from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.callbacks import EarlyStopping
from dvi.errors import ArgumentError, ArgumentTypeError, DataError, ModelError, NonFiniteError
from dvi.model.graph import split
from dvi.randomness import keyed_generator

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(300, 2)), RNG.normal(size=300)
X_TEST, Y_TEST = RNG.normal(size=(70_000, 2)), RNG.normal(size=70_000).astype(np.float32)
SD = np.array([0.1, 0.2])
SIGMA = np.array([1.0, 1.5, 2.0])  # of doubles, as PyMC takes the logarithm of a Python float in single precision


def regression(x: Any, y: Any) -> pm.Model:
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 1, shape=2)
        pm.Normal("y", x @ beta, SIGMA[1], observed=y)
    return model


def approximation(model: Any, mean: Sequence[float] = (0.5, -1.0)) -> Approximation:
    family = MeanFieldFamily(len(mean))
    theta = family.initial(np.array(mean), SD[: len(mean)])
    return Approximation(family, theta, split(model).layout, np.empty(0), {}, model)


def expected(x: Any, y: Any, draws: int, seed: int = 0) -> float:
    eps = keyed_generator(seed, "sample").standard_normal((draws, 2))
    beta = np.array([0.5, -1.0]) + SD * eps
    return float(np.mean([norm.logpdf(y, x @ b, SIGMA[1]).mean() for b in beta]))


# The value


@pytest.fixture(scope="module")
def model() -> Any:
    x, y = dvi.Minibatch(X, Y, batch_size=100)
    return SimpleNamespace(x=x, y=y, model=regression(x, y))


@pytest.mark.parametrize("rows", [1, 2, 100, 70_000])
def test_the_value_is_the_expected_log_likelihood_of_a_row(model: Any, rows: int) -> None:
    stopping = EarlyStopping({model.x: X_TEST[:rows], model.y: Y_TEST[:rows]}, draws=3, random_seed=4)
    value = stopping.expected_log_likelihood(approximation(model.model))
    assert_allclose(value, expected(X_TEST[:rows], Y_TEST[:rows], 3, seed=4), rtol=1e-12)
    assert value == stopping.expected_log_likelihood(approximation(model.model))


def test_data_may_be_given_by_variable_by_name_and_in_order(model: Any, tmp_path: Path) -> None:
    x_store = zarr.create_array(tmp_path / "x.zarr", data=X_TEST[:500], chunks=(120, 2))
    x, y = X_TEST[:500], Y_TEST[:500]
    x.flags.writeable = False
    values = {
        EarlyStopping(data, draws=2).expected_log_likelihood(approximation(model.model))
        for data in (
            {model.x: x, model.y: y},
            {model.y: y, model.x: x_store},
            [x, y],
            (str(tmp_path / "x.zarr"), y),
            dict(zip((model.x.name, model.y.name), (x, y), strict=True)),
        )
    }
    assert_allclose(list(values), expected(x, y, 2), rtol=1e-12)


def test_arrays_that_the_model_does_not_read_may_be_given_too() -> None:
    _, x, y = dvi.Minibatch(np.arange(300), X, Y, batch_size=100)
    stopping = EarlyStopping([np.arange(50), X_TEST[:50], Y_TEST[:50]], draws=2)
    value = stopping.expected_log_likelihood(approximation(regression(x, y)))
    assert_allclose(value, expected(X_TEST[:50], Y_TEST[:50], 2), rtol=1e-12)


def test_models_with_the_minibatch_of_pymc() -> None:
    x, y = pm.Minibatch(X, Y, batch_size=100)
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 1, shape=2)
        pm.Normal("y", x @ beta, SIGMA[1], observed=y, total_size=len(Y))
    value = EarlyStopping([X_TEST[:50], Y_TEST[:50]], draws=2).expected_log_likelihood(approximation(model))
    assert_allclose(value, expected(X_TEST[:50], Y_TEST[:50], 2), rtol=1e-12)


def test_of_several_likelihoods_those_with_data_count() -> None:
    a, b = dvi.Minibatch(Y, batch_size=10), dvi.Minibatch(Y[:200], batch_size=10)
    with pm.Model() as model:
        mu = pm.Normal("mu", shape=2)
        pm.Normal("a", mu[0], 1.0, observed=a)
        pm.Normal("b", mu[1], SIGMA[2], observed=b)
    approx = approximation(model)
    eps = keyed_generator(0, "sample").standard_normal((2, 2))
    mus = np.array([0.5, -1.0]) + SD * eps
    of_b = [norm.logpdf(Y_TEST[:30], m[1], 2.0).sum() for m in mus]
    of_a = [norm.logpdf(Y_TEST[:20], m[0], 1.0).sum() for m in mus]
    value = EarlyStopping({b: Y_TEST[:30]}, draws=2).expected_log_likelihood(approx)
    assert_allclose(value, np.mean(of_b) / 30, rtol=1e-12)
    both = EarlyStopping({b: Y_TEST[:30], a: Y_TEST[:20]}, draws=2).expected_log_likelihood(approx)
    assert_allclose(both, (np.mean(of_a) + np.mean(of_b)) / 50, rtol=1e-12)
    with pytest.raises(ArgumentError, match="several Minibatches"):
        EarlyStopping([Y_TEST[:30]]).expected_log_likelihood(approx)


def test_data_that_does_not_fit_is_refused(model: Any) -> None:
    approx = approximation(model.model)
    other = dvi.Minibatch(Y, batch_size=10)
    for data, message in (
        ({model.x: X_TEST[:5]}, "also reads"),
        ({model.x: X_TEST[:5], model.y: Y_TEST[:5], other: Y_TEST[:5]}, "not among the data of the model"),
        ({model.x: X_TEST[:5], "z": Y_TEST[:5]}, "not among the data of the model"),
        ([X_TEST[:5]], "1 held-out arrays were given, and the Minibatch has 2"),
    ):
        with pytest.raises(ArgumentError, match=message):
            EarlyStopping(data).expected_log_likelihood(approx)
    with pytest.raises(DataError, match=r"of shape \(3,\), those of its Minibatch of \(2,\)"):
        EarlyStopping([np.ones((5, 3)), Y_TEST[:5]]).expected_log_likelihood(approx)
    with pytest.raises(DataError, match="equally many rows"):
        EarlyStopping([X_TEST[:5], Y_TEST[:6]]).expected_log_likelihood(approx)
    with pytest.raises(NonFiniteError, match="nan"):
        EarlyStopping([X_TEST[:5], np.full(5, np.nan)]).expected_log_likelihood(approx)


def test_models_without_held_out_rows_are_refused() -> None:
    plain = approximation(regression(X, Y))
    with pytest.raises(ModelError, match="no data in a Minibatch"):
        EarlyStopping([X_TEST, Y_TEST]).expected_log_likelihood(plain)
    plain.model = None
    with pytest.raises(ArgumentError, match="has no model"):
        EarlyStopping([X_TEST, Y_TEST]).expected_log_likelihood(plain)


@pytest.mark.parametrize(
    ("data", "error"), [({}, ArgumentError), ([], ArgumentError), ({3: Y}, ArgumentTypeError), ({"y": Y}, None)]
)
def test_data_is_looked_at_before_the_fit(data: Any, error: Any) -> None:
    if error is None:
        assert EarlyStopping(data).best_step is None
    else:
        with pytest.raises(error, match="data"):
            EarlyStopping(data)


@pytest.mark.parametrize(
    "settings",
    [
        {"every": 0}, {"patience": 0}, {"tolerance": -1.0}, {"tolerance": np.nan}, {"draws": 0}, {"random_seed": -1},
    ],
)  # fmt: skip
def test_settings_that_are_not_allowed(settings: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(settings))):
        EarlyStopping([Y], **settings)


# When it ends a fit


class Scripted(EarlyStopping):
    """Held-out values that are known beforehand, one a check."""

    def __init__(self, values: Sequence[float], **settings: Any) -> None:
        super().__init__([Y], every=10, **settings)
        self.values = list(values)

    def expected_log_likelihood(self, approx: Any) -> float:
        return self.values[len(self.hist["step"])]


class Held:
    """Parameters that say at which step they were set."""

    model = None

    def __init__(self) -> None:
        self.theta = np.zeros(1)

    def update(self, theta: Any, losses: Any) -> None:
        assert len(losses) == 0
        self.theta = theta


def end_of(stopping: EarlyStopping, approx: Held, n_steps: int) -> int | None:
    for i in range(1, n_steps + 1):
        approx.theta = np.array([float(i)])
        try:
            stopping(approx, np.empty(0), i)  # type: ignore[arg-type]
        except StopIteration:
            return i
    return None


def test_it_ends_the_fit_after_checks_without_improvement_at_the_best_one() -> None:
    stopping, approx = Scripted([-3, -2, -1, -1.5, -0.9, -1, -1, -1], patience=3), Held()
    assert end_of(stopping, approx, 80) == 80
    assert stopping.hist == {"step": list(range(10, 81, 10)), "loglik": [-3, -2, -1, -1.5, -0.9, -1, -1, -1]}
    assert (stopping.best_step, stopping.best_loglik) == (50, -0.9)
    assert approx.theta == [50.0]
    assert "best -0.9 at step 50" in repr(stopping)


def test_without_restore_the_parameters_stay_until_asked() -> None:
    stopping, approx = Scripted([-1, -2, -2], patience=2, restore=False), Held()
    assert end_of(stopping, approx, 50) == 30
    assert approx.theta == [30.0]
    stopping.restore_best(approx)  # type: ignore[arg-type]
    assert approx.theta == [10.0]


def test_rises_within_the_tolerance_are_no_improvement() -> None:
    values = [-1.0, -0.95, -0.92, -0.91]
    assert end_of(Scripted(values, patience=3, tolerance=0.2), Held(), 40) == 40
    assert end_of(Scripted(values, patience=3), Held(), 40) is None


def test_values_that_are_not_finite_are_no_improvement() -> None:
    stopping, approx = Scripted([np.nan, -1.0, np.nan, np.inf, -np.inf], patience=3), Held()
    assert end_of(stopping, approx, 50) == 50
    assert approx.theta == [20.0]
    never, approx = Scripted([np.nan] * 3, patience=3), Held()
    assert end_of(never, approx, 50) == 30
    assert approx.theta == [30.0]
    assert never.best_step is None


def test_another_fit_starts_afresh() -> None:
    stopping = Scripted([-1.0, -2.0, -2.0], patience=2)
    assert [end_of(stopping, Held(), 30) for _ in range(2)] == [30, 30]
    assert stopping.hist["step"] == [10, 20, 30]


def test_a_fit_is_left_where_it_predicted_best() -> None:
    """Rows from 3 while the held-out ones are from 1: on its way from 0 the fit passes the best place."""
    rng = np.random.default_rng(2)
    y = dvi.Minibatch(rng.normal(3.0, 1.0, 1_000), batch_size=100)
    stopping = EarlyStopping({y: rng.normal(1.0, 1.0, 200)}, every=5, patience=3)
    with pm.Model():
        mu = pm.Normal("mu", 0, 10, initval=0.0)
        pm.Normal("y", mu, 1, observed=y)
        approx = dvi.fit(2_000, random_seed=1, callbacks=[stopping], progressbar=False)
    assert len(approx.hist) == stopping.hist["step"][-1] == stopping.best_step + 15  # type: ignore[operator]
    assert approx.params["mu"] == pytest.approx(1.0, abs=0.3)
    assert stopping.expected_log_likelihood(approx) == stopping.best_loglik
    assert_array_equal(approx.mean.eval(), approx.params["mu"])
