"""Objects as notebooks show them: a heading, and sections that open and close. No scripts; colours of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """\
.dvi-card{font-size:.9em;line-height:1.5;max-width:60em;color:inherit}
.dvi-card header{border-bottom:1px solid;border-color:color-mix(in srgb,currentColor 25%,transparent);padding:.3em 0}
.dvi-card header span,.dvi-card summary small{opacity:.7}
.dvi-card details{margin:.3em 0}
.dvi-card summary{cursor:pointer;font-weight:600}
.dvi-card summary small{font-weight:400;margin-left:.5em}
.dvi-card .dvi-scroll{overflow-x:auto}
.dvi-card table{border-collapse:collapse;border:0;margin:.2em 0 .2em 1em;background:none;color:inherit}
.dvi-card th,.dvi-card td{text-align:left;padding:.1em .8em .1em 0;border:0;background:none;vertical-align:top}
.dvi-card th{font-weight:600;opacity:.7}
.dvi-card td{font-variant-numeric:tabular-nums}
.dvi-card ul{margin:.2em 0}
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a card: a table, or a list where there are no columns.

    Parameters
    ----------
    name : str
    rows : sequence of sequence of str
        Text, not HTML.
    columns : sequence of str
        Headings; none for pairs of name and value.
    summary : str
        Shown beside the name while the section is closed too.
    is_open : bool
    """

    name: str
    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()
    summary: str = ""
    is_open: bool = False


def card(kind: str, about: str, sections: Sequence[Section]) -> str:
    """HTML of an object.

    Parameters
    ----------
    kind : str
        Its type.
    about : str
        What there is to say of it in a few words.
    sections : sequence of Section
        Those without rows are left out.

    Examples
    --------
    >>> html = card("dvi.Source", "", [Section("Data", [["x", "<b>"]], (), "2 rows")])
    >>> "<summary>Data<small>2 rows</small></summary>" in html, "&lt;b&gt;" in html
    (True, True)
    """
    parts = "".join(map(_section, filter(lambda section: section.rows, sections)))
    head = f"<header><strong>{escape(kind)}</strong> <span>{escape(about)}</span></header>"
    return f'<div class="dvi-card"><style>{_STYLE}</style>{head}{parts}</div>'


def table(rows: Sequence[Sequence[str]], columns: Sequence[str] = ()) -> str:
    """HTML of a table of texts. Without columns, the first cell of a row is its heading.

    Examples
    --------
    >>> table([["a", "1 < 2"]])
    '<table><tbody><tr><th scope="row">a</th><td>1 &lt; 2</td></tr></tbody></table>'
    """
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    head = f"<thead><tr>{heads}</tr></thead>" if columns else ""
    body = "".join(f"<tr>{_cells(row, with_heading=not columns)}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _section(section: Section) -> str:
    small = f"<small>{escape(section.summary)}</small>" if section.summary else ""
    body = table(section.rows, section.columns)
    opened = " open" if section.is_open else ""
    summary = f"<summary>{escape(section.name)}{small}</summary>"
    return f'<details{opened}>{summary}<div class="dvi-scroll">{body}</div></details>'


def _cells(row: Sequence[str], *, with_heading: bool) -> str:
    first, *rest = row
    heading = f'<th scope="row">{escape(first)}</th>' if with_heading else f"<td>{escape(first)}</td>"
    return heading + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
