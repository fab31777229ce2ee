"""A normal mean with a normal prior far from the data: every method of PyMC, on all rows and on batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytest

import dvi

N, SIGMA = 1_000, 3.0
PRIOR_MEAN, PRIOR_SD = 4.0, 2.0


@dataclass(frozen=True)
class Problem:
    model: pm.Model
    mean: float
    sd: float


@pytest.fixture(scope="module", params=[128, None], ids=["batches", "all rows"])
def problem(request: pytest.FixtureRequest) -> Problem:
    y = np.random.default_rng(20).normal(-5.0, SIGMA, N)
    precision = N / SIGMA**2 + 1 / PRIOR_SD**2
    observed = y if request.param is None else dvi.Minibatch(y, batch_size=request.param)
    with pm.Model() as model:
        mu = pm.Normal("mu", PRIOR_MEAN, PRIOR_SD, initval=0)
        pm.Normal("x", mu, SIGMA, observed=observed, total_size=N)
    return Problem(model, float((y.sum() / SIGMA**2 + PRIOR_MEAN / PRIOR_SD**2) / precision), precision**-0.5)


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
@pytest.mark.parametrize("seed", [42, 43])
def test_defaults_find_mean_and_sd(problem: Problem, method: str, seed: int) -> None:
    approx = dvi.fit(6_000, method, problem.model, random_seed=seed, progressbar=False)
    assert approx.mean_data["mu"].item() == pytest.approx(problem.mean, abs=0.15 * problem.sd)
    assert approx.std_data["mu"].item() == pytest.approx(problem.sd, rel=0.05)


@pytest.mark.parametrize(
    ("method", "run"),
    [
        ("advi", {"n": 6_000, "obj_optimizer": dvi.adagrad_window(learning_rate=0.02, n_win=50)}),
        ("fullrank_advi", {"n": 6_000, "obj_optimizer": dvi.adagrad_window(learning_rate=0.015, n_win=50)}),
        ("svgd", {"n": 1_000, "inf_kwargs": {"n_particles": 500, "jitter": 1}}),
        (
            "asvgd",
            {
                "n": 500,
                "obj_optimizer": dvi.adagrad_window(learning_rate=0.07, n_win=10),
                "obj_n_mc": 300,
                "inf_kwargs": {"temperature": 1.0},
            },
        ),
    ],
)
def test_optimizers_and_methods_of_pymc_find_mean_and_sd(problem: Problem, method: str, run: dict[str, Any]) -> None:
    approx = dvi.fit(method=method, model=problem.model, random_seed=42, progressbar=False, **run)
    draws = approx.sample(10_000, random_seed=1).posterior["mu"]
    assert float(draws.mean()) == pytest.approx(problem.mean, rel=0.05)
    assert float(draws.std()) == pytest.approx(problem.sd, rel=0.2)
