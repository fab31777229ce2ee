"""Expressions of a model's variables follow the draws of an approximation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

import dvi
from dvi.approximation import Approximation
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import ArgumentError, ArgumentTypeError, ModelError
from dvi.model.graph import split
from dvi.model.nodes import symbolic_draws
from dvi.types import Family, FloatArray

QUICK = "FAST_COMPILE"  # the interpreter
X, Y = np.random.default_rng(0).normal(size=(100, 2)), np.zeros(100)


def approximation(model: pm.Model, family: Any = MeanFieldFamily) -> Approximation:
    layout = split(model).layout
    made = family(layout.ndim)
    theta = made.initial(np.linspace(-1, 1, layout.ndim), np.full(layout.ndim, 0.5))
    return Approximation(made, theta, layout, np.empty(0), model=model)


@pytest.fixture(scope="module")
def model() -> pm.Model:
    x, y = dvi.Minibatch(X, Y, batch_size=10)
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 1, shape=2)
        low = pm.Normal("low")
        sigma = pm.HalfNormal("sigma")
        pm.Uniform("moving", low, low + sigma)
        pm.Deterministic("twice", 2 * sigma)
        pm.Normal("y", x @ beta, sigma, observed=y)
        pm.Mixture("mixed", w=[0.5, 0.5], comp_dists=[pm.Normal.dist(low), pm.Normal.dist(0.0)], observed=np.zeros(4))
    model.x, model.batch = x, y
    return model


@pytest.fixture(scope="module")
def approx(model: pm.Model) -> Approximation:
    return approximation(model)


def evaluated(variable: Any) -> np.ndarray:
    return np.asarray(variable.eval(mode=QUICK))


@pytest.mark.parametrize("name", ["beta", "sigma", "moving", "twice", "y", "mixed"])
def test_shapes_are_those_of_the_variables_and_draws_are_fresh(
    name: str, model: pm.Model, approx: Approximation
) -> None:
    node = model[name]
    shape = {"beta": (2,), "y": (10,), "mixed": (4,)}.get(name, ())
    for size in (None, 3):
        found = approx.sample_node(node, size=size)
        first, second = evaluated(found), evaluated(found)
        assert first.shape == second.shape == (shape if size is None else (3, *shape))
        assert not np.isclose(first, second).any()


def test_draws_have_the_distribution_of_sample(model: pm.Model, approx: Approximation) -> None:
    moving = evaluated(approx.sample_node(model["moving"], size=4000, random_seed=1))
    posterior = approx.sample(4000, random_seed=2)["posterior"]["moving"].values
    assert moving.mean() == pytest.approx(posterior.mean(), abs=5 * posterior.std() / np.sqrt(2000))
    assert moving.std() == pytest.approx(posterior.std(), rel=0.1)


def test_nodes_of_one_call_see_the_same_draws(model: pm.Model, approx: Approximation) -> None:
    sigma, twice = approx.sample_node([model["sigma"], model["twice"]], size=5)
    np.testing.assert_allclose(*pytensor.function([], [2 * sigma, twice], mode=QUICK)())


def test_a_seed_gives_the_same_sequence(model: pm.Model, approx: Approximation) -> None:
    one, same, other = (approx.sample_node(model["y"], random_seed=s) for s in (1, 1, 2))
    for _ in range(2):
        drawn = evaluated(one)
        assert np.array_equal(drawn, evaluated(same))
        assert not np.isclose(drawn, evaluated(other)).any()


def test_default_mode_and_pymc_draw(model: pm.Model, approx: Approximation) -> None:
    """The default mode is numba's, which leaves the operator to Python without a warning."""
    node = approx.sample_node(model["beta"], size=3)
    assert not np.isclose(node.eval(), node.eval()).any()
    drawn = pm.draw(node, draws=2, random_seed=1)
    assert drawn.shape == (2, 3, 2) and not np.isclose(drawn[0], drawn[1]).any()


def test_mean_in_place_of_draws(model: pm.Model, approx: Approximation) -> None:
    mean = approx.mean.eval()
    assert np.array_equal(evaluated(approx.sample_node(model["beta"], deterministic=True)), mean[:2])
    flag = pt.iscalar("flag")
    node = approx.sample_node(model["beta"], size=2, deterministic=flag)
    function = pytensor.function([flag], node, mode=QUICK)
    assert np.array_equal(function(1), [mean[:2]] * 2)
    assert not np.isclose(function(0), mean[:2]).any()


