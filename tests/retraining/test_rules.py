"""The pure parts: configuration, plan and verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dvi.errors import ArgumentError
from dvi.retraining.config import JudgeConfig, read_config
from dvi.retraining.judging import Evidence, decide
from dvi.retraining.planning import History, Plan, name_of, plan_run
from dvi.retraining.snapshot import Snapshot
from tests.retraining.models import config_of

EVIDENCE = Evidence(100, -1.4, -0.01, 0.01, 0.3, "ok", 1.0, {"mu": 1.0})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"fit": {"stpes": 5}}, r"fit.stpes is not known, did you mean 'steps'\?"),
        ({"moddel": {}}, r"moddel is not known, did you mean 'model'\?"),
        (
            {"data": {"store": "x", "window": "last"}},
            "data.window = 'last' is not allowed, allowed are all, new, sliding",
        ),
        ({"fit": {"steps": "5"}}, "fit.steps = '5' is not allowed: input should be a valid integer"),
        ({"fit": {"steps": 5, "max_seconds": 5}}, "max_seconds is the budget of a fit until converged"),
        ({"fit": {"carry_posterior": True}}, "fit.carry_posterior needs data.window = 'new'"),
        ({"data": {"store": "x", "window": "sliding"}}, "rows belongs to window = 'sliding'"),
        ({"fit": {"settings": {"random_seed": 1}}}, "settings has random_seed, which a run sets itself"),
        ({"judge": {"max_khat": float("nan")}}, "judge.max_khat = nan is not allowed"),
        ({"cluster": {"kind": "address"}}, "address belongs to kind = 'address'"),
        ({"cluster": {"start_seconds": 0}}, "cluster.start_seconds = 0 is not allowed: input should be greater than 0"),
        ({"cluster": {"start_seconds": float("inf")}}, "cluster.start_seconds = inf is not allowed"),
        ({"judge": {"rows": 10**6, "draws": 10**3}}, "rows times draws must be at most 100,000,000"),
        ({"runs": {}}, "runs.folder is missing"),
        ({"data": {}, "fit": {"seed": -1}}, "data.store is missing; fit.seed = -1 is not allowed"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_told(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        read_config(config_of("x") | tables)


def snapshot_of(n_rows: int, first: str = "a") -> Snapshot:
    return Snapshot(xr.Dataset({"y": ("row", np.zeros(n_rows))}), "row", {}, first, str(n_rows))


def planned(n_rows: int, history: History, **tables: Any) -> Plan | None:
    config, snapshot = read_config(config_of("x", **tables)), snapshot_of(n_rows)
    return plan_run(name_of(config, snapshot, history.finished), config, snapshot, history)


NOTHING = History((), 0, None)


def after(plan: Plan | None) -> History:
    assert plan is not None
    return History((plan.run,), plan.end, plan)


def test_nobody_has_seen_the_rows_that_are_held_out() -> None:
    first = planned(1000, NOTHING)
    assert first is not None
    assert (first.base, first.start, first.stop, first.end) == (None, 0, 900, 1000)
    for window, start in (("all", 0), ("new", 900), ("sliding", 1350)):
        data = {"window": window} | ({"rows": 50} if window == "sliding" else {})
        second = planned(1500, after(first), data=data)
        assert second is not None
        assert (second.base, second.start, second.stop, second.end) == (first.run, start, 1400, 1500)


def test_at_most_a_fifth_of_the_new_rows_is_held_out() -> None:
    plan = planned(100, NOTHING)
    assert plan is not None
    assert plan.stop == 80


def test_a_run_waits_for_enough_rows() -> None:
    history = after(planned(1000, NOTHING))
    assert planned(1019, history, data={"min_new_rows": 20}) is None
    assert planned(1020, history, data={"min_new_rows": 20}) is not None
    assert planned(4, NOTHING) is None


def test_names_tell_data_and_settings_apart() -> None:
    config, snapshot = read_config(config_of("x")), snapshot_of(10)
    name = name_of(config, snapshot, ())
    assert name.startswith("000001-")
    assert name_of(config, snapshot, (name, "000007-aaaaaaaaaaaa")) == name
    assert name_of(config, snapshot_of(11), (name,)).startswith("000002-")
    other = read_config(config_of("x", fit={"seed": 8}))
    assert name_of(other, snapshot, (name,)).startswith("000002-")
    elsewhere = read_config(config_of("y", cluster={"workers": 2}, fit={"checkpoint_seconds": 5.0}))
    assert name_of(elsewhere, snapshot, ()) == name


@pytest.mark.parametrize(
    ("changes", "settings", "promote"),
    [
        ({}, {}, True),
        ({"difference": -0.021}, {}, False),
        ({"difference": -0.021}, {"tolerance": 2.5}, True),
        ({"difference": None, "standard_error": None}, {}, True),
        ({"difference": math.nan}, {}, False),
        ({"log_density": -math.inf, "difference": None, "standard_error": None}, {}, False),
        ({}, {"max_khat": 0.2}, False),
        ({"khat": None}, {"max_khat": 0.2}, True),
        ({}, {"max_drift": 0.5}, False),
        ({}, {"max_drift": 2}, True),
    ],
)
def test_the_rule_for_promotion(changes: dict[str, Any], settings: dict[str, Any], promote: bool) -> None:
    verdict = decide(JudgeConfig(**settings), replace(EVIDENCE, **changes))
    assert verdict.promote is promote
    assert all(not isinstance(v, float) or math.isfinite(v) for v in verdict.to_json()["evidence"].values())
