"""Hostile input gives a documented error or none: never a traceback of a library, never a wrong answer.

The test run takes a few inputs of each target; ``make fuzz`` takes many, ``DVI_FUZZ_EXAMPLES`` of each.
"""

from __future__ import annotations

import collections
import os
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, outcome

EXAMPLES = int(os.environ.get("DVI_FUZZ_EXAMPLES", "25"))


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_come_out(name: str) -> None:
    target = TARGETS[name]
    seen: collections.Counter[str] = collections.Counter()

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: st.DataObject) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen[outcome(target, data.draw(target.inputs))] += 1

    run()
    print(f"\n{name}: {seen.total():,} inputs, {dict(seen.most_common())}")
