"""Models evaluated on data other than those they are fitted to, with PyMC's own functions."""

from __future__ import annotations

from typing import Any

import arviz_base
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr

import dvi
from dvi.errors import ArgumentError, ArgumentTypeError, DataError
from dvi.model.batch import binding
from dvi.model.evaluating import evaluating
from dvi.model.graph import split

RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(60, 3)), RNG.normal(size=60)
NEW = RNG.normal(size=(7, 3))
SLOPE = np.array([1.0, -2.0, 0.5])


def regression() -> tuple[pm.Model, Any, Any]:
    x, y = dvi.Minibatch(X, Y, batch_size=10, name="flights")
    with pm.Model() as model:
        scale = pm.Data("scale", 2.0)
        b = pm.Normal("b", shape=3)
        mu = pm.Deterministic("mu", scale * (x @ b))
        pm.Normal("y", mu, 1e-6, observed=y)
    return model, x, y


def posterior(draws: int = 20) -> xr.DataTree:
    return arviz_base.from_dict({"posterior": {"b": np.tile(SLOPE, (1, draws, 1))}})


def test_posterior_predictive_is_that_of_the_rows_given() -> None:
    model, x, y = regression()
    with evaluating({x: NEW, y: None}):
        drawn = pm.sample_posterior_predictive(
            posterior(), model=model, var_names=["y", "mu"], random_seed=1, progressbar=False
        ).posterior_predictive
        assert drawn["y"].shape == (1, 20, 7)
        np.testing.assert_allclose(drawn["mu"][0, 0], 2 * NEW @ SLOPE)
        np.testing.assert_allclose(drawn["y"][0, 0], 2 * NEW @ SLOPE, atol=1e-4)
        pm.set_data({"scale": 3.0}, model=model)
        drawn = pm.sample_posterior_predictive(
            posterior(), model=model, random_seed=1, progressbar=False
        ).posterior_predictive
        np.testing.assert_allclose(drawn["y"][0, 0], 3 * NEW @ SLOPE, atol=1e-4)
    outside = pm.sample_posterior_predictive(posterior(), model=model, random_seed=1, progressbar=False)
    assert outside.posterior_predictive["y"].shape == (1, 20, 10)


def test_log_likelihood_is_that_of_the_rows_given() -> None:
    x, y = dvi.Minibatch(X, Y, batch_size=10)
    with pm.Model() as model:
        pm.Normal("y", x @ pm.Normal("b", shape=3), 1.0, observed=y)
    new_y = RNG.normal(size=7)
    with evaluating({x: NEW, y: new_y}):
        tree = pm.compute_log_likelihood(posterior(2), model=model, progressbar=False)
    found = tree.log_likelihood["y"].to_numpy()[0, 0]
    np.testing.assert_allclose(found, -0.5 * (new_y - NEW @ SLOPE) ** 2 - 0.5 * np.log(2 * np.pi))


def test_what_fits_read_is_not_touched() -> None:
    model, x, y = regression()
    before = split(model)
    with evaluating({x: NEW, y: np.zeros(7)}):
        inside = split(model)
        assert not before.stale
        assert inside.terms[0].batch.source.n_rows == 60
        np.testing.assert_array_equal(x.shared.get_value(), X)
    np.testing.assert_array_equal(x.eval(), X[:10])
    assert binding(x).batch.version == 0


def test_variables_hold_what_they_held_after_errors_and_nested_blocks() -> None:
    _, x, y = regression()
    with evaluating({x: NEW, y: None}):
        with evaluating({x: NEW[:2], y: [1, 2]}):
            assert y.eval().tolist() == [1.0, 2.0]
        assert y.eval().tolist() == [0.0] * 7
    np.testing.assert_array_equal(y.eval(), Y[:10])
    with pytest.raises(ZeroDivisionError), evaluating({x: NEW, y: None}):
        _ = 1 / 0
    np.testing.assert_array_equal(y.eval(), Y[:10])
    with evaluating({x: NEW, y: None}):
        x.set_value(X + 1)
    np.testing.assert_array_equal(x.eval(), X[:10] + 1)


def test_arrays_are_cast_and_row_numbers_counted() -> None:
    i, y = dvi.Minibatch(np.zeros(60, np.int16), Y, batch_size=10)
    with evaluating({i: np.array([3.0, 4.0]), y: xr.DataArray([1, 2])}):
        assert (i.eval().dtype, i.eval().tolist()) == (np.int16, [3, 4])
        assert (y.eval().dtype, y.eval().tolist()) == (np.float64, [1.0, 2.0])
    effects = pt.as_tensor(np.arange(60.0))[i.rows]
    with evaluating({i: None, y: np.zeros(3)}):
        assert effects.eval().tolist() == [0.0, 1.0, 2.0]
    with evaluating({i: None, y: np.zeros(3), i.rows: [9, 8, 7]}):
        assert effects.eval().tolist() == [9.0, 8.0, 7.0]
    assert effects.eval().tolist() == list(range(10))


def test_what_a_batch_cannot_hold_is_refused() -> None:
    _, x, y = regression()
    plain = pt.vector("plain")
    cases: list[tuple[dict[Any, Any], type, str]] = [
        ({x: NEW}, ArgumentError, r"\['flights.1'\].*left out; give all"),
        ({x: NEW, y: np.zeros(6)}, DataError, r"have \[6, 7\] rows"),
        ({x: None, y: None}, DataError, "have no rows"),
        ({x: NEW[:, :2], y: None}, DataError, r"shape \(7, 2\); give \(n_rows, \*\(3,\)\)"),
        ({plain: NEW}, ArgumentTypeError, "not a Minibatch variable"),
        ({"x": NEW}, ArgumentTypeError, "not a Minibatch variable"),
    ]
    for values, error, message in cases:
        with pytest.raises(error, match=message), evaluating(values):
            pass
        np.testing.assert_array_equal(x.eval(), X[:10])
