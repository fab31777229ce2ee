"""``dvi demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dvi.cli.application import app, reporting


@app.command()
@reporting
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("dvi-demo"),
    threads: Annotated[bool, typer.Option("--threads", help="Use threads of this process, and no cluster.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of the cluster.")] = 2,
    copies: Annotated[int, typer.Option(min=1, help="Make the data so many times larger.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the fit.")] = 4_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fit.")] = 0,
) -> None:
    """Fit the delays of the flights from New York in 2013, on a cluster of this machine."""
    from dvi.demo import Settings, run

    run(Settings(out, copies, steps, 0 if threads else workers, seed), Console())
