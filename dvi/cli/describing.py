"""``dvi report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dvi.cli.application import Settings, app, is_url, opener, options_of, reporting


@app.command()
@reporting
def report(
    run: Annotated[str, typer.Argument(help="Path or URL of a saved approximation.")],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Path or URL of the page. Default: name of the run, with .html."),
    ] = None,
    storage_option: Settings = None,
) -> None:
    """Write what there is to know of a fit to one HTML page that needs no network.

    Prints the name of the page.
    """
    import dvi

    approx = dvi.load(opener(storage_option, run, out)(run))
    page = out or str(Path(Path(run).resolve().name).with_suffix(".html"))
    typer.echo(approx.report(page, storage_options=options_of(storage_option) if is_url(page) else None))
