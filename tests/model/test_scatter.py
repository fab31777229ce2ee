"""Rows that compiled loops put where they are due."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dvi.model.scatter import LONG_BYTES, scatter
from dvi.types import AnyArray

FORMS = [
    ("f8", ()), ("f8", (1,)), ("f8", (5,)), ("f8", (33,)), ("f8", (100,)), ("f8", (4, 9)), ("f4", (3,)), ("f4", (64,)),
    ("f4", (101,)), ("i2", (3,)), ("i1", (7,)), ("bool", ()), ("u4", (2, 3)), ("f2", (130,)),
]  # fmt: skip


def random(n: int, dtype: str, shape: tuple[int, ...], seed: int) -> AnyArray:
    rng = np.random.default_rng(seed)
    return (100 * rng.normal(size=(n, *shape))).astype(dtype) if dtype != "bool" else rng.random((n, *shape)) < 0.5


@pytest.mark.parametrize(("dtype", "shape"), FORMS, ids=str)
def test_the_same_bytes_as_an_assignment(dtype: str, shape: tuple[int, ...]) -> None:
    expected, rows = random(200, dtype, shape, 0), random(77, dtype, shape, 1)
    found, where = expected.copy(), np.random.default_rng(2).permutation(200)[:77]
    expected[where] = rows
    scatter(found, where, rows)
    assert found.tobytes() == expected.tobytes()


def test_rows_of_all_lengths_around_the_limit() -> None:
    for width in range(LONG_BYTES // 8 - 10, LONG_BYTES // 8 + 10):
        expected, rows = random(20, "f8", (width,), 0), random(9, "f8", (width,), 1)
        found, where = expected.copy(), np.arange(20)[::2][:9][::-1].copy()
        expected[where] = rows
        scatter(found, where, rows)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("width", [3, 100])
def test_rows_that_cannot_be_written_to_or_do_not_lie_in_order(width: int) -> None:
    rows = random(8, "f8", (width,), 1)
    frozen = np.frombuffer(rows.tobytes()).reshape(8, width)
    shifted = np.frombuffer(b"x" + rows.tobytes(), dtype=np.uint8)[1:].view("f8").reshape(8, width)
    for same in (frozen, np.asfortranarray(rows), shifted, np.repeat(rows, 2, axis=0)[::2]):
        found = np.zeros((8, width))
        scatter(found, np.arange(8)[::-1].copy(), same)
        np.testing.assert_array_equal(found, rows[::-1])


def test_no_rows() -> None:
    found = np.ones((3, 100))
    scatter(found, np.empty(0, np.int64), np.empty((0, 100)))
    assert (found == 1).all()


@pytest.mark.parametrize("width", [8, 100])
def test_threads_see_what_others_have_written(width: int) -> None:
    n = 20_000
    rows, where = random(n, "f8", (width,), 1), np.random.default_rng(2).permutation(n)
    found = np.empty((n, width))

    def write(part: slice) -> Any:
        scatter(found, where[part], rows[part])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [slice(start, start + 1000) for start in range(0, n, 1000)]))
    np.testing.assert_array_equal(found[where], rows)
