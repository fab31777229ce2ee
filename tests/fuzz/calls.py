"""Calls of the public names with two arguments of any kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zarr.storage import MemoryStore

import dvi

COLUMN = {"x": [1.0, 2.0, 3.0]}

type Call = Callable[[dvi.Approximation, Any, Any], object]

CALLS: dict[str, Call] = {
    "sample": lambda approx, a, b: approx.sample(a, random_seed=b),
    "save": lambda approx, a, b: approx.save(a, overwrite=b),
    "report": lambda approx, a, b: approx.report(a),
    "load": lambda approx, a, b: dvi.load(a),
    "load with a model": lambda approx, a, b: dvi.load(MemoryStore() if a is None else a, model=b),
    "resume": lambda approx, a, b: dvi.resume(a, b),
    "open_store": lambda approx, a, b: dvi.open_store(a, b),
    "ingest": lambda approx, a, b: dvi.ingest(a, MemoryStore(), chunk_bytes=b),
    "ingest in some order": lambda approx, a, b: dvi.ingest(COLUMN, MemoryStore(), shuffle=a, random_seed=b),
    "ingest somewhere": lambda approx, a, b: dvi.ingest(COLUMN, a, pack=b),
    "diagnose": lambda approx, a, b: dvi.diagnose(approx, a, draws=b),
    "ingest some": lambda approx, a, b: dvi.ingest(COLUMN, MemoryStore(), columns=a, dropna=b),
    "ingest with options": lambda approx, a, b: dvi.ingest(
        COLUMN, MemoryStore(), storage_options=a, source_options=b, progressbar=False
    ),
    "Minibatch with options": lambda approx, a, b: dvi.Minibatch(a, batch_size=1, storage_options=b),
    "fit with options": lambda approx, a, b: dvi.fit(10, model=approx.model, checkpoint=a, storage_options=b),
    "predict with options": lambda approx, a, b: dvi.predict(approx, store=a, storage_options=b),
    "resume with options": lambda approx, a, b: dvi.resume(a, approx.model, storage_options=b),
    "predict": lambda approx, a, b: dvi.predict(approx, a, store=b),
    "predict in a way": lambda approx, a, b: dvi.predict(approx, kind=a, quantiles=b),
    "predict some": lambda approx, a, b: dvi.predict(approx, var_names=a, draws=b),
    "linear response of some": lambda approx, a, b: dvi.linear_response(approx, var_names=a, draws=b),
    "diagnose somewhere": lambda approx, a, b: dvi.diagnose(approx, client=a, threads=b),
    "log_likelihood": lambda approx, a, b: dvi.log_likelihood(approx, a, model=b),
    "linear_response": lambda approx, a, b: dvi.linear_response(approx, a),
    "fit": lambda approx, a, b: dvi.fit(a, method=b),
    "fit of a model": lambda approx, a, b: dvi.fit(10, model=a, start=b),
    "Group": lambda approx, a, b: dvi.Group(a, b),
    "KLqp": lambda approx, a, b: dvi.KLqp(a),
    "MeanField": lambda approx, a, b: dvi.MeanField(model=a, random_seed=b),
    "SVGD": lambda approx, a, b: dvi.SVGD(n_particles=a, temperature=b),
    "adam": lambda approx, a, b: dvi.adam(a, b),
    "momentum": lambda approx, a, b: dvi.momentum(learning_rate=a, momentum=b),
    "Tracker": lambda approx, a, b: dvi.callbacks.Tracker(x=a),
    "CheckParametersConvergence": lambda approx, a, b: dvi.callbacks.CheckParametersConvergence(every=a, tolerance=b),
    "Checkpoint": lambda approx, a, b: dvi.callbacks.Checkpoint(a, every=b),
    "plot_elbo": lambda approx, a, b: dvi.plot_elbo(a, b),
    "plot_elbo smoothed": lambda approx, a, b: dvi.plot_elbo(approx, smooth=a),
    "plot_trace": lambda approx, a, b: dvi.plot_trace(a, b),
    "plot_diagnosis": lambda approx, a, b: dvi.plot_diagnosis(a, b),
    "plot_throughput": lambda approx, a, b: dvi.plot_throughput(a, b),
    "retrain": lambda approx, a, b: dvi.retrain(a),
}
