"""Predictions and log likelihoods against PyMC, for every kind of model and of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
import pytest
import xarray as xr
import zarr

import dvi
from dvi.approximation import Approximation
from dvi.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    ModelError,
    NonFiniteError,
    UnknownNameError,
)
from dvi.prediction import log_likelihood, predict
from tests.prediction.cases import QUIET, D, N, approximation, data, plain_model, same


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning")  # of 40 draws
@pytest.mark.usefixtures("small_items")
def test_log_likelihood_is_that_of_pymc_and_loo_reads_it(approx: Approximation, tmp_path: Path) -> None:
    tree = log_likelihood(approx, tmp_path / "new" / "ll.zarr", **QUIET)
    assert tree["log_likelihood"]["y"].shape == (1, 40, N)
    xr.testing.assert_allclose(
        tree["posterior"].to_dataset(), approx.sample(40, random_seed=3)["posterior"].to_dataset()
    )
    expected = pm.compute_log_likelihood(
        xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset().load()}),
        model=plain_model(),
        progressbar=False,
    )
    for name in ("y", "counts"):
        np.testing.assert_allclose(
            tree["log_likelihood"][name].values, expected["log_likelihood"][name].values, rtol=1e-10, atol=1e-10
        )
    mine, theirs = az.loo(tree, var_name="y"), az.loo(expected, var_name="y")
    assert mine.elpd == pytest.approx(theirs.elpd)
    opened = xr.open_datatree(tmp_path / "new" / "ll.zarr", engine="zarr")
    same(opened, tree)


@pytest.mark.usefixtures("small_items")
def test_predictions_have_the_distribution_of_the_model(approx: Approximation) -> None:
    x, *_ = data()
    settings = {**QUIET, "draws": 400}
    tree = predict(approx, var_names=["y", "mu", "counts"], **settings)["posterior_predictive"]
    posterior = approx.sample(400, random_seed=3)["posterior"]
    beta, sigma = posterior["beta"].values[0], posterior["sigma"].values[0]
    np.testing.assert_allclose(tree["mu"].values[0], beta @ x.T, rtol=1e-10, atol=1e-10)
    noise = (tree["y"].values[0] - beta @ x.T) / sigma[:, None]
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(noise.size))
    assert len(np.unique(noise)) == noise.size  # no block repeats the numbers of another
    excess = tree["counts"].values[0] - np.exp(beta @ x.T)
    assert abs(excess.mean()) < 5 * excess.std() / np.sqrt(noise.size)
    assert tree["counts"].dtype == np.int64
    assert tree["counts"].dims == ("chain", "draw", "obs") and tree["y"].dims[2] == "y_dim_0"
    assert tree["obs"].values.tolist() == list(range(1000, 1000 + N))


@pytest.mark.usefixtures("small_items")
def test_summary_is_that_of_the_draws(approx: Approximation, tmp_path: Path) -> None:
    drawn = predict(approx, **QUIET)["posterior_predictive"]["y"].values[0]
    levels = (0.1, 0.25, 0.9)
    tree = predict(approx, store=tmp_path / "s.zarr", kind="summary", quantiles=levels, **QUIET)
    np.testing.assert_allclose(tree["mean"]["y"], drawn.mean(axis=0))
    np.testing.assert_allclose(tree["sd"]["y"], drawn.std(axis=0))
    np.testing.assert_allclose(tree["quantiles"]["y"], np.quantile(drawn, levels, axis=0))
    assert tree["quantiles"]["quantile"].values.tolist() == list(levels)
    assert tree["mean"]["counts"].dims == ("obs",)


NEW = np.random.default_rng(5).normal(size=(700, D))


def forms(model: pm.Model, tmp_path: Path) -> dict[str, Any]:
    zarr.create_array(tmp_path / "x", data=NEW, chunks=(128, D))
    lazy = xr.DataArray(NEW, dims=("time", "feature"))
    return {
        "variable": {model.x: NEW},
        "name": {"minibatch.0": NEW},
        "list": [NEW],
        "list with None": [NEW, None, None],
        "array": NEW,
        "path": {model.x: tmp_path / "x"},
        "zarr": {model.x: zarr.open_array(tmp_path / "x")},
        "dask": {model.x: lazy.chunk(time=100)},
        "dataset": xr.Dataset({"minibatch.0": lazy, "other": ("time", np.zeros(700))}),
        "float32": {model.x: NEW.astype(np.float32)},
    }


def test_new_rows_come_in_every_form(model: pm.Model, approx: Approximation, tmp_path: Path) -> None:
    beta = approx.sample(40, random_seed=3)["posterior"]["beta"].values[0]
    for form, given in forms(model, tmp_path).items():
        found = predict(approx, given, var_names=["mu"], **QUIET)["predictions"]["mu"].values[0]
        tolerance = 1e-5 if form == "float32" else 1e-10
        np.testing.assert_allclose(found, beta @ NEW.T, rtol=tolerance, atol=tolerance, err_msg=form)


def test_names_and_coordinates_of_new_rows_are_kept(approx: Approximation, model: pm.Model, tmp_path: Path) -> None:
    days = np.datetime64("2024-01-01", "ns") + np.arange(700) * np.timedelta64(1, "D")
    x = xr.DataArray(NEW, dims=("time", "feature"), coords={"time": days})
    tree = predict(approx, {model.x: x}, tmp_path / "p.zarr", kind="summary", **QUIET)
    assert tree["mean"]["y"].dims == ("time",)
    assert (tree["mean"]["time"].values == days).all()
    assert tree["mean"]["counts"].dims == ("obs",) and "obs" not in tree["mean"].coords  # 700 rows, not 3,000


def test_log_likelihood_of_other_rows(model: pm.Model, approx: Approximation) -> None:
    x, y, counts = data()
    held = {model.x: x[:50], model.batch_y: y[:50], model.counts: counts[:50]}
    found = log_likelihood(approx, data=held, **QUIET)["log_likelihood"]
    whole = log_likelihood(approx, **QUIET)["log_likelihood"]
    for name in ("y", "counts"):
        np.testing.assert_allclose(found[name], whole[name][..., :50], rtol=1e-12)


def test_mixtures_are_drawn_one_after_the_other(tmp_path: Path) -> None:
    y = dvi.Minibatch(np.zeros(500), batch_size=50)
    with pm.Model() as model:
        mu = pm.Normal("mu")
        components = [pm.Normal.dist(mu - 5, 0.1), pm.Normal.dist(mu + 5, 0.1)]
        pm.Mixture("y", w=[0.25, 0.75], comp_dists=components, observed=y)
    approx = approximation(model)
    tree = predict(approx, threads=1, **QUIET)
    above = tree["posterior_predictive"]["y"].values[0] > approx.sample(40, random_seed=3)["posterior"][
        "mu"
    ].values.reshape(40, 1)
    assert above.mean() == pytest.approx(0.75, abs=5 * np.sqrt(0.25 * 0.75 / above.size))
    assert above.any(axis=1).all() and len(np.unique(tree["posterior_predictive"]["y"])) == 20_000
    same(predict(approx, threads=2, **QUIET), tree)


def test_rows_with_several_values_and_parts_of_other_axes() -> None:
    values = np.random.default_rng(1).normal(size=(200, 6))
    y = dvi.Minibatch(values, batch_size=[20, 3])
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Normal("y", mu, 1, observed=y)
    approx = approximation(model)
    found = log_likelihood(approx, **QUIET)["log_likelihood"]["y"]
    assert found.dims == ("chain", "draw", "y_dim_0", "y_dim_1") and found.shape == (1, 40, 200, 6)
    mu = approx.sample(40, random_seed=3)["posterior"]["mu"].values.reshape(40, 1, 1)
    np.testing.assert_allclose(found[0], -0.5 * (values - mu) ** 2 - 0.5 * np.log(2 * np.pi), rtol=1e-10)
    assert predict(approx, **QUIET)["posterior_predictive"]["y"].shape == (1, 40, 200, 6)


def test_row_numbers() -> None:
    y = dvi.Minibatch(np.zeros(30), batch_size=10)
    with pm.Model() as model:
        effect = pm.Normal("effect", shape=30)
        pm.Deterministic("own", effect[y.rows])
        pm.Normal("y", effect[y.rows], 1, observed=y)
    approx = approximation(model)
    effects = approx.sample(40, random_seed=3)["posterior"]["effect"].values
    assert np.array_equal(predict(approx, var_names="own", **QUIET)["posterior_predictive"]["own"], effects)
    chosen = predict(approx, {y.rows: [3, 3, 29]}, var_names="own", **QUIET)["predictions"]["own"]
    assert np.array_equal(chosen, effects[..., [3, 3, 29]])
    with pytest.raises(ArgumentError, match=r"also depend on \['minibatch.0.rows'\]"):
        predict(approx, {y: np.zeros(5)}, **QUIET)


def test_two_minibatches_have_rows_of_their_own() -> None:
    one, two = dvi.Minibatch(np.zeros(40), batch_size=10), dvi.Minibatch(np.ones(70), batch_size=10, name="other")
    with pm.Model(coords={"obs": np.arange(40)}) as model:
        mu = pm.Normal("mu")
        pm.Normal("a", mu, 1, observed=one, dims="obs")
        pm.Normal("b", mu, 1, observed=two, dims="obs")
    approx = approximation(model)
    found = log_likelihood(approx, **QUIET)["log_likelihood"]
    assert (found["a"].shape, found["b"].shape) == ((1, 40, 40), (1, 40, 70))
    assert (found["a"].dims[2], found["b"].dims[2]) == ("obs", "b_dim_0")
    new = predict(approx, {two: np.zeros(5)}, **QUIET)["predictions"]
    assert set(new.data_vars) == {"b"}
    with pytest.raises(ArgumentError, match="2 Minibatches"):
        predict(approx, [np.zeros(5)], **QUIET)
    with pytest.raises(ArgumentError, match=r"no rows for \['a'\]"):
        predict(approx, {two: np.zeros(5)}, var_names=["a", "b"], **QUIET)


def test_loaded_approximations_need_their_model(approx: Approximation, model: pm.Model, tmp_path: Path) -> None:
    approx.save(tmp_path / "approx.zarr")
    loaded = dvi.load(tmp_path / "approx.zarr")
    with pytest.raises(ModelError, match="without its model"):
        predict(loaded, **QUIET)
    same(predict(loaded, model=model, **QUIET), predict(approx, **QUIET))
    with pm.Model() as other:
        pm.Normal("beta")
    with pytest.raises(ArgumentError, match="is not the one"):
        predict(loaded, model=other, **QUIET)


def test_models_without_a_minibatch_are_sent_to_pymc() -> None:
    approx = approximation(plain_model())
    with pytest.raises(ModelError, match=r"pm.sample_posterior_predictive\(approx.sample\(1000\), model=model\)"):
        predict(approx, **QUIET)
    with pytest.raises(ModelError, match=r"pm\.compute_log_likelihood"):
        log_likelihood(approx, **QUIET)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([np.zeros((5, D + 1))], DataError, r"are of shape \(4,\), those of its Minibatch of \(3,\)"),
        ({"minibatch.0": np.zeros((5, D)), "minibatch.1": np.zeros(6)}, DataError, "equally many rows"),
        ({"minibatch.1": np.zeros(6)}, ArgumentError, r"also depend on \['minibatch.0'\]"),
        ({"z": np.zeros(6)}, ArgumentError, "is no array of a Minibatch"),
        ({3: np.zeros(6)}, ArgumentTypeError, "key 3 of type int"),
        ({}, ArgumentError, "no rows for"),
        ([np.zeros((5, D))] * 4, ArgumentError, "4 arrays were given"),
        ([np.full((5, D), np.nan)], NonFiniteError, "minibatch.0"),
    ],
)
def test_data_are_checked(given: Any, error: type[Exception], message: str, approx: Approximation) -> None:
    with pytest.raises(error, match=message):
        predict(approx, given, **QUIET)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "mean"}, ArgumentError, "'draws'"),
        ({"kind": "summary", "quantiles": [0.5, 1.5]}, ArgumentError, "increase from 0 to 1"),
        ({"draws": 0}, ArgumentError, "at least 1"),
        ({"var_names": ["beta"]}, UnknownNameError, "approx.sample for free variables"),
        ({"var_names": ["twice"]}, UnknownNameError, "approx.sample for free variables"),
        ({"threads": 0}, ArgumentError, "at least 1"),
        ({"client": "tcp://1.2.3.4"}, ArgumentTypeError, "distributed.Client"),
        ({"draws": 1_000_000}, ArgumentError, "give store="),
    ],
)
def test_settings_are_checked(
    settings: dict[str, Any], error: type[Exception], message: str, approx: Approximation
) -> None:
    if settings.get("draws") == 1_000_000:
        settings = {**settings, "var_names": ["mu"]}
    with pytest.raises(error, match=message):
        predict(approx, **{**QUIET, **settings})


def test_values_that_depend_on_other_rows_are_refused() -> None:
    x, y = dvi.Minibatch(np.arange(100.0), np.zeros(100), batch_size=10)
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Deterministic("centred", x - x.mean() + mu)
        pm.Deterministic("total", x.sum() + mu)
        pm.Normal("y", mu * x, 1, observed=y)
    approx = approximation(model)
    with pytest.raises(ModelError, match="depend on the other rows"):
        predict(approx, var_names="centred", **QUIET)
    with pytest.raises(ModelError, match="needs a value for each row"):
        predict(approx, var_names="total", **QUIET)


def test_nan_in_the_log_likelihood_names_its_row() -> None:
    rows = np.ones(100)
    rows[70] = -1.0
    y = dvi.Minibatch(rows, batch_size=10)
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.CustomDist("y", mu, logp=lambda value, mu: pm.math.log(value) - mu, observed=y)
    with pytest.raises(NonFiniteError, match=r"'y' is NaN at row 70"):
        log_likelihood(approximation(model), **QUIET)


def test_progress_goes_to_standard_error(approx: Approximation, capsys: pytest.CaptureFixture[str]) -> None:
    predict(approx, **{**QUIET, "progressbar": True})
    assert capsys.readouterr().out == ""
