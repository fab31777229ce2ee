"""Hostile input gives a documented error or none: never a traceback of a library, never a wrong answer.

The test run takes a few inputs of each target; ``make fuzz`` takes many, ``DVI_FUZZ_EXAMPLES`` of each, and more that
are guided by which lines of dvi they reach (``guided.py``).
"""

from __future__ import annotations

import collections
import os

import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz.targets import TARGETS, property_of

EXAMPLES = int(os.environ.get("DVI_FUZZ_EXAMPLES", "25"))


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_come_out(name: str) -> None:
    seen: collections.Counter[str] = collections.Counter()
    quiet = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    quiet(property_of(TARGETS[name], seen))()
    print(f"\n{name}: {seen.total():,} inputs, {dict(seen.most_common())}")
