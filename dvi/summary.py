"""An approximation in one line of text, and as a card in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvi.html import Section, card

if TYPE_CHECKING:
    from dvi.approximation import Approximation
    from dvi.model.layout import Entry

_MOST_NAMES = 12  # in a line
_PART = 20  # the value of a fit is the mean over the last 1/20 of its steps


def kind_of(approx: Approximation) -> str:
    """The name of the family, as users know it."""
    return type(approx.family).__name__.removesuffix("Family")


def value_of(approx: Approximation) -> str:
    """ELBO or loss over the last twentieth of the steps, or that there were none."""
    recent = approx.hist[-max(1, len(approx.hist) // _PART) :]
    if not len(recent):
        return "not fitted"
    is_elbo = approx.run.get("measure", "ELBO") == "ELBO"
    value = f"ELBO {-np.mean(recent):.6g}" if is_elbo else f"loss {np.mean(recent):.6g}"
    return f"{len(approx.hist)} steps, {value}"


def as_text(approx: Approximation) -> str:
    """One line."""
    entries = approx.layout.entries
    names = ", ".join(f"{e.name}{list(e.shape) if e.shape else ''}" for e in entries[:_MOST_NAMES])
    more = f", and {len(entries) - _MOST_NAMES} more" if len(entries) > _MOST_NAMES else ""
    return f"<dvi.{kind_of(approx)} of {approx.ndim} dimensions ({value_of(approx)}): {names}{more}>"


def as_html(approx: Approximation) -> str:
    """A card with variables, data and settings."""
    run, entries = approx.run, approx.layout.entries
    data = data_rows(run)
    sections = [
        Section(
            "Variables", variable_rows(entries), ("name", "shape", "dimensions", "transform"),
            f"{len(entries)}, {approx.ndim:,} unconstrained dimensions", is_open=len(entries) <= _MOST_NAMES,
        ),
        Section("Data", data, ("array", "shape", "dtype", "where"), f"{len(data)} arrays"),
        Section("Settings", setting_rows(run)),
    ]  # fmt: skip
    return card(f"dvi.{kind_of(approx)}", value_of(approx), sections)


def variable_rows(entries: Sequence[Entry]) -> list[list[str]]:
    """Name, shape, dimensions and transform of every free variable."""
    return [[e.name, _shape(e.shape), ", ".join(filter(None, e.dims)), str(e.transform)] for e in entries]


def data_rows(run: dict[str, Any]) -> list[list[str]]:
    """Name, shape, dtype and place of every array that a fit has read."""
    return [
        [str(array["name"]), _shape(array["shape"]), str(array["dtype"]), str(array["label"])]
        for data in run.get("data", ())
        for array in data["arrays"]
    ]


def setting_rows(run: dict[str, Any]) -> list[list[str]]:
    """Method, seed, how rows were cut into batches and lanes, and what the last diagnosis found."""
    return [[name, value] for name, value in _settings(run)]


def _settings(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("method", "seed"):
        if name in run:
            yield name, str(run[name])
    for data, lanes in zip(run.get("data", ()), run.get("lanes", ()), strict=True):
        yield "batch size", f"{lanes['batch_size']:,} of {data['n_rows']:,} rows, in {lanes['lanes']:,} lanes"
    if "diagnosis" in run:
        yield "diagnosis", ", ".join(str(found["code"]) for found in run["diagnosis"]["findings"]) or "ok"


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(f"{n:,}" for n in shape) or "scalar"
