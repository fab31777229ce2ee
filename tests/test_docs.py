"""What the documentation says can be done: its code is run by the build, or looked at here."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import dvi
from dvi.cli import app

ROOT = Path(__file__).parents[1]
GENERATED = {"variational-quickstart.md"}  # by the build, from a script that the tests run
PAGES = [
    path
    for path in sorted([*ROOT.joinpath("docs").rglob("*.md"), *ROOT.glob("*.md")])
    if not {"_build", "_generated", "generated"} & set(path.parts) and path.name not in GENERATED
]
FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)

each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def blocks(page: Path, *kinds: str) -> list[str]:
    return [found["body"] for found in FENCE.finditer(page.read_text("utf-8")) if found["kind"].strip() in kinds]


def public_names(code: str) -> Iterator[str]:
    """Attributes of dvi that code asks for."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dvi":
            yield node.attr


@each_page
def test_cells_are_on_pages_that_the_build_runs(page: Path) -> None:
    if blocks(page, "{code-cell}", "{code-cell} python"):
        assert page.read_text("utf-8").startswith("---\nfile_format: mystnb\n")


@each_page
def test_code_that_is_shown_only_is_python_and_uses_names_that_are_there(page: Path) -> None:
    for code in blocks(page, "python"):
        assert not [name for name in public_names(code) if not hasattr(dvi, name)], code


@each_page
def test_commands_and_their_options_are_there(page: Path) -> None:
    group = typer.main.get_command(app)
    for arguments in commands("\n".join(blocks(page, "console", "shell", "bash", "yaml"))):
        name = next((word for word in arguments if not word.startswith("-")), None)
        if name is None:
            continue
        assert name in group.commands, arguments
        known = {option for parameter in group.commands[name].params for option in options(parameter)} | {"--help"}
        used = {word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
        assert used <= known, arguments


def commands(text: str) -> Iterator[list[str]]:
    """Words after ``dvi`` on the lines of a console."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        found = re.match(r"\$ (?:\S+ )*?dvi (?P<rest>[^|>&#]*)", line.strip())
        if found:
            yield shlex.split(found["rest"])


def options(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]


def test_commands_are_found_where_they_are() -> None:
    assert list(commands("$ dvi info a.zarr --json | jq .\n$ X=1 uv run dvi demo\ndvi is\n$ ls dvi")) == [
        ["info", "a.zarr", "--json"],
        ["demo"],
    ]


@pytest.mark.parametrize("folder", ["tutorials", "how-to", "explanation", "reference"])
def test_every_page_is_in_the_index_of_its_folder(folder: str) -> None:
    index = ROOT.joinpath("docs", folder, "index.md").read_text("utf-8")
    names = {page.stem for page in PAGES if page.parent.name == folder and page.stem != "index"}
    listed = set(
        re.findall(r"^([\w*-]+)$", "\n".join(blocks(ROOT / "docs" / folder / "index.md", "{toctree}")), re.MULTILINE)
    )
    assert "*" in listed or names <= listed, index


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(((?!https?:|#|mailto:)[^)\s#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists() or Path(target).name in GENERATED, target
