"""Fitting the candidate of a run, from wherever an earlier process was stopped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pymc as pm

from dvi.approximation import Approximation
from dvi.diagnostics import diagnose
from dvi.errors import ArgumentError, DviError, ModelError, StoreExistsError
from dvi.methods import fit
from dvi.model.graph import layout_of
from dvi.model.reference import model_from
from dvi.persistence import load
from dvi.persistence.checkpoints import check_new
from dvi.persistence.leases import clear
from dvi.persistence.places import place_of
from dvi.resuming import resume
from dvi.retraining.carrying import carry

if TYPE_CHECKING:
    import xarray as xr

    from dvi.retraining.config import Config
    from dvi.retraining.interruption import Interruption
    from dvi.retraining.metrics import Metrics
    from dvi.retraining.planning import Plan
    from dvi.retraining.runs import Runs
    from dvi.retraining.snapshot import Snapshot

logger = logging.getLogger(__name__)

APPROXIMATION, CHECKPOINT = "approximation.zarr", "checkpoint"


@dataclass(frozen=True, slots=True)
class Means:
    """What a run works with.

    Parameters
    ----------
    config : Config
    runs : Runs
    where : mapping
        Keywords ``client`` and ``threads``.
    metrics : Metrics
    interruption : Interruption
    """

    config: Config
    runs: Runs
    where: Mapping[str, Any]
    metrics: Metrics
    interruption: Interruption


def build_model(reference: Mapping[str, Any], rows: xr.Dataset) -> pm.Model:
    """The model of a reference on some rows.

    Raises
    ------
    ModelError
        If the function fails.
    """
    function, arguments = reference["function"], reference["arguments"]
    try:
        return model_from(function, data=rows, **arguments)
    except DviError:
        raise
    except Exception as error:
        raise ModelError(f"{function} failed: {type(error).__name__}: {error}. Repair it, or its arguments.") from error


def candidate(plan: Plan, snapshot: Snapshot, means: Means) -> Approximation:
    """Fit, diagnose and save the approximation of a run."""
    runs, config = means.runs, means.config
    model = build_model(plan.model, snapshot.rows(plan.start, plan.stop))
    base = None if plan.base is None else load(runs.place(plan.base, APPROXIMATION))
    if plan.carried and base is not None:
        carry(model, base)
    approx = _fitted(plan, model, base, means)
    means.interruption.check()
    diagnose(approx, model, draws=config.judge.draws, random_seed=plan.seed, progressbar=False, **means.where)
    approx.save(runs.place(plan.run, APPROXIMATION), overwrite=True)
    return approx


def _fitted(plan: Plan, model: pm.Model, base: Approximation | None, means: Means) -> Approximation:
    """Go on with the fit of this run, or begin it from the promoted posterior."""
    config, place = means.config.fit, means.runs.place(plan.run, CHECKPOINT)
    clear(place_of(place))  # of the lease of a process that was killed: who has the folder of runs is alone here
    run = {"callbacks": [means.metrics], "progressbar": False, **means.where}
    if _is_begun(place):
        try:
            return resume(place, model, **run)
        except ArgumentError as error:  # the code of the model has changed since
            logger.warning("the fit of run %s begins again: %s", plan.run, error)
            means.runs.delete(f"{plan.run}/{CHECKPOINT}")
    known = base is not None and layout_of(model).difference(base.layout) is None
    budget = {} if config.max_seconds is None else {"max_seconds": config.max_seconds}
    return fit(
        config.steps, config.method, model, random_seed=plan.seed, start=base if known else None,
        checkpoint=means.runs.place(plan.run, CHECKPOINT), checkpoint_every=config.checkpoint_seconds,
        **budget, **config.settings, **run,
    )  # fmt: skip


def _is_begun(place: Any) -> bool:
    try:
        check_new(place_of(place))
    except StoreExistsError:
        return True
    return False
