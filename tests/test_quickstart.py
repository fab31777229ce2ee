"""The tour of the quickstart runs, and says what it should."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "variational_quickstart.py"
FIGURES = [
    "convergence", "expressions", "gamma", "iris", "learning_rates", "minibatches", "modes", "tracking",
]  # fmt: skip

type Found = dict[str, dict[str, float]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vega_datasets") is None, reason="needs vega_datasets"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tour")


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    main = runpy.run_path(str(EXAMPLE), run_name="quickstart")["main"]
    return main(["--quick", "--out", str(folder)])


def test_every_figure_is_drawn(found: Found, folder: Path) -> None:
    assert sorted(path.stem for path in folder.glob("*.png")) == FIGURES


def test_full_rank_has_the_spread_that_mean_field_lacks(found: Found) -> None:
    gamma, groups = found["gamma"], found["groups"]
    assert gamma["full rank sd of alpha"] == pytest.approx(gamma["exact sd of alpha"], rel=0.1)
    assert gamma["mean field sd of alpha"] < 0.6 * gamma["exact sd of alpha"]
    assert groups["full rank for beta"] == pytest.approx(groups["exact sd of beta[0]"], rel=0.1)
    assert groups["mean field"] < 0.2 * groups["exact sd of beta[0]"]


def test_particles_find_both_modes_and_weights_their_mass(found: Found) -> None:
    modes, expressions = found["modes"], found["expressions"]
    assert modes["ADVI mass left of 0"] < 0.001
    assert modes["weighted SVGD mass left of 0"] == pytest.approx(modes["exact mass left of 0"], abs=0.015)
    assert expressions["mean of x²"] == pytest.approx(expressions["exact mean of x²"], rel=0.02)
    assert expressions["variance of x²"] == pytest.approx(expressions["exact variance of x²"], rel=0.1)


def test_callbacks_end_fits_and_track_them(found: Found) -> None:
    convergence, tracking = found["convergence"], found["tracking"]
    assert convergence["steps with diff=absolute"] < convergence["steps with diff=relative"]
    assert tracking["values tracked"] == tracking["steps"]
    assert (tracking["mean"], tracking["sd"]) == pytest.approx((0.5, 0.1), rel=0.01)
    assert found["minibatches"]["steps on all rows"] == 10


def test_irises_are_told_apart(found: Found) -> None:
    assert all(accuracy >= 0.9 for accuracy in found["iris"].values())
    assert len(found["iris"]) == 3


def test_batches_find_what_all_rows_would(found: Found) -> None:
    batches = found["minibatches"]
    assert batches["largest error of a mean, in sd of the data"] < 0.01
    assert batches["largest relative error of an sd"] < 0.01
    assert batches["ELBO"] == pytest.approx(batches["log likelihood at the best fit"], rel=0.01)
    replaced = found["replaced_data"]
    for name in ("the data", "the data + 1", "half of the rows + 2"):
        assert replaced[f"level of {name}"] == pytest.approx(replaced[f"exact level of {name}"], abs=0.02)


def test_a_falling_learning_rate_settles(found: Found) -> None:
    rates = found["learning_rates"]
    assert rates["last learning rate"] == pytest.approx(0.1 / 2**7)
    assert abs(rates["error of the mean, in posterior sd"]) < 0.3
