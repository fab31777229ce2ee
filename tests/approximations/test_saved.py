"""Every family comes back from a store as it was, with its own settings; a damaged description is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import dvi
from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.flow import FlowFamily
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.point import PointFamily
from dvi.approximations.structured import Part, StructuredFamily
from dvi.errors import StoreError
from dvi.model.layout import Entry, Layout, Transform
from dvi.types import Family

NESTED = StructuredFamily((
    Part(StructuredFamily((Part(PointFamily(1), (1,)), Part(EmpiricalFamily(1, 4), (0,)))), (0, 2)),
    Part(FlowFamily(1, "radial"), (1,)),
))  # fmt: skip
FAMILIES = [
    MeanFieldFamily(3), FullRankFamily(3), LowRankFamily(3, 2), PointFamily(3), EmpiricalFamily(3, 5),
    FlowFamily(3, "coupling*2-planar-loc"), StructuredFamily((Part(FullRankFamily(3), (0, 1, 2)),)), NESTED,
]  # fmt: skip


def saved(family: Family, path: Path) -> dvi.Approximation:
    layout = Layout((Entry("x", "x", (3,), 0, 3, (None,), Transform("identity")),), {})
    theta = family.initial(np.arange(3.0), np.array([0.1, 1.0, 2.0]))
    approx = dvi.Approximation(family, theta, layout, np.zeros(4))
    approx.save(path)
    return approx


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_a_family_is_saved_with_its_settings(family: Family, tmp_path: Path) -> None:
    approx = saved(family, tmp_path / "fit.zarr")
    again = dvi.load(tmp_path / "fit.zarr")
    assert again.family == family
    assert again.theta.tobytes() == approx.theta.tobytes()
    xr.testing.assert_equal(
        again.sample(5, random_seed=1).posterior["x"], approx.sample(5, random_seed=1).posterior["x"]
    )


MEAN_FIELD = {"name": "meanfield", "ndim": 1}


@pytest.mark.parametrize(
    "record",
    [
        {"name": "empirical", "ndim": 3, "n": 2**50},
        {"name": "empirical", "ndim": 3, "n": 2.0},
        {"name": "empirical", "ndim": 3, "n": True},
        {"name": "lowrank", "ndim": 3, "rank": "2"},
        {"name": "flow", "ndim": 3, "formula": 7},
        {"name": "flow", "ndim": 3, "formula": ["planar"]},
        {"name": "flow", "ndim": 3, "formula": "os.system"},
        {"name": "flow", "ndim": 3, "formula": "planar*9999"},
        {"name": "structured"},
        {"name": "structured", "parts": None},
        {"name": "structured", "parts": []},
        {"name": "structured", "parts": [{"indices": [0, 1], "family": MEAN_FIELD}]},
        {"name": "structured", "parts": [{"indices": [0, 1, 1], "family": MEAN_FIELD}]},
        {"name": "structured", "parts": [{"indices": [0, 1, True], "family": MEAN_FIELD}]},
        {"name": "structured", "parts": [{"indices": [0, 1, "2"], "family": MEAN_FIELD}]},
        {"name": "structured", "parts": [{"indices": [], "family": MEAN_FIELD}]},
        {"name": "structured", "parts": [{"indices": [0, 1, 2], "family": {"name": "os.system"}}]},
        {"name": "structured", "parts": [], "command": "true"},
    ],
    ids=lambda record: f"{record!r:.80}",
)
def test_a_damaged_description_is_refused(record: dict[str, Any], tmp_path: Path) -> None:
    saved(StructuredFamily((Part(MeanFieldFamily(3), (0, 1, 2)),)), tmp_path / "fit.zarr")
    zarr.open_group(tmp_path / "fit.zarr", mode="r+").attrs["family"] = record
    with pytest.raises(StoreError, match=r"fit\.zarr"):
        dvi.load(tmp_path / "fit.zarr")
