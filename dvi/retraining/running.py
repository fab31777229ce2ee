"""The phases of a scheduled run. After each of them the process may be killed; the next one goes on from there."""

from __future__ import annotations

import importlib.metadata
import logging
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dvi.approximation import Approximation
from dvi.errors import ArgumentError, StoreError, StoreExistsError
from dvi.persistence import load
from dvi.persistence.leases import Lease
from dvi.retraining.candidates import APPROXIMATION, CHECKPOINT, Means, build_model, candidate
from dvi.retraining.computing import computing
from dvi.retraining.config import Config
from dvi.retraining.interruption import Interruption, interruptible
from dvi.retraining.judging import decide, log_densities, weigh
from dvi.retraining.metrics import Metrics, metrics
from dvi.retraining.planning import Plan, name_of, plan_run
from dvi.retraining.runs import Runs
from dvi.retraining.snapshot import Snapshot, look
from dvi.signals import TERMINATED

logger = logging.getLogger(__name__)

type Kind = Literal["promoted", "rejected", "nothing new", "busy"]

_VERSIONS = ("dask-vi", "pymc", "pytensor", "numba", "numpy", "scipy", "zarr", "xarray")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scheduled run ended.

    Parameters
    ----------
    kind : {"promoted", "rejected", "nothing new", "busy"}
        Busy if another process is at work in the same folder.
    run : str or None
        Its name.
    reason : str

    Examples
    --------
    >>> Outcome("promoted", "000001-0123456789ab", "it predicts no worse").kind
    'promoted'
    """

    kind: Kind
    run: str | None
    reason: str


def run(config: Config) -> Outcome:
    """One scheduled run. See :func:`dvi.retrain`."""
    with interruptible() as interruption:
        try:
            return _alone(config, Runs(config.runs.folder, config.runs.storage_options), interruption)
        except KeyboardInterrupt:
            if interruption.signal == signal.SIGTERM:
                raise SystemExit(TERMINATED) from None
            raise


def _alone(config: Config, runs: Runs, interruption: Interruption) -> Outcome:
    """A run, unless another process is at work in the same folder."""
    try:
        lease = runs.take()
    except StoreExistsError as error:
        return Outcome("busy", None, str(error))
    try:
        with metrics(config.metrics) as gauges:
            return _phases(config, runs, gauges, interruption, lease)
    finally:
        lease.release()


def _phases(config: Config, runs: Runs, gauges: Metrics, interruption: Interruption, lease: Lease) -> Outcome:
    """Look, plan, fit, judge, promote, report, record, prune; what was done before is not done again."""
    gauges.set("last_promotion_timestamp_seconds", runs.promoted_at())
    snapshot = look(config.data)
    gauges.set("rows", snapshot.n_rows)
    plan = _planned(config, snapshot, runs)
    if plan is None:
        runs.prune(config.runs.keep)
        return Outcome("nothing new", None, f"no new rows among the {snapshot.n_rows} of {config.data.store}")
    logger.info("run %s: rows %d to %d, judged on those to %d", plan.run, plan.start, plan.stop, plan.end)
    verdict = runs.read(f"{plan.run}/verdict.json")
    if verdict is None:
        with computing(config.cluster) as where:
            gauges.client = where["client"]
            verdict = _judged(plan, snapshot, Means(config, runs, where, gauges, interruption))
            runs.write(f"{plan.run}/verdict.json", verdict)  # before the cluster goes, which may fail
    lease.renew()  # or fail: a process that took over promotes, not this one
    if verdict["promote"] and runs.promoted() == plan.base:  # and not another run, put there by hand meanwhile
        runs.promote(plan.run)
        gauges.set("last_promotion_timestamp_seconds", runs.promoted_at())
    promoted = runs.promoted() == plan.run
    gauges.set("last_run_promoted", float(promoted))
    _report(plan, runs)
    runs.delete(f"{plan.run}/{CHECKPOINT}")
    runs.write(f"{plan.run}/run.json", _record(plan, verdict))
    runs.prune(config.runs.keep)
    return Outcome("promoted" if promoted else "rejected", plan.run, verdict["reason"])


def _planned(config: Config, snapshot: Snapshot, runs: Runs) -> Plan | None:
    """The plan of an earlier process that did not come to the end, or a new one, which is written down."""
    history = runs.history()
    name = name_of(config, snapshot, history.finished)
    if name in history.finished:
        return None
    plan = runs.plan(name)
    if plan is None:
        plan = plan_run(name, config, snapshot, history)
        if plan is not None:
            runs.write(f"{name}/plan.json", plan.to_json())
    return plan


def _judged(plan: Plan, snapshot: Snapshot, means: Means) -> dict[str, Any]:
    """The verdict on a candidate, which is fitted first unless that was done before."""
    try:
        new = load(means.runs.place(plan.run, APPROXIMATION))
    except StoreError:  # absent, or not whole
        new = candidate(plan, snapshot, means)
    base = None if plan.base is None else means.runs.plan(plan.base)
    old = None if base is None else load(means.runs.place(base.run, APPROXIMATION))
    candidate_density = _held_out(plan, plan, new, snapshot, means)
    promoted_density = None if base is None or old is None else _held_out(plan, base, old, snapshot, means)
    judge = means.config.judge
    return decide(judge, weigh(candidate_density, promoted_density, new, old)).to_json()


def _held_out(plan: Plan, owner: Plan, approx: Approximation, snapshot: Snapshot, means: Means) -> Any:
    """Log predictive densities of the held-out rows of a plan, by the model that an approximation was fitted to."""
    model = build_model(owner.model, snapshot.rows(plan.stop, plan.end))
    return log_densities(approx, model, means.config.judge.draws, plan.seed, means.where)


def _report(plan: Plan, runs: Runs) -> None:
    """Write the page of the candidate, if what draws it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        try:
            load(runs.place(plan.run, APPROXIMATION)).report(page)
        except ArgumentError as error:
            logger.warning("run %s has no report: %s", plan.run, error)
            return
        runs.write(f"{plan.run}/report.html", page.read_bytes())


def _record(plan: Plan, verdict: dict[str, Any]) -> dict[str, Any]:
    """All that there is to know of a run; nothing in it depends on when, or how often, it was started."""
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    return {"format": 1, "plan": plan.to_json(), "verdict": verdict, "versions": versions}
