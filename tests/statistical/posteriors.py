"""Models whose posteriors have no closed form, each with data of its own.

What is known of them is in ``references.json``, which ``make_references.py`` writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm

import dvi

REFERENCES = Path(__file__).with_name("references.json")


@dataclass(frozen=True, slots=True)
class Reference:
    """Of each unconstrained dimension ``(d,)``: mean and sd of the posterior, and of the best independent normals."""

    names: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    independent_mean: np.ndarray
    independent_sd: np.ndarray

    @classmethod
    def of(cls, name: str) -> Reference:
        found = json.loads(REFERENCES.read_text())[name]
        numbers = (np.array(found[key]) for key in ("mean", "sd", "independent_mean", "independent_sd"))
        return cls(tuple(found["names"]), *numbers)


def rows(arrays: tuple[np.ndarray, ...], batch_size: int | None) -> Any:
    """Minibatches, or the arrays themselves."""
    return arrays if batch_size is None else dvi.Minibatch(*arrays, batch_size=batch_size)


def logistic(batch_size: int | None) -> pm.Model:
    """50,000 rows, ten predictors that share a factor."""
    rng = np.random.default_rng(21)
    X = rng.normal(size=(50_000, 10)) + 0.6 * rng.normal(size=(50_000, 1))
    y = rng.random(len(X)) < 1 / (1 + np.exp(1.0 - X @ rng.normal(0, 0.5, 10)))
    x, seen = rows((X, y.astype(np.int8)), batch_size)
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 2), pm.Normal("b", 0, 1, shape=10)
        pm.Bernoulli("y", logit_p=a + x @ b, observed=seen)
    return model


def poisson(batch_size: int | None) -> pm.Model:
    """20,000 counts, five predictors of different scales."""
    rng = np.random.default_rng(22)
    X = rng.normal(size=(20_000, 5)) * np.array([0.02, 0.2, 0.5, 1.0, 5.0]) + np.array([0.0, 0.5, 0.0, 0.0, 1.0])
    y = rng.poisson(np.exp(0.5 + X @ np.array([2.0, -1.0, 0.3, 0.1, 0.05])))
    x, seen = rows((X, y), batch_size)
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 2), pm.Normal("b", 0, 3, shape=5)
        pm.Poisson("y", pm.math.exp(a + x @ b), observed=seen)
    return model


def hierarchical(batch_size: int | None) -> pm.Model:
    """100 groups of 30 rows, non-centred: their rows and their common prior weigh about the same."""
    rng, groups = np.random.default_rng(23), 100
    group = rng.permutation(np.repeat(np.arange(groups), 30))
    x = rng.normal(size=len(group))
    y = 1.0 + rng.normal(0, 0.25, groups)[group] + 0.5 * x + rng.normal(size=len(group))
    g, x, seen = rows((group, x, y), batch_size)
    with pm.Model() as model:
        tau, z = pm.HalfNormal("tau", 1), pm.Normal("z", 0, 1, shape=groups)
        mu, slope, sigma = pm.Normal("mu", 0, 5), pm.Normal("slope", 0, 1), pm.HalfNormal("sigma", 2)
        pm.Normal("y", mu + tau * z[g] + slope * x, sigma, observed=seen)
    return model


POSTERIORS: dict[str, Callable[[int | None], pm.Model]] = {
    "logistic": logistic,
    "poisson": poisson,
    "hierarchical": hierarchical,
}
