"""A diagnosis as text for terminals and as HTML for notebooks."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

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
    lines = [_title(diagnosis), ""]
    for mark, findings in (("!", diagnosis.findings), ("-", diagnosis.notes)):
        for finding in findings:
            lines += textwrap.wrap(f"{mark} {finding}", _WIDTH, subsequent_indent="  ")
    rows = list(_rows(diagnosis))
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
    """The same in a notebook, without style sheets or scripts of its own."""
    findings = [(f, "#b00") for f in diagnosis.findings] + [(f, "inherit") for f in diagnosis.notes]
    items = "".join(f'<li style="color: {colour}">{escape(str(f))}</li>' for f, colour in findings)
    rows = "".join(
        f"<tr><td>{escape(a)}</td><td>{escape(b)}</td><td>{escape(c)}</td></tr>" for a, b, c in _rows(diagnosis)
    )
    head = "".join(f"<th>{name}</th>" for name in ("unconstrained", *(name for name, _ in _COLUMNS)))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in _cells(diagnosis)
    )
    return (
        f"<div><strong>{escape(_title(diagnosis))}</strong><ul>{items}</ul>"
        f"<details open><summary>Numbers</summary><table>{rows}</table></details>"
        f"<details><summary>Variables</summary><table><tr>{head}</tr>{body}</table></details></div>"
    )


def _title(d: Diagnosis) -> str:
    counts = f"{d.ndim:,} dimensions, {d.steps:,} steps, {d.draws:,} draws"
    return f"<dvi.Diagnosis of {d.family} ({counts}): {d.verdict}>"


def _cells(diagnosis: Diagnosis) -> list[list[str]]:
    return [[e.name, *(show(e) for _, show in _COLUMNS)] for e in diagnosis.worst(_SHOWN)]


def _rows(diagnosis: Diagnosis) -> Iterator[Row]:
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
