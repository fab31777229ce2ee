"""A diagnosis as text for terminals and as HTML for notebooks."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dvi.html import Section, card

if TYPE_CHECKING:
    from dvi.diagnostics.diagnosis import Diagnosis, Element

_SHOWN = 8  # elements, those furthest off
_WIDTH = 100

type Row = tuple[str, str, str]

_COLUMNS: Sequence[tuple[str, Callable[[Element], str]]] = (
    ("mean", lambda e: f"{e.mean:.4g}"),
    ("sd", lambda e: f"{e.sd:.3g}"),
    ("mean off by (sd)", lambda e: f"{e.shift:+.2f} ± {e.shift_error:.2f}"),
    ("sd to go to", lambda e: f"{e.sd * e.scale:.3g}"),
    ("posterior sd", lambda e: f"{e.posterior_sd:.3g}"),
    ("corrected mean", lambda e: f"{e.corrected_mean:.4g}"),
    ("corrected sd", lambda e: f"{e.corrected_sd:.3g}"),
)


def as_text(diagnosis: Diagnosis) -> str:
    """A table of at most 100 columns but for long names."""
    lines = [_title(diagnosis)]
    lines += [""] if diagnosis.findings or diagnosis.notes else []
    for mark, findings in (("!", diagnosis.findings), ("-", diagnosis.notes)):
        for finding in findings:
            lines += textwrap.wrap(f"{mark} {finding}", _WIDTH, subsequent_indent="  ")
    rows = list(numbers_of(diagnosis))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    lines += ["", *(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows)]
    table = [["unconstrained", *(name for name, _ in _COLUMNS)], *_cells(diagnosis)]
    columns = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines.append("")
    for name, *values in table:
        cells = [f"{v:>{n}}" for v, n in zip(values, columns[1:], strict=True)]
        lines.append("  ".join([f"{name:<{columns[0]}}", *cells]))
    return "\n".join(lines)


def as_html(diagnosis: Diagnosis) -> str:
    """The same in a notebook."""
    findings = [[f.code, f.what, f.advice] for f in (*diagnosis.findings, *diagnosis.notes)]
    names = ("unconstrained", *(name for name, _ in _COLUMNS))
    sections = [
        Section("Findings", findings, ("", "what", "what to do"), f"{len(diagnosis.findings)} wrong", is_open=True),
        Section("Numbers", list(numbers_of(diagnosis)), is_open=True),
        Section("Variables", _cells(diagnosis), names, f"the {min(_SHOWN, diagnosis.ndim)} furthest off"),
    ]
    return card(f"dvi.Diagnosis: {diagnosis.verdict}", _counts(diagnosis), sections)


def _counts(d: Diagnosis) -> str:
    return f"{d.family}, {d.ndim:,} dimensions, {d.steps:,} steps, {d.draws:,} draws"


def _title(d: Diagnosis) -> str:
    return f"<dvi.Diagnosis of {_counts(d)}: {d.verdict}>"


def _cells(diagnosis: Diagnosis) -> list[list[str]]:
    return [[e.name, *(show(e) for _, show in _COLUMNS)] for e in diagnosis.worst(_SHOWN)]


def numbers_of(diagnosis: Diagnosis) -> Iterator[Row]:
    """Name, value and meaning of every number that is available."""
    n = {name: value for name, value in diagnosis.numbers.items() if value is not None}
    if "elbo" in n:
        yield "ELBO", f"{n['elbo']:,.7g} ± {n['elbo_error']:.2g}", "nats, on all rows"
    if "khat" in n:
        yield "k-hat", f"{n['khat']:.2f}", f"of the importance weights, to be trusted up to {n['khat_threshold']:.2f}"
    if "ess" in n:
        yield "effective draws", f"{n['ess']:,.0f} of {diagnosis.draws:,}", "by their weights"
    if "stein" in n:
        yield "Stein discrepancy", f"{n['stein']:.3g}", "squared, of the particles"
    if "improvement" in n:
        yield "ELBO to gain", f"{n['improvement']:.3g}", "nats, by the best means and scales of this family"
    if "snr" in n:
        yield "signal to noise", f"{n['snr']:.2g}", "of the gradient in the means, one draw on all rows"
    if "widest" in n:
        yield "sd ratio", f"{n['narrowest']:.2f} to {n['widest']:.2f}", "posterior over approximation, by direction"
    if "nonlinear" in n:
        yield (
            "other shape",
            f"{100 * n['nonlinear']:.0f} %",
            "of the variance of a score, left when means and covariance are right",
        )
    if "fall" in n:
        yield "fall of the loss", f"{n['fall']:.3g} ± {n['fall_error']:.2g}", "over the last tenth of the steps"
