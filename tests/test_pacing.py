"""How many steps are done between two looks."""

from __future__ import annotations

import pytest

from dvi.pacing import next_block
from dvi.types import Times


@pytest.mark.parametrize(
    ("block", "done", "elapsed", "steps", "expected"),
    [
        (1, 1, 0.001, 0.001, 2),  # twice as many at most
        (512, 512, 0.5, 0.5, 512),  # half a second
        (512, 512, 5.0, 5.0, 51),
        (1, 1, 3.0, 3.0, 1),  # one step takes longer
        (8, 8, 0.7, 0.4, 16),  # a look takes 0.3 s: 3 s of steps, but twice as many at most
        (64, 64, 3.5, 3.2, 59),
        (64, 64, 13.2, 3.2, 100),  # 5 s at most
        (64, 3, 0.3, 0.3, 5),  # cut short by a callback
        (64, 0, 0.3, 0.0, 64),  # interrupted before the first
        (4, 4, 0.2, 0.0, 8),  # nothing is known of the steps
    ],
)
def test_blocks_take_half_a_second_or_ten_looks(
    block: int, done: int, elapsed: float, steps: float, expected: int
) -> None:
    assert next_block(block, done, elapsed, Times(compute=steps)) == expected
