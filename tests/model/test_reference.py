"""Models by name: the current directory, and one clear error for each way to get it wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pymc as pm
import pytest

from dvi.errors import ArgumentError
from dvi.model.reference import model_from

SOURCE = """
import pymc as pm

number = 3

def build(rows=2):
    import shop.shape
    with pm.Model() as model:
        pm.Normal("beta", shape=shop.shape.columns(rows))
    return model

def forgets():
    pm.Model()
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "sales.py").write_text(SOURCE)
    (folder / "shape.py").write_text("def columns(rows):\n    return rows + 1\n")
    (folder / "broken.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    yield
    for name in [n for n in sys.modules if n.partition(".")[0] == "shop"]:
        del sys.modules[name]


def test_builds_the_model_from_the_current_directory_and_leaves_the_path_alone() -> None:
    before = list(sys.path)
    model = model_from("shop.sales:build", rows=4)
    assert isinstance(model, pm.Model)
    assert model["beta"].type.shape == (5,)
    assert sys.path == before


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("shop.sales", "does not name a function"),
        ("shop.sales:", "does not name a function"),
        ("shop..sales:build", "does not name a function"),
        ("../shop:build", "does not name a function"),
        ("shop.sails:build", "no module shop.sails"),
        ("chop.sales:build", "no module chop,"),
        ("shop.sales:built", "did you mean 'build'"),
        ("shop.sales:zzz", "it has build, forgets"),
        ("shop.sales:number", "is of type int"),
        ("shop.sales:forgets", "returned None"),
        (3, "is of type int"),
    ],
)
def test_says_what_is_wrong_with_a_reference(reference: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        model_from(reference)


def test_says_which_arguments_the_function_does_not_take() -> None:
    with pytest.raises(ArgumentError, match="cannot be called with cols: "):
        model_from("shop.sales:build", cols=1)


def test_what_the_module_itself_raises_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        model_from("shop.broken:build")
