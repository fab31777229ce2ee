"""What a report says, before it is a page."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dvi.diagnostics import Diagnosis
from dvi.diagnostics.findings import Finding
from dvi.diagnostics.rendering import numbers_of
from dvi.progress.status import clock_time, short
from dvi.report import figures
from dvi.summary import data_rows, kind_of, setting_rows, value_of, variable_rows

if TYPE_CHECKING:
    from dvi.approximation import Approximation

_DRAWS = 2_000
_MOST_ROWS = 500  # of the posterior
_INTERVAL = 0.94
_SHOWN = {"course", "data", "diagnosis", "lanes", "measure", "method", "seed"}  # of the run, in places of their own

type Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Contents:
    """All that the page shows, as text and SVG. What is not known is empty.

    Parameters
    ----------
    title, version, date : str
    verdict : str
        Of the diagnosis; empty where there is none.
    facts, variables, data, posterior, numbers, resources : sequence of rows of text
    posterior_columns : sequence of str
    left_out : int
        Rows of the posterior that the page does not show.
    findings : tuple of Finding
    graph, elbo, elements, throughput : str
        SVG.
    """

    title: str
    version: str
    date: str
    verdict: str
    facts: Rows
    variables: Rows
    data: Rows
    posterior: Rows
    posterior_columns: Sequence[str]
    left_out: int
    findings: tuple[Finding, ...]
    numbers: Rows
    resources: Rows
    graph: str
    elbo: str
    elements: str
    throughput: str


def contents_of(approx: Approximation) -> Contents:
    """Gather what there is to say. Draws 2,000 times from the approximation; reads no data."""
    run = approx.run
    diagnosis = Diagnosis.from_json(run["diagnosis"]) if "diagnosis" in run else None
    columns, rows = _posterior(approx)
    drawn = importlib.util.find_spec("matplotlib") is not None
    return Contents(
        title=f"{kind_of(approx)} approximation of {approx.ndim:,} dimensions",
        version=importlib.metadata.version("dask-vi"),
        date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        verdict="" if diagnosis is None else diagnosis.verdict,
        facts=[["fit", value_of(approx)], *setting_rows(run), *([n, str(run[n])] for n in sorted(run.keys() - _SHOWN))],
        variables=variable_rows(approx.layout.entries),
        data=data_rows(run),
        posterior=rows[:_MOST_ROWS],
        posterior_columns=columns,
        left_out=max(0, len(rows) - _MOST_ROWS),
        findings=() if diagnosis is None else (*diagnosis.findings, *diagnosis.notes),
        numbers=[] if diagnosis is None else list(numbers_of(diagnosis)),
        resources=list(_resources(run.get("course", ()))),
        graph=figures.graph(approx.model),
        elbo=figures.elbo(approx) if drawn and len(approx.hist) else "",
        elements=figures.elements(diagnosis) if drawn and diagnosis is not None and diagnosis.elements else "",
        throughput=figures.throughput(approx) if drawn else "",
    )


def _posterior(approx: Approximation) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and a row for every element of every variable, as ArviZ summarises them."""
    import arviz as az

    frame = az.summary(approx.sample(_DRAWS, random_seed=0), kind="stats", ci_prob=_INTERVAL, round_to="none")
    rows = [
        [str(label), *(f"{value:.4g}" for value in values)]
        for label, values in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    return ["variable", *map(str, frame.columns)], rows


def _resources(courses: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """What was recorded of each fit."""
    for number, course in enumerate(courses, 1):
        seconds, steps, rows = (course[name][-1] for name in ("seconds", "steps", "rows"))
        speeds = [short(done / seconds) if seconds else "" for done in (steps, rows)]
        waited = clock_time(course["seconds"][min(1, len(course["seconds"]) - 1)])
        hosts = str(max(course["hosts"]))
        yield [f"fit {number}", clock_time(seconds), waited, f"{steps:,}", short(rows), *speeds, hosts, course["end"]]
