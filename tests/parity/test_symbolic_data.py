"""Minibatches of what PyMC models hold data in: pm.Data, shared variables and expressions of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

import dvi
from dvi.errors import ArgumentTypeError

ROWS = np.arange(60.0).reshape(30, 2)


def data(values: np.ndarray) -> Any:
    with pm.Model():
        return pm.Data("data", values)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (data, ROWS),
        (pytensor.shared, ROWS),
        (pt.as_tensor, ROWS),
        (lambda rows: pt.as_tensor(rows).astype("int64"), ROWS.astype(np.int64)),
        (lambda rows: 2 * pytensor.shared(rows) + 1, 2 * ROWS + 1),
    ],
)
def test_the_value_of_a_variable_is_read(make: Callable[[np.ndarray], Any], expected: np.ndarray) -> None:
    batch = dvi.Minibatch(make(ROWS), batch_size=20)
    assert batch.type.dtype == expected.dtype
    np.testing.assert_array_equal(batch.shared.get_value(), expected)


def test_a_fit_to_data_is_a_fit_to_its_array() -> None:
    x = np.linspace(-1, 1, 200)
    y = 3 * x + np.random.default_rng(1).normal(size=200)
    found = []
    for symbolic in (False, True):
        with pm.Model():
            arrays = (pm.Data("x", x), pm.Data("y", y)) if symbolic else (x, y)
            features, target = dvi.Minibatch(*arrays, batch_size=50)
            slope = pm.Normal("slope", 0, 10)
            pm.Normal("obs", slope * features, 1, observed=target, total_size=200)
            found.append(dvi.fit(200, random_seed=1, progressbar=False).theta)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pm.Normal.dist(ROWS),
        lambda: pt.matrix("features"),
        lambda: dvi.Minibatch(ROWS, batch_size=10),
        lambda: 2 * dvi.Minibatch(ROWS, batch_size=10),
    ],
    ids=["random", "input", "batch", "expression of a batch"],
)
def test_what_has_no_value_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ArgumentTypeError):
        dvi.Minibatch(make(), batch_size=5)
