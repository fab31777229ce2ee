"""What is said of a log likelihood that is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dvi.data.plan import Plan
from dvi.execution.nonfinite import explanation, first_bad
from dvi.model.layout import Entry, Layout, Transform
from dvi.types import Round

LAYOUT = Layout(
    (
        Entry("sigma", "sigma_log__", (), 0, 1, (), Transform("log")),
        Entry("beta", "beta", (2, 2), 1, 5, (None, None), Transform("identity")),
    ),
    {},
)
PLAN = Plan(np.array([0, 6, 10]), batch_size=10, lanes=1, pool_chunks=2, block_rows=4, seed=0)
Z = np.array([[0.0, 1.0, -7.0, 3.0, 0.5], [0.0, 1.0, -9.0, 3.0, 0.5]])


class Kernel:
    """Not finite at rows that are given, for the second draw, with a score of one sort there."""

    def __init__(self, bad: dict[float, tuple[float, list[float]]]) -> None:
        self.bad, self.rows_seen = bad, 0

    def __call__(self, Z: Any, x: Any) -> Any:
        self.rows_seen += len(x)
        value, gradient = np.zeros(len(Z)), np.ones(Z.shape)
        for row in x:
            if row in self.bad:
                value[-1], gradient[-1] = self.bad[row]
        return value, gradient


def blocks() -> Any:
    x = np.arange(10.0)
    return ((x[start : start + 4],) for start in range(0, 10, 4))


def explained(bad: dict[float, tuple[float, list[float]]]) -> str:
    found = first_bad(Kernel(bad), Z, blocks())  # type: ignore[arg-type]
    return explanation(("y",), ("x",), PLAN, LAYOUT, 0, Round(3, Z), found)


def test_the_first_bad_row_is_found_with_its_values_and_the_parameters_whose_score_is_broken() -> None:
    message = explained({7.0: (-np.inf, [1.0, np.nan, 1.0, np.inf, 1.0]), 9.0: (np.nan, [0.0] * 5)})
    assert "log likelihood of y is not finite at step 3" in message
    assert "row 7 in chunk 1, where x=7." in message
    assert "it is -inf there, with beta[1, 0]=3, beta[0, 0]=1 (without constraints)" in message


def test_a_finite_score_names_the_most_extreme_parameters_that_the_row_depends_on() -> None:
    message = explained({2.0: (-np.inf, [1.0, 0.0, 1.0, 1.0, 0.0])})
    assert "row 2 in chunk 0" in message
    assert "with beta[0, 1]=-9, beta[1, 0]=3, sigma_log__=0 (without" in message


def test_a_sum_that_overflows_is_told_apart() -> None:
    assert "overflows in the sum over rows at step 3" in explained({})


def test_the_row_is_found_by_bisection() -> None:
    kernel = Kernel({5.0: (np.nan, [np.nan] * 5)})
    assert first_bad(kernel, Z, ((np.arange(1000.0),),)).position == 5  # type: ignore[arg-type, union-attr]
    assert kernel.rows_seen < 3001


@pytest.mark.parametrize(("index", "label"), [(0, "sigma_log__"), (1, "beta[0, 0]"), (4, "beta[1, 1]")])
def test_labels_of_single_elements_are_those_of_all(index: int, label: str) -> None:
    assert LAYOUT.label(index) == label == LAYOUT.names()[index]
