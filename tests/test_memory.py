"""What does not fit in memory is refused before any of it is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytest
from distributed.system import MEMORY_LIMIT

import dvi
from dvi.errors import ArgumentError
from dvi.memory import check_fits, format_bytes

QUIET: dict[str, Any] = {"progressbar": False, "random_seed": 1}


def test_the_rule() -> None:
    check_fits(MEMORY_LIMIT // 8, "draws", 8)
    with pytest.raises(ArgumentError, match=r"draws take .* and there are .*; give fewer"):
        check_fits(MEMORY_LIMIT // 8 + 1, "draws", 8)


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (999, "999 B"), (1e3, "1 kB"), (2.5e9, "2.5 GB"), (1e15, "1e+03 TB")]
)
def test_bytes_for_people(nbytes: float, text: str) -> None:
    assert format_bytes(nbytes) == text


@pytest.fixture(scope="module")
def fitted() -> dvi.Approximation:
    y = np.random.default_rng(0).normal(size=1000)
    with pm.Model():
        pm.Normal("y", pm.Normal("mu", 0, 1, shape=3)[0], 1.0, observed=dvi.Minibatch(y, batch_size=100))
        return dvi.fit(20, **QUIET)


CALLS: dict[str, Callable[[dvi.Approximation, int], object]] = {
    "sample": lambda approx, n: approx.sample(n),
    "sample as a trace": lambda approx, n: approx.sample(n, return_inferencedata=False),
    "sample_unconstrained": lambda approx, n: approx.sample_unconstrained(n),
    "diagnose": lambda approx, n: dvi.diagnose(approx, draws=n, progressbar=False),
    "resample": lambda approx, n: dvi.diagnose(approx, draws=200, progressbar=False).resample(n),
    "predict": lambda approx, n: dvi.predict(approx, draws=n, progressbar=False),
    "linear_response": lambda approx, n: dvi.linear_response(approx, draws=n),
    "draws of a step": lambda approx, n: dvi.fit(2, model=approx.model, obj_n_mc=n, **QUIET),
    "deterministic draws": lambda approx, n: dvi.fit(2, "dadvi", approx.model, obj_n_mc=n, **QUIET),
    "particles": lambda approx, n: dvi.SVGD(n_particles=n, model=approx.model),
    "an empirical approximation": lambda approx, n: dvi.Empirical(size=n, model=approx.model),
}


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("n", [10**10, 10**13, 10**26], ids="{:.0e}".format)
@pytest.mark.parametrize("name", CALLS)
def test_more_than_memory_holds_is_refused_at_once(fitted: dvi.Approximation, name: str, n: int) -> None:
    with pytest.raises(ArgumentError, match=rf"{n:,} (draws|particles).* of memory, and there are"):
        CALLS[name](fitted, n)
