"""``dvi predict``."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from dvi.cli.application import Settings, app, opener, reporting
from dvi.cli.fitting import Data, Scheduler, Threads, build_model, client_of
from dvi.cli.inspecting import AsJson, array_facts, open_store


class Kind(StrEnum):
    """What to keep of the predictions of a row."""

    draws = "draws"
    summary = "summary"


@app.command()
@reporting
def predict(
    run: Annotated[str, typer.Argument(help="Path or URL of a saved approximation.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODULE:FUNCTION", help="What returns the pm.Model.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Path or URL of the Zarr group to write.")],
    data: Data = None,
    new: Annotated[
        str | None,
        typer.Option(help="Zarr group of other rows to predict, its arrays by the names of those of --data."),
    ] = None,
    kind: Annotated[Kind, typer.Option(help="All draws of a row, or their mean, sd and quantiles.")] = Kind.summary,
    draws: Annotated[int, typer.Option(min=1, help="Draws from the approximation.")] = 1_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    scheduler: Scheduler = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace predictions.")] = False,
    as_json: AsJson = False,
    storage_option: Settings = None,
) -> None:
    """Predict every row of a store, chunk by chunk, into another one.

    What was stopped goes on when it is given again. MODULE is looked for in the current directory too, and runs: name
    only what you trust. Prints the name of the store.
    """
    import dvi

    opened = opener(storage_option, run, out, data, new)
    approx, where, built = dvi.load(opened(run)), opened(out), build_model(model, data, opened)
    rows = None if new is None else open_store(new, opened(new))
    with client_of(scheduler, threads) as client:
        dvi.predict(
            approx,
            rows,
            where,
            model=built,
            draws=draws,
            kind=kind.value,
            random_seed=seed,
            client=client,
            threads=threads,
            overwrite=overwrite,
        )
    typer.echo(json.dumps(array_facts(out, open_store(out, where))) if as_json else out)
