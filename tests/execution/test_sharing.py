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
    assert shares(Sharing(), 8, 2, item=1e-2, delay=2e-4, slowed=1.0, steps=15)[2:] == [4] * 5 + [8] * 3 + [4] * 5
    assert shares(Sharing(), 9, 4, item=1e-2, delay=2e-4, slowed=1.0, steps=15)[-1] == 3


def test_the_caller_does_more_where_others_begin_late() -> None:
    assert shares(Sharing(), 8, 2, item=1e-4, delay=4e-4, slowed=1.0, steps=15)[-1] == 6


@pytest.mark.parametrize(("item", "slowed"), [(1e-5, 1.0), (1e-3, 2.5)])
def test_the_caller_does_all_where_that_is_quicker_and_tries_again_now_and_then(item: float, slowed: float) -> None:
    found = shares(Sharing(), 8, 2, item, 3e-4, slowed, steps=1030)
    tried = [step for step, own in enumerate(found, start=1) if own < 8]
    assert tried == [1] + [at + i for at in (8, 16, 32, 64, 128, 256, 512, 1024) for i in range(3)]


def test_one_step_that_takes_long_does_not_turn_it() -> None:
    sharing = Sharing()
    shares(sharing, 8, 2, item=1e-3, delay=1e-4, slowed=1.0, steps=600)
    sharing.saw(8, 1.0, 1e-3, 1.0)
    assert shares(sharing, 8, 2, item=1e-3, delay=1e-4, slowed=1.0, steps=4) == [4] * 4


def test_the_first_steps_which_wait_for_rows_are_forgotten() -> None:
    sharing = Sharing()
    sharing.own(8, 2)
    sharing.saw(8, 1.0, 0.25, 1e-4)
    assert shares(sharing, 8, 2, item=1e-3, delay=1e-4, slowed=1.0, steps=12)[-1] == 4


def test_a_share_that_is_hardly_better_is_not_taken() -> None:
    """Rows would have to be looked up again."""
    sharing = Sharing()
    shares(sharing, 64, 2, item=1e-3, delay=1e-4, slowed=1.0, steps=20)
    assert set(shares(sharing, 64, 2, item=1e-3, delay=3e-3, slowed=1.0, steps=200)) <= {32, 64}
    assert shares(sharing, 64, 2, item=1e-3, delay=2e-2, slowed=1.0, steps=200)[-1] == 42


def test_one_thread_or_one_item_is_not_shared() -> None:
    assert Sharing().own(8, 1) == 8
    assert Sharing().own(1, 4) == 1
