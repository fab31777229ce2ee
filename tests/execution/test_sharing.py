"""How much of the work of a step other threads are given."""

from __future__ import annotations

import pytest

from dvi.execution.sharing import Sharing


def shares(
    sharing: Sharing, n_items: int, threads: int, item: float, delay: float, slowed: float, steps: int
) -> list[int]:
    """What a thread does itself at each step, where others begin late and slow each other down."""
    found = []
    for _ in range(steps):
        own = sharing.own(n_items, threads)
        found.append(own)
        if own == n_items:
            sharing.saw(n_items, n_items * item)
        else:
            others = delay + -(-(n_items - own) // (threads - 1)) * item * slowed
            sharing.saw(n_items, max(own * item * slowed, others), item * slowed, delay)
    return found


def test_others_help_where_items_take_long() -> None:
    assert shares(Sharing(), 8, 2, item=1e-2, delay=2e-4, slowed=1.0, steps=10)[2:] == [4] * 8
    assert shares(Sharing(), 9, 4, item=1e-2, delay=2e-4, slowed=1.0, steps=10)[-1] == 3


def test_the_caller_does_more_where_others_begin_late() -> None:
    assert shares(Sharing(), 8, 2, item=1e-4, delay=4e-4, slowed=1.0, steps=10)[-1] == 6


@pytest.mark.parametrize(("item", "slowed"), [(1e-5, 1.0), (1e-3, 2.5)])
def test_the_caller_does_all_where_that_is_quicker_and_tries_again_now_and_then(item: float, slowed: float) -> None:
    found = shares(Sharing(), 8, 2, item, 3e-4, slowed, steps=1001)
    assert found[1:499] == [8] * 498
    assert sum(own < 8 for own in found) == 3


def test_one_thread_or_one_item_is_not_shared() -> None:
    assert Sharing().own(8, 1) == 8
    assert Sharing().own(1, 4) == 1
