"""``dvi report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dvi.cli.application import app, reporting


@app.command()
@reporting
def report(
    run: Annotated[str, typer.Argument(help="Path or URL of a saved approximation.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write. Default: the name of the run, with .html.")
    ] = None,
) -> None:
    """Write what there is to know of a fit to one HTML page that needs no network.

    Prints the name of the page.
    """
    import dvi

    approx = dvi.load(run)
    typer.echo(approx.report(out or Path(Path(run).resolve().name).with_suffix(".html")))
