"""A warning where anyone on the network can listen."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from dvi.errors import DviWarning
from dvi.execution.cluster import warn_of_plain_text

ELSEWHERE = "203.0.113.7:8786"  # of the block for documentation: never an address of this host


class Connected:
    """As much of a client as tells where its scheduler is."""

    def __init__(self, address: str) -> None:
        self.address = address

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"address": self.address}


def test_plain_text_to_another_host_is_warned_of_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            warn_of_plain_text(Connected(f"tcp://{ELSEWHERE}"))
    assert [(w.category, "203.0.113.7:8786" in str(w.message)) for w in caught] == [(DviWarning, True)]


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:8786", "tcp://localhost:8786", "inproc://127.0.0.1/1/1", f"tls://{ELSEWHERE}"]
)
def test_this_host_and_tls_are_not(address: str) -> None:
    warn_of_plain_text(Connected(address))
