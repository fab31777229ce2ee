"""The application that commands belong to, and what they have in common: errors in one line, exit codes."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from dvi.errors import ArgumentError, DviError, StoreExistsError, StoreNotFoundError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

_ORDER = ("demo", "ingest", "info", "fit", "resume", "predict", "report", "retrain")  # in which one needs them


class _Commands(TyperGroup):
    """Commands in the order of a first afternoon, whatever module was imported first."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    name="dvi",
    cls=_Commands,
    rich_markup_mode="markdown",  # paragraphs of docstrings are filled
    help="Variational inference for PyMC models on data that does not fit in memory.",
    epilog="Results go to standard output, progress and errors to standard error. Exit codes: 0 done; 1 failed, and "
    "may work when tried again; 2 not possible with what was given; 130 interrupted; 143 ended by SIGTERM. Those of "
    "dvi retrain are in its own help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="NAME=VALUE",
        help="Setting of the URLs, such as endpoint=http://minio:9000. May be repeated. Leave secrets to the "
        "environment, where they are on no list of processes.",
    ),
]


def main() -> None:
    """Run the command line: what the console script ``dvi`` calls."""
    app(prog_name="dvi")


def exit_code(error: DviError) -> int:
    """The rule for exit codes: 2 for what the user gave, of which the name of a store is part, 1 for all else."""
    return BAD_INPUT if isinstance(error, ArgumentError | StoreNotFoundError | StoreExistsError) else FAILED


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """A command that tells of dvi's own errors in one line, without a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except DviError as error:
            complain(" ".join([str(error), *getattr(error, "__notes__", ())]))
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt as interrupt:
            complain("Interrupted. " + " ".join(getattr(interrupt, "__notes__", ())))
            raise typer.Exit(INTERRUPTED) from None

    return run


def opener(settings: list[str] | None, *stores: str | None) -> Callable[[str], Any]:
    """What opens the stores of a command, with its settings where they are URLs; one has to be then."""
    import dvi

    options = options_of(settings)
    if settings and not any(map(is_url, stores)):
        raise ArgumentError("--storage-option is for URLs, and no store of the command is one; leave it out")

    def opened(where: str) -> Any:
        return dvi.open_store(where, options if is_url(where) else None)

    return opened


def options_of(settings: list[str] | None) -> dict[str, str]:
    """Names and values of the settings of a command."""
    for setting in settings or []:
        if not re.fullmatch(r"\w+=.*", setting, re.DOTALL):
            raise ArgumentError(f"--storage-option {setting} is not allowed; give a name and a value, NAME=VALUE")
    return dict(setting.split("=", 1) for setting in settings or [])


def is_url(where: str | None) -> bool:
    """Whether a store is far away."""
    return where is not None and "://" in where and not where.startswith("file:")


def complain(message: str) -> None:
    """Say on standard error, in one line, what went wrong."""
    Console(stderr=True).print(Text(" ".join(message.split()), style="red"), soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        version = importlib.metadata.version("dask-vi")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    typer.echo(f"dvi {version}")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass
