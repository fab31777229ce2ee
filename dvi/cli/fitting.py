"""``dvi fit`` and ``dvi resume``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dvi.cli.application import Settings, app, opener, reporting
from dvi.cli.inspecting import AsJson, approximation_facts, open_store
from dvi.errors import ArgumentError, ClusterError

if TYPE_CHECKING:
    import pymc as pm

    from dvi.approximation import Approximation

_STEPS = 10_000

Out = Annotated[str, typer.Option("--out", "-o", help="Path or URL of the approximation to write.")]
Data = Annotated[str | None, typer.Option(help="Zarr group that FUNCTION is called with, as data=. Default: nothing.")]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of a Dask scheduler, to run on its workers.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads, without a scheduler. Default: one for each core.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an approximation at --out.")]


@app.command()
@reporting
def fit(
    model: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="What returns the pm.Model.")],
    out: Out,
    data: Data = None,
    steps: Annotated[int | None, typer.Option("--steps", "-n", min=1, help=f"Default: {_STEPS:,}.")] = None,
    until_converged: Annotated[
        bool, typer.Option("--until-converged", help="As many steps as it takes, in place of --steps.")
    ] = False,
    method: Annotated[str, typer.Option(help="As in dvi.fit: advi, fullrank_advi, svgd, ...")] = "advi",
    checkpoint: Annotated[
        str | None, typer.Option(help="Path or URL for checkpoints, which dvi resume goes on from.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same bits.")] = None,
    scheduler: Scheduler = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    storage_option: Settings = None,
) -> None:
    """Fit a model, and save the approximation.

    MODULE is looked for in the current directory too, and runs: name only what you trust. Prints the name of the
    approximation. With --checkpoint, SIGTERM ends the fit with exit code 143 after a last checkpoint, and Ctrl-C saves
    the approximation so far.
    """
    if steps is not None and until_converged:
        raise ArgumentError("--steps and --until-converged exclude each other; give one of them")
    from dvi.methods import make_inference
    from dvi.persistence import check_writable

    opened = opener(storage_option, out, data, checkpoint)
    where = opened(out)
    check_writable(where, overwrite)
    inference = make_inference(method, build_model(model, data, opened), random_seed=seed)
    inference.approx.run["model"] = model
    with client_of(scheduler, threads) as client:
        n = None if until_converged else steps or _STEPS
        approx = inference.fit(n, checkpoint=checkpoint and opened(checkpoint), client=client, threads=threads)
    _save(approx, out, where, overwrite, as_json)


@app.command()
@reporting
def resume(
    checkpoint: Annotated[str, typer.Argument(help="What --checkpoint of dvi fit, or checkpoint= of dvi.fit, was.")],
    out: Out,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODULE:FUNCTION", help="What returns the pm.Model. Needed.")
    ] = None,
    data: Data = None,
    steps: Annotated[
        int | None, typer.Option("--steps", "-n", min=1, help="Of the whole fit. Default: as given.")
    ] = None,
    scheduler: Scheduler = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    storage_option: Settings = None,
) -> None:
    """Go on with a fit from its last checkpoint, and save the approximation.

    It ends with the bits of a fit that was never stopped. Exit codes are those of dvi fit.
    """
    import dvi
    from dvi.persistence import check_writable

    opened = opener(storage_option, checkpoint, out, data)
    begun, where = opened(checkpoint), opened(out)
    if model is None:
        recorded = dvi.load(begun).run.get("model")
        hint = f" The fit was started with {recorded!r}: pass it if you trust it." if isinstance(recorded, str) else ""
        raise ArgumentError(f"--model is needed, as no name in a file is ever imported.{hint}")
    check_writable(where, overwrite)
    with client_of(scheduler, threads) as client:
        approx = dvi.resume(begun, build_model(model, data, opened), steps, client=client, threads=threads)
    _save(approx, out, where, overwrite, as_json)


def build_model(reference: str, data: str | None, opened: Callable[[str], Any]) -> pm.Model:
    """The model that a function returns, called with the data where there are any."""
    from dvi.model.reference import model_from

    return model_from(reference) if data is None else model_from(reference, data=open_store(data, opened(data)))


@contextmanager
def client_of(scheduler: str | None, threads: int | None) -> Iterator[Any]:
    """The rule for where commands compute: on the workers of a scheduler, or with threads, and then there is None."""
    if scheduler is not None and threads is not None:
        raise ArgumentError(f"--scheduler {scheduler} and --threads {threads} exclude each other; give one of them")
    if scheduler is None:
        yield None
        return
    from distributed import Client

    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        raise ClusterError(f"there is no Dask scheduler at {scheduler} ({error}); check that it runs") from None
    with client:
        yield client


def _save(approx: Approximation, out: str, where: Any, overwrite: bool, as_json: bool) -> None:
    approx.save(where, overwrite=overwrite)
    typer.echo(json.dumps(approximation_facts(out, approx)) if as_json else out)
