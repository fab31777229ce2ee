"""Scheduled retraining: fit what is new, judge it on rows that nobody has seen, promote it if it is no worse."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dvi.retraining.config import read_config
from dvi.retraining.running import Outcome, run

__all__ = ["Outcome", "retrain"]


def retrain(config: str | os.PathLike[str] | Mapping[str, Any]) -> Outcome:
    """Do one scheduled run over a store that grows by rows.

    The newest rows are held out. The model is fitted to the others, or to those that are new, from the posterior of the
    promoted run on. Its log predictive density of the held-out rows is compared with that of the promoted run, row by
    row, and it takes that one's place if it predicts no worse. Whenever a run is killed, calling this again goes on
    with it, to the same bits.

    Parameters
    ----------
    config : path or mapping
        A TOML file, or its content. Tables ``data``, ``model`` and ``runs`` are needed; ``fit``, ``cluster``, ``judge``
        and ``metrics`` have defaults. Their keys are those of the classes in :mod:`dvi.retraining.config`.

    Returns
    -------
    Outcome

    Raises
    ------
    ArgumentError
        If the configuration, the model or the data are not valid: trying again does not help.
    StoreDamagedError
        If rows cannot be decoded.
    StoreError, ClusterError
        If something was out of reach: trying again may help.
    SystemExit
        With 143, where SIGTERM ended it; the fit so far is kept.

    Notes
    -----
    The folder of runs holds ``promoted.json``, which names the promoted run, and a folder for each run with its
    ``approximation.zarr``, ``report.html`` and ``run.json``.

    Examples
    --------
    >>> import contextlib, pathlib, tempfile, dvi, numpy as np
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "means.py").write_text('''
    ... import dvi, pymc as pm
    ... def build(data):
    ...     with pm.Model() as model:
    ...         pm.Normal("y", pm.Normal("mu", 0, 10), 1, observed=dvi.Minibatch(data["y"], batch_size=100))
    ...     return model
    ... ''')
    >>> y = np.random.default_rng(1).normal(3.0, 1.0, 1_000)
    >>> ds = dvi.ingest({"y": y}, folder / "rows.zarr", progressbar=False)
    >>> config = {
    ...     "data": {"store": str(folder / "rows.zarr")},
    ...     "model": {"function": "means:build"},
    ...     "runs": {"folder": str(folder / "runs")},
    ...     "fit": {"steps": 300},
    ...     "cluster": {"kind": "threads", "workers": 1},
    ... }
    >>> with contextlib.chdir(folder):
    ...     retrain(config).kind
    'promoted'
    >>> retrain(config).kind
    'nothing new'
    """
    return run(read_config(config))
