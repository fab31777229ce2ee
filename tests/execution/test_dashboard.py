"""The page on the scheduler's dashboard, on a cluster and in a browser."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from distributed import Client, LocalCluster

from dvi.execution.cluster.dashboard import Beat, Dashboard, heading, line_data, link, register, tell
from dvi.types import Report, State
from tests.chromium import chromium_page

LANES = {"tcp://10.0.0.1:40001": 2, "tcp://10.0.0.2:40001": 2, "tcp://10.0.0.3:40001": 2}
WAITS = {"tcp://10.0.0.1:40001": 0.004, "tcp://10.0.0.2:40001": 0.005, "tcp://10.0.0.3:40001": 0.02}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    pytest.importorskip("bokeh")
    settings: dict[str, Any] = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with LocalCluster(dashboard_address=":0", **settings) as cluster, Client(cluster) as client:
        register(client)
        register(client)
        yield client


def report(step: int, elbo: float) -> Report:
    """Of ten steps."""
    return Report(State(step, np.empty(0), (), ()), np.full(10, elbo), 80_000)


def fit(client: Client, blocks: int = 40) -> None:
    """Tell of blocks of ten steps in which the ELBO rises to 0."""
    for i in range(1, blocks + 1):
        tell(client, report(10 * i, -1000.0 * np.exp(-i / 8.0)), 0.5, LANES, WAITS)


def told(client: Client) -> list[dict[str, Any]]:
    found = client.run_on_scheduler(
        lambda dask_scheduler: [asdict(beat) for beat in dask_scheduler.plugins["dvi-dashboard"].beats]
    )
    return list(found)


def test_scheduler_collects_what_a_fit_tells(client: Client) -> None:
    fit(client, 3)
    beats = told(client)
    assert [beat["step"] for beat in beats] == [10, 20, 30]
    assert beats[0]["elbo"] == pytest.approx(-1000.0 * np.exp(-1 / 8))
    assert beats[0]["lanes"] == LANES
    tell(client, Report(State(30, np.empty(0), (), ()), np.empty(0), 0), 0.5, LANES, WAITS)  # of no steps
    assert len(told(client)) == 3
    fit(client, 2)  # another one
    assert [beat["step"] for beat in told(client)] == [10, 20]


def test_page_is_served_beside_those_of_dask(client: Client) -> None:
    for address in (link(client), client.dashboard_link):
        with urlopen(address) as answer:
            assert answer.status == 200


@pytest.mark.slow
def test_in_a_browser(client: Client, tmp_path: Path) -> None:
    fit(client)
    with chromium_page((1100, 520)) as page:
        page.goto(link(client))
        page.get_by_text("dvi: step 400").wait_for(timeout=30_000)
        page.get_by_text("6 lanes on 3 hosts").wait_for()
        page.get_by_text("4.0 times the median").wait_for()
        assert page.locator("canvas").count() >= 2
        page.screenshot(path=os.environ.get("DVI_SCREENSHOT", tmp_path / "dashboard.png"))  # that of the documentation
        tell(client, report(410, 0.0), 0.5, LANES, {})
        page.get_by_text("dvi: step 410").wait_for(timeout=30_000)  # without loading it again
        assert page.errors == []
        assert all(request.startswith(link(client).rpartition("/")[0]) for request in page.requests)


def test_only_the_last_blocks_are_kept() -> None:
    plugin = Dashboard()
    for i in range(5_000):
        plugin.log_event("dvi", asdict(Beat(i, 0.5, 1, 0.0, 0, {}, {})))
    plugin.log_event("another topic", {"anything": 1})
    assert len(plugin.beats) == 2_000
    assert line_data(plugin.beats)["step"][-1] == 4_999


def test_before_a_fit_the_page_says_so() -> None:
    assert "No fit" in heading(deque())
