"""A short soak, and that a soak sees what it is there to see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.retraining.processes import processes
from tests.retraining.soak import Disturbed, disturbed, sequences, table, undisturbed
from tests.storage.service import Service


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_in_the_same_state(s3: Service) -> None:
    done: list[Disturbed] = []
    for run in sequences(s3, 1, np.random.default_rng(0)):
        done.append(run)
        assert run.equal
        if sum(len(found.phases) for found in done) >= 3:
            break
    assert {run.outcome for run in done} == {"promoted"}


def test_another_state_is_seen(service: Service, tmp_path: Path) -> None:
    with processes(service.environment) as parent:
        whole = undisturbed(parent, tmp_path / "undisturbed", 1)
        other: dict[str, Any] = whole[0].state | {"promoted": "another"}
        planted = [replace(whole[0], state=other, seconds=1e6)]
        (found,) = disturbed(parent, tmp_path / "disturbed", planted, np.random.default_rng(0))
    assert found == Disturbed("promoted", (), equal=False)


def test_table() -> None:
    done = [Disturbed("promoted", ("judged", "fitting", "judged"), True), Disturbed("rejected", (), False)]
    assert table(done)[1:] == [
        ("fitting", 1), ("judged", 2), ("all", 3), ("Runs that came to their end", 2),
        ("... with other bits, records or pointer", 1),
    ]  # fmt: skip
