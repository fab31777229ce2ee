"""A step of Stein variational gradient descent against PyMC's, side by side in one process.

Five rounds, in each of which both run the same number of steps; medians, with the smallest and the largest ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pymc as pm
import pytest

import dvi

ROUNDS = 5
SIZES = [(1000, 1, 20.0), (2000, 50, 5.0)]  # particles, parameters, ratio asked for


def model(d: int) -> pm.Model:
    y = np.random.default_rng(0).normal(size=(20, d))
    with pm.Model() as made:
        pm.Normal("y", pm.Normal("mu", 0, 1, shape=d), 1.0, observed=y)
    return made


def seconds(function: Callable[[int], object], steps: int) -> float:
    started = time.perf_counter()
    function(steps)
    return (time.perf_counter() - started) / steps


@pytest.mark.parametrize(("particles", "d", "asked"), SIZES)
def bench_step(particles: int, d: int, asked: float) -> None:
    """Milliseconds a step, and the ratio."""
    made = model(d)
    steps = max(5, 20_000 // (particles * d))
    with made:
        peer = pm.SVGD(n_particles=particles, jitter=1, random_seed=1)
    step = peer.objective.step_function(obj_optimizer=pm.sgd(learning_rate=0.01))
    ours = dvi.SVGD(n_particles=particles, random_seed=1, model=made)
    ours.fit(3, obj_optimizer=dvi.sgd(0.01), progressbar=False)
    step()

    def run_peer(n: int) -> None:
        for _ in range(n):
            step()

    def run_ours(n: int) -> None:
        ours.fit(n, obj_optimizer=dvi.sgd(0.01), progressbar=False)

    # A fit opens threads and looks up its kernels, which a longer fit shares among more steps: two lengths tell apart.
    rounds = []
    for _ in range(ROUNDS):
        theirs = seconds(run_peer, steps)
        short, long = seconds(run_ours, steps) * steps, seconds(run_ours, 5 * steps) * 5 * steps
        rounds.append((theirs, (long - short) / (4 * steps)))
    ratios = [theirs / mine for theirs, mine in rounds]
    theirs, mine = (1e3 * statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"\nSVGD step, {particles} particles of {d}: pymc {theirs:.2f} ms, dvi {mine:.2f} ms, ratio "
        f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}), asked {asked:g}"
    )
