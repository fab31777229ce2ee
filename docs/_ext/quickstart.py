"""The page of the variational quickstart: its text and code, and under each section what it printed and drew.

The script runs when a build begins, in full and in a process of its own, unless what it left is newer than it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).parents[2] / "examples" / "variational_quickstart.py"
OUTPUT = "_generated/quickstart"  # under the folder of the documentation
PAGE = "tutorials/variational-quickstart.md"
PRINTED = "printed.txt"  # written last: its time is that of a run that came to its end

_CELL = re.compile(r"^# %%(?P<markdown> \[markdown\])?\n", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FIGURE = re.compile(r'tour\.save\(\w+, "(\w+)"\)')


@dataclass(frozen=True, slots=True)
class Cell:
    """Text in Markdown, or code."""

    source: str
    is_text: bool


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def build(app: Sphinx) -> None:
    """Run the script if need be, and write the page."""
    folder = Path(app.srcdir) / OUTPUT
    run(SCRIPT, folder)
    text = page(cells(SCRIPT.read_text("utf-8")), (folder / PRINTED).read_text("utf-8"))
    target = Path(app.srcdir) / PAGE
    if not target.exists() or target.read_text("utf-8") != text:  # an unchanged page is not read again
        target.write_text(text, "utf-8")


def run(script: Path, folder: Path) -> None:
    """Run the script with all its steps, unless the folder has what a newer run printed and drew."""
    printed = folder / PRINTED
    if printed.exists() and printed.stat().st_mtime > script.stat().st_mtime:
        return
    logger.info("running %s in full, which takes minutes", script.name)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(script), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise ExtensionError(f"{script.name} failed; run `{' '.join(command)}` and repair it\n{done.stderr}")
    printed.write_text(done.stdout, "utf-8")


def cells(script: str) -> list[Cell]:
    """The cells of a script whose cells begin with ``# %%``."""
    marks = list(_CELL.finditer(script))
    ends = [mark.start() for mark in marks[1:]] + [len(script)]
    return [
        Cell(_text(source), True) if mark["markdown"] else Cell(source, False)
        for mark, end in zip(marks, ends, strict=True)
        if (source := script[mark.end() : end].strip())
    ]


def _text(source: str) -> str:
    """Markdown of a cell, which is a string or a comment."""
    if source.startswith('"""'):
        return source.strip('"').strip()
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in source.splitlines())


def page(parts: list[Cell], printed: str) -> str:
    """The page in Markdown."""
    results = sections(printed)
    titles = {title for part in parts if part.is_text for title in _HEADING.findall(part.source)}
    if not results or not results.keys() <= titles:
        raise ExtensionError(f"{SCRIPT.name} printed sections {list(results)}, but its headings are {sorted(titles)}")
    return "\n\n".join(["# Variational quickstart", *_blocks(parts, results)]) + "\n"


def sections(printed: str) -> dict[str, str]:
    """What each section printed, by its title: a line that is not indented."""
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        if line and not line.startswith(" "):
            found[line] = []
        else:
            found[next(reversed(found))].append(line.removeprefix("    "))
    return {title: "\n".join(lines) for title, lines in found.items()}


def _blocks(parts: list[Cell], results: dict[str, str]) -> Iterator[str]:
    title = ""
    for part in parts:
        if part.is_text:
            title = next(iter(_HEADING.findall(part.source)), "")
            yield part.source
            continue
        yield f"```python\n{part.source}\n```"
        if title in results and "tour: Tour" in part.source:
            yield f"It prints:\n\n```text\n{results.pop(title)}\n```"
            yield from (f"![{title}](../{OUTPUT}/{name}.png)" for name in _FIGURE.findall(part.source))
