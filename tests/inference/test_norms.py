from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose
from pymc.variational import updates as pymc_rules
from pytensor.compile.mode import Mode

from dvi.errors import ArgumentError
from dvi.inference import norms

PYTHON_ONLY = Mode(linker="py", optimizer=None)


@pytest.mark.parametrize("scale", [1e-9, 0.1, 1.0, 1e3])
@pytest.mark.parametrize("epsilon", [1e-7, 1e-2])
def test_total_norm_constraint_is_that_of_pymc(scale, epsilon):
    rng = np.random.default_rng(1)
    arrays = [scale * rng.normal(size=4), scale * rng.normal(size=(2, 3))]
    parts = [pt.dvector("a"), pt.dmatrix("b")]
    outputs, norm = pymc_rules.total_norm_constraint(parts, 2.0, epsilon, return_norm=True)
    *expected, expected_norm = pytensor.function(parts, [*outputs, norm], mode=PYTHON_ONLY)(*arrays)
    scaled, norm = norms.total_norm_constraint(arrays, 2.0, epsilon, return_norm=True)
    for one, two in zip(scaled, expected, strict=True):
        assert_allclose(one, two, rtol=1e-12)
    assert_allclose(norm, expected_norm, rtol=1e-12)
    for one, two in zip(norms.total_norm_constraint(arrays, 2.0, epsilon), scaled, strict=True):
        assert np.array_equal(one, two)
    flat = np.concatenate([array.ravel() for array in arrays])
    assert_allclose(
        norms.total_norm_constraint(flat, 2.0, epsilon), np.concatenate([s.ravel() for s in scaled]), rtol=1e-15
    )


def test_total_norm_constraint_keeps_a_zero_and_its_argument():
    zero = np.zeros(3)
    zero.flags.writeable = False
    assert not norms.total_norm_constraint(zero, 1.0).any()


@pytest.mark.parametrize(("shape", "axes"), [
    ((4, 3), None), ((2, 3, 4), None), ((2, 3, 1, 4), None), ((2, 2, 2, 2, 2), None),
    ((5,), (0,)), ((4, 3), (1,)), ((4, 3), (0, 1)), ((2, 3, 4), (0,)),
])  # fmt: skip
@pytest.mark.parametrize("epsilon", [1e-7, 1e-2])
def test_norm_constraint_is_that_of_pymc(shape, axes, epsilon):
    array = np.random.default_rng(2).normal(size=shape)
    tensor = pt.tensor("a", dtype="float64", shape=(None,) * len(shape))
    function = pytensor.function([tensor], pymc_rules.norm_constraint(tensor, 1.5, axes, epsilon), mode=PYTHON_ONLY)
    constrained = norms.norm_constraint(array, 1.5, axes, epsilon)
    assert_allclose(constrained, function(array), rtol=1e-12)
    assert not np.allclose(constrained, array, rtol=1e-3)


@pytest.mark.parametrize("shape", [(), (3,), (1,) * 6])
def test_norm_constraint_asks_for_axes_where_there_is_no_default(shape):
    with pytest.raises(ArgumentError, match="Pass norm_axes"):
        norms.norm_constraint(np.ones(shape), 1.0)


@pytest.mark.parametrize("constraint", [norms.total_norm_constraint, norms.norm_constraint])
@pytest.mark.parametrize("max_norm", [0.0, -1.0, np.inf, np.nan])
def test_limits_without_meaning_are_refused(constraint, max_norm):
    with pytest.raises(ArgumentError, match="max_norm"):
        constraint(np.ones((2, 2)), max_norm)
