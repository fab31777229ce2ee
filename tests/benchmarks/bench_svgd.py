"""A step of Stein variational gradient descent against PyMC's, on full data and on batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytest

import dvi
from tests.benchmarks.measuring import Measurement, faster, in_turn, seconds, seconds_a_step

Report = Callable[[Measurement], None]
SIZES = [(1000, 1, 20.0), (2000, 50, 5.0)]  # particles, parameters, target


def model(d: int) -> pm.Model:
    y = np.random.default_rng(0).normal(size=(20, d))
    with pm.Model() as made:
        pm.Normal("y", pm.Normal("mu", 0, 1, shape=d), 1.0, observed=y)
    return made


@pytest.mark.parametrize(("particles", "d", "target"), SIZES)
def bench_step(report: Report, particles: int, d: int, target: float) -> None:
    made = model(d)
    steps = max(5, 20_000 // (particles * d))
    with made:
        peer = pm.SVGD(n_particles=particles, jitter=1, random_seed=1)
    step = peer.objective.step_function(obj_optimizer=pm.sgd(learning_rate=0.01))
    inference = dvi.SVGD(n_particles=particles, random_seed=1, model=made)

    def ours(n: int) -> object:
        return inference.fit(n, obj_optimizer=dvi.sgd(0.01), progressbar=False)

    def theirs() -> None:
        for _ in range(steps):
            step()

    ours(3), theirs()
    pairs = in_turn(lambda: seconds_a_step(ours, steps), lambda: seconds(theirs) / steps)
    report(faster(12, f"SVGD step, {particles} particles of {d}", "pm.SVGD", pairs, target))
