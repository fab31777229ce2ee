"""What users of PyMC's approximations rely on."""

from __future__ import annotations

import math

import numpy as np
import pymc as pm
import pytensor
import pytest

import dvi
from dvi.errors import ModelError

MEAN = 1.88
Y = np.array([1.6, 1.4])


def test_the_elbo_is_log_joint_less_log_density_of_parameters_that_were_set() -> None:
    with pm.Model() as model:
        mu = pm.Normal("mu", 1.5, 1.0)
        pm.Normal("y", mu, 1.0, observed=Y)
    approx = dvi.MeanField(model=model)
    elbo = approx.set_size_and_deterministic(approx.logp - approx.logq, 10_000, False)
    approx.shared_params["mu"].set_value(np.array([MEAN]))
    approx.shared_params["rho"].set_value(np.array([math.log(math.e - 1)]))  # a standard deviation of 1
    squares = (Y - MEAN) @ (Y - MEAN) + (1.5 - MEAN) ** 2 + 3.0
    exact = -0.5 * (squares + 3 * math.log(2 * math.pi)) + 0.5 * math.log(2 * math.pi * math.e)
    # The variance of the estimate is that of (1 - 3) z²/2 and a multiple of z: less than 3.
    assert elbo.eval() == pytest.approx(exact, abs=5 * math.sqrt(3 / 10_000))


def test_data_of_another_length_take_the_place_of_a_variable() -> None:
    features = np.linspace(0, 10, 10)
    y = np.random.default_rng(1).normal(4 * features, 0.05)
    length = pytensor.shared(np.array(10), "length")
    with pm.Model():
        x = pm.Normal("x", features, size=(length,))
        mean = x * pm.Normal("slope", 4.0)
        pm.Normal("y", mean, 0.1, shape=x.shape, observed=y)
        approx = dvi.fit(100, random_seed=1, progressbar=False)
    assert approx.sample_node(mean).eval().shape == (10,)
    length.set_value(11)
    assert approx.sample_node(mean, more_replacements={x: np.linspace(0, 10, 11)}).eval().shape == (11,)


@pytest.mark.parametrize("method", [dvi.ADVI, dvi.FullRankADVI, dvi.SVGD, dvi.ASVGD])
def test_a_shared_switch_between_mean_and_draws(method: type[dvi.Inference]) -> None:
    with pm.Model():
        p = pm.Beta("p", 1, 1)
        pm.Binomial("y", n=1, p=p, observed=np.array([0, 1, 0, 0]))
        approx = method(random_seed=1).approx
    switch = pytensor.shared(1)
    node = approx.sample_node(p**3, deterministic=switch, size=5, random_seed=1)
    assert len(np.unique(node.eval())) == 1
    switch.set_value(0)
    assert len(np.unique(node.eval())) > 1


def test_discrete_variables_are_refused_with_the_words_of_pymc() -> None:
    with pm.Model() as model:
        mu = pm.Normal("mu", shape=3)
        z = pm.Categorical("z", np.ones(3) / 3, shape=10)
        pm.Normal("y", mu[z], 1, observed=np.zeros(10))
    with pytest.raises(ModelError, match="Discrete variables"):
        dvi.fit(1, model=model, progressbar=False)


def test_a_learning_rate_that_is_not_a_number_is_a_floating_point_error() -> None:
    with pytest.raises(FloatingPointError, match="learning_rate = nan is not finite"):
        dvi.adam(learning_rate=float("nan"))
