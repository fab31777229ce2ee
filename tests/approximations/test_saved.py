"""Every family comes back from a store as it was, with its own settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dvi
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.model.layout import Entry, Layout, Transform
from dvi.types import Family


@pytest.mark.parametrize("family", [MeanFieldFamily(3), FullRankFamily(3), LowRankFamily(3, 2)], ids=repr)
def test_a_family_is_saved_with_its_settings(family: Family, tmp_path: Path) -> None:
    layout = Layout((Entry("x", "x", (3,), 0, 3, (None,), Transform("identity")),), {})
    theta = family.initial(np.arange(3.0), np.array([0.1, 1.0, 2.0]))
    approx = dvi.Approximation(family, theta, layout, np.zeros(4))
    approx.save(tmp_path / "fit.zarr")
    again = dvi.load(tmp_path / "fit.zarr")
    assert again.family == family
    assert again.theta.tobytes() == theta.tobytes()
    xr.testing.assert_equal(
        again.sample(5, random_seed=1).posterior["x"], approx.sample(5, random_seed=1).posterior["x"]
    )