def test_symbolic_size(model: pm.Model, approx: Approximation) -> None:
    size = pt.iscalar("size")
    function = pytensor.function([size], approx.sample_node(model["twice"], size=size), mode=QUICK)
    assert [function(n).shape for n in (1, 4)] == [(1,), (4,)]


def test_free_variables_and_what_follows_from_them_are_replaced(model: pm.Model, approx: Approximation) -> None:
    at = approx.sample_node(model["twice"], more_replacements={model["sigma"]: 3.0})
    assert evaluated(at) == 6.0
    low = pt.dscalar("low")
    moving = approx.sample_node(model["moving"], size=50, more_replacements={model["low"]: low})
    drawn = pytensor.function([low], moving, mode=QUICK)(100.0)
    assert (drawn > 100).all() and (drawn < 110).all()


@pytest.mark.parametrize("n_rows", [1, 7, 30])
def test_a_minibatch_is_replaced_by_any_number_of_rows(n_rows: int, model: pm.Model, approx: Approximation) -> None:
    new = np.ones((n_rows, 2))
    mean = evaluated(approx.sample_node(model.x @ model["beta"], deterministic=True, more_replacements={model.x: new}))
    np.testing.assert_allclose(mean, new @ approx.mean.eval()[:2])
    predictive = approx.sample_node(model["y"], size=3, more_replacements={model.x: new})
    assert evaluated(predictive).shape == (3, n_rows)


def test_random_variables_that_depend_on_no_draw_are_drawn_for_each(approx: Approximation) -> None:
    drawn = evaluated(approx.sample_node(pm.Normal.dist(shape=2), size=3))
    assert drawn.shape == (3, 2) and len(np.unique(drawn)) == 6


def test_an_expression_without_draws_is_repeated(approx: Approximation) -> None:
    assert evaluated(approx.sample_node(pt.constant([1.0, 2.0]), size=2)).tolist() == [[1, 2], [1, 2]]


def test_the_model_keeps_its_own_generators(model: pm.Model, approx: Approximation) -> None:
    approx.sample_node(model["y"])
    (rng,) = (v for v in model["y"].owner.inputs if hasattr(v, "default_update"))
    assert rng.default_update is None


def test_nodes_follow_the_approximation(model: pm.Model) -> None:
    approx = approximation(model)
    node = approx.sample_node(model["beta"], deterministic=True)
    approx.update(approx.theta + 1, np.ones(3))
    assert np.array_equal(evaluated(node), approx.mean.eval()[:2])
    tracker = dvi.callbacks.Tracker(beta=lambda: evaluated(node))
    tracker(approx, approx.hist, 3)
    assert np.array_equal(tracker["beta"][0], evaluated(node))


@pytest.mark.parametrize("make", [MeanFieldFamily, FullRankFamily])
@pytest.mark.parametrize("deterministic", [False, True])
def test_gradient_is_that_of_the_sum_over_draws(make: Any, deterministic: bool) -> None:
    family: Family = make(2)
    theta = pytensor.shared(family.initial(np.array([0.5, -1.0]), np.array([0.3, 0.7])))
    draws = symbolic_draws(family, theta, 4, deterministic, seed=1)
    eps = pt.matrix("eps", shape=(4, family.noise_dim))
    loss = pytensor.graph.clone_replace(pt.sum(pt.exp(draws.Z) ** 2), {draws.eps: eps})
    function = pytensor.function([eps], [loss, pytensor.grad(loss, theta)], mode=QUICK)
    noise = np.random.default_rng(1).normal(size=(4, family.noise_dim))
    start = theta.get_value()

    def at(point: FloatArray) -> float:
        theta.set_value(point)
        return float(function(noise)[0])

    expected = [(at(start + h) - at(start - h)) / 2e-6 for h in 1e-6 * np.eye(family.size)]
    theta.set_value(start)
    np.testing.assert_allclose(function(noise)[1], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("replacements", "error", "message"),
    [
        ({"sigma": 1.0}, ArgumentTypeError, "the key 'sigma' of type str"),
        ("ndim", ArgumentError, "a value of 1 dimensions; it has 0"),
    ],
)
def test_replacements_are_checked(
    replacements: Any, error: type[Exception], message: str, model: pm.Model, approx: Approximation
) -> None:
    given = {model["sigma"]: [1.0, 2.0]} if replacements == "ndim" else replacements
    with pytest.raises(error, match=message):
        approx.sample_node(model["twice"], more_replacements=given)


def test_without_a_model(approx: Approximation) -> None:
    alone = Approximation(approx.family, approx.theta, approx.layout, approx.hist)
    with pytest.raises(ModelError, match="load the approximation with model="):
        alone.sample_node(pt.constant(1.0))
