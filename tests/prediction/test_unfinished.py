"""What a prediction leaves that is stopped as it makes its group in a store that cannot rename."""

from __future__ import annotations

import itertools
from contextlib import suppress

import xarray as xr

from dvi.data.store import target_of
from dvi.prediction.output import Place, Record, check_free, create
from tests.stopping import ENDLESS, StoppingStore


def test_a_group_that_was_begun_is_free_to_be_made_again() -> None:
    groups = {"posterior_predictive": xr.Dataset(coords={"draw": [0, 1]})}
    for left in itertools.count():
        store = StoppingStore()
        store.left = left
        with suppress(ConnectionError):
            create(Place(store, "there"), Record("it", 1), (), groups, 3)
            break
        store.left = ENDLESS
        check_free(target_of(store), overwrite=False)
    assert left > 3
