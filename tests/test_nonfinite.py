"""Fits that meet a log density which is not finite: ``on_nonfinite``."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import dvi
from dvi.errors import ArgumentError, DviWarning, NonFiniteError
from dvi.execution.nonfinite import check_skipped

DATA = np.random.default_rng(0).normal(1.0, 1.0, 400)


def model(start: float) -> pm.Model:
    """A square root, which has no value where ``mu`` is negative: at draws that are far from the posterior."""
    with pm.Model() as made:
        mu = pm.Normal("mu", 0, 10, initval=start)
        pm.Normal("y", pt.sqrt(mu), 1.0, observed=dvi.Minibatch(DATA, batch_size=50))
    return made


def fit(start: float = 1.0, **settings: object) -> dvi.Approximation:
    return dvi.fit(400, model=model(start), random_seed=3, start_sigma={"mu": 1.0}, progressbar=False, **settings)


def test_an_error_names_row_and_parameters_by_default() -> None:
    with pytest.raises(NonFiniteError, match=r"likelihood of y is not finite at step \d+.*it is nan there, with mu=-"):
        fit()


def test_steps_that_are_skipped_are_counted_and_the_same_anywhere() -> None:
    found = []
    for threads in (1, 2):
        with pytest.warns(DviWarning, match=r"of 400 steps were skipped"):
            found.append(fit(on_nonfinite="skip", threads=threads))
    one, two = found
    assert 0 < np.isnan(one.hist).sum() < 50
    assert one.theta.tobytes() == two.theta.tobytes()
    assert np.array_equal(one.hist, two.hist, equal_nan=True)
    assert abs(one.mean.eval()[0] - DATA.mean() ** 2) < 0.3


def test_a_fit_that_skips_too_often_ends() -> None:
    with pytest.raises(NonFiniteError, match=r"of the last \d+ steps were skipped"):
        fit(start=-5.0, on_nonfinite="skip")


@pytest.mark.parametrize(("skipped", "n"), [(49, 60), (50, 50), (50, 300)])
def test_half_of_a_hundred_steps_is_too_often(skipped: int, n: int) -> None:
    losses = np.ones(n)
    losses[n - skipped :] = np.nan
    if skipped < 50:
        check_skipped(losses)
    else:
        with pytest.raises(NonFiniteError):
            check_skipped(losses)


def test_what_to_do_has_two_names() -> None:
    with pytest.raises(ArgumentError, match="give 'raise' or 'skip'"):
        fit(on_nonfinite="ignore")


def test_chunks_that_are_kept_or_not_give_the_same_bits() -> None:
    import zarr
    from zarr.storage import MemoryStore

    stored = zarr.create_array(MemoryStore(), shape=DATA.shape, chunks=(100,), dtype="f8")
    stored[:] = DATA
    found = set()
    for cache_bytes in (0, None):
        with pm.Model() as made:
            pm.Normal("y", pm.Normal("mu"), 1.0, observed=dvi.Minibatch(stored, batch_size=50))
        approx = dvi.fit(40, model=made, random_seed=1, cache_bytes=cache_bytes, progressbar=False)
        found.add(approx.theta.tobytes())
    assert len(found) == 1
