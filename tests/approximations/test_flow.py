"""FlowFamily: formulas, invertible layers, and a posterior that no normal distribution fits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dvi.approximations.coupling import CouplingLayer
from dvi.approximations.flow import FlowFamily, parse
from dvi.approximations.layers import count
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.planar import PlanarLayer
from dvi.approximations.radial import RadialLayer
from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference.averaging import TailAverage
from dvi.inference.elbo import Elbo
from dvi.inference.optimizers import adam
from dvi.inference.schedules import Cosine
from dvi.types import Family, FloatArray


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("scale-loc-planar*2", ["scale", "loc", "planar", "planar"]),
        ("radial*3-loc", ["radial", "radial", "radial", "loc"]),
        ("coupling", ["coupling"]),
    ],
)
def test_formulas(formula, names):
    assert parse(formula) == names


@pytest.mark.parametrize("formula", ["", "planar*0", "planar*-1", "planer", "planar**2", "planar--loc", "planar*2.5"])
def test_what_is_not_a_formula_is_refused(formula):
    with pytest.raises(ArgumentError, match="planar, radial, coupling, scale, loc"):
        FlowFamily(2, formula)


def test_formulas_have_bounds_and_are_text():
    with pytest.raises(ArgumentError, match="1001 layers"):
        FlowFamily(2, "planar*1000-loc")
    with pytest.raises(ArgumentTypeError, match="formula"):
        FlowFamily(2, ["planar"])


def test_coupling_needs_two_dimensions():
    with pytest.raises(ArgumentError, match="no two halves"):
        FlowFamily(1, "coupling*2")


def test_scale_and_loc_are_added_where_they_are_missing():
    assert [type(layer).__name__ for layer in FlowFamily(2, "planar").layers] == [
        "PlanarLayer",
        "ScaleLayer",
        "LocLayer",
    ]
    assert [type(layer).__name__ for layer in FlowFamily(2, "loc-scale").layers] == ["LocLayer", "ScaleLayer"]
    assert [layer.parity for layer in FlowFamily(3, "coupling*2-planar-coupling").layers[:2]] == [0, 1]


@pytest.mark.parametrize("layer", [PlanarLayer(3), RadialLayer(3), RadialLayer(1), CouplingLayer(5, 1)], ids=repr)
def test_layers_keep_the_orientation_of_space_for_any_parameters(layer):
    rng = np.random.default_rng(1)
    for size in (0.1, 3.0, 30.0):
        theta = size * rng.normal(size=count(layer.shapes))
        x = 3.0 * rng.normal(size=(200, layer.ndim))
        log_det = layer.forward(theta, x)[1]
        assert np.isfinite(log_det).all()


@pytest.mark.parametrize("layer", [PlanarLayer(3), RadialLayer(3), CouplingLayer(3, 0)], ids=repr)
def test_layers_change_nothing_at_the_start(layer):
    x = np.random.default_rng(2).normal(size=(5, 3))
    y, log_det = layer.forward(layer.initial(np.random.default_rng(3)), x)
    assert_allclose(y, x, rtol=1e-14)
    assert_allclose(log_det, 0.0, atol=1e-14)


def test_a_radial_layer_is_smooth_at_its_own_point():
    layer = RadialLayer(2)
    theta = np.array([0.3, 0.8, 0.5, -0.5])
    at = np.array([[0.5, -0.5]])
    assert_array_equal(layer.forward(theta, at)[0], at)
    assert np.isfinite(layer.push_score(theta, at, np.ones((1, 2)))).all()


def banana(Z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Normalised log density of z1 ~ N(0, 1), z2 | z1 ~ N(z1^2, 0.5), and its gradient."""
    gap = (Z[:, 1] - Z[:, 0] ** 2) / 0.25
    logp = -0.5 * Z[:, 0] ** 2 - 0.125 * gap**2 - np.log(2 * np.pi) - np.log(0.5)
    return logp, np.stack([-Z[:, 0] + 2 * Z[:, 0] * gap, -gap], axis=1)


def fitted_elbo(family: Family, n: int = 4_000) -> float:
    rng = np.random.default_rng(0)
    optimizer, average, elbo = adam(Cosine(0.02, steps=n, final=0.01), beta2=0.99), TailAverage(n - n // 5), Elbo("stl")
    theta = family.initial(np.zeros(2), np.full(2, 0.5))
    slots, tail = optimizer.init(theta), average.init(theta)
    for step in range(n):
        eps = rng.normal(size=(8, 2))
        _, gradient = elbo.gradient(family, theta, eps, *banana(family.draw(theta, eps)))
        theta, slots = optimizer.update(step, theta, -gradient, slots)
        tail = average.update(step, theta, tail)
    theta, eps = average.value(theta, tail), rng.normal(size=(20_000, 2))
    return float(np.mean(banana(family.draw(theta, eps))[0] - family.log_q(theta, eps)))


def test_flows_fit_a_banana_better_than_independent_normals():
    independent = fitted_elbo(MeanFieldFamily(2))
    for formula, share in (("planar*6", 0.5), ("radial*6", 0.9), ("coupling*4", 0.1)):
        assert share * independent < fitted_elbo(FlowFamily(2, formula)) < 0.05, formula  # 0 is the evidence
