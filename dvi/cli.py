"""The ``dvi`` command. What is slow to import is imported by the command that needs it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dvi.errors import ArgumentError, DviError, StoreError, StoreExistsError, StoreNotFoundError

if TYPE_CHECKING:
    import xarray as xr

    from dvi.approximation import Approximation

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="dvi",
    help="Variational inference for PyMC models on data that does not fit in memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line: what the console script ``dvi`` calls."""
    app(prog_name="dvi")


def exit_code(error: DviError) -> int:
    """The rule for exit codes: 2 for what the user gave, of which the name of a store is part, 1 for all else."""
    return BAD_INPUT if isinstance(error, ArgumentError | StoreNotFoundError | StoreExistsError) else FAILED


def _reporting(command: Callable[..., None]) -> Callable[..., None]:
    """A command that tells of dvi's own errors in one line, without a traceback."""

    @functools.wraps(command)
    def reporting(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except DviError as error:
            _complain(str(error))
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt as interrupt:
            _complain("Interrupted. " + " ".join(getattr(interrupt, "__notes__", ())))
            raise typer.Exit(INTERRUPTED) from None

    return reporting


def _complain(message: str) -> None:
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


@app.command()
@_reporting
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


@app.command()
@_reporting
def ingest(
    source: Annotated[str, typer.Argument(help="Path, URL or pattern of Parquet, CSV, .npy, .npz or Zarr.")],
    store: Annotated[str, typer.Argument(help="Path or URL of the Zarr group to write.")],
    columns: Annotated[str | None, typer.Option(help="Columns to store, a,b,c. Default: all not packed.")] = None,
    pack: Annotated[
        list[str] | None, typer.Option(metavar="NAME=A,B,C", help="A matrix to make of columns. May be repeated.")
    ] = None,
    dropna: Annotated[bool, typer.Option("--dropna", help="Drop rows with missing values.")] = False,
    chunk_bytes: Annotated[int, typer.Option(help="Size of a chunk before compression, in bytes.")] = 4_000_000,
    shuffle: Annotated[bool, typer.Option("--shuffle/--no-shuffle", help="Put the rows in random order.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store.")] = False,
) -> None:
    """Write data as a shuffled, chunked Zarr group, the store that dvi reads fastest."""
    packed = dict(_parse_pack(text) for text in pack or [])

    import dvi

    ds = dvi.ingest(
        source,
        store,
        columns=None if columns is None else columns.split(","),
        pack=packed or None,
        dropna=dropna,
        chunk_bytes=chunk_bytes,
        shuffle=shuffle,
        random_seed=seed,
        overwrite=overwrite,
    )
    _print_arrays(store, ds)


def _parse_pack(text: str) -> tuple[str, list[str]]:
    """Name and columns of ``name=a,b,c``."""
    name, equals, columns = text.partition("=")
    if not (name and equals and all(columns.split(","))):
        raise ArgumentError(f"--pack {text} is not allowed; give a name and columns, such as --pack x=distance,hour")
    return name, columns.split(",")


@app.command()
@_reporting
def info(store: Annotated[str, typer.Argument(help="A Zarr group or array, or a saved approximation.")]) -> None:
    """Say what is in a store."""
    import xarray as xr

    try:
        ds = xr.open_zarr(store, chunks=None)
    except Exception as error:  # stores raise whatever they like
        ds = _open_array(store, error)
    if "dvi_format" in ds.attrs:
        import dvi

        _print_approximation(store, dvi.load(store))
    else:
        _print_arrays(store, ds)


def _open_array(store: str, reason: Exception) -> xr.Dataset:
    """A Zarr array as a dataset of one variable."""
    import dask.array
    import xarray as xr

    try:
        array = dask.array.from_zarr(store)
    except Exception:  # neither a group nor an array
        if "://" not in store and not Path(store).exists():
            raise StoreNotFoundError(f"There is nothing at {store}; give the path or URL of a Zarr store.") from None
        message = f"{store} is not a Zarr group or array that can be read ({type(reason).__name__}: {reason})"
        raise StoreError(message) from None
    variable = xr.Variable([f"dim_{i}" for i in range(array.ndim)], array, encoding={"chunks": array.chunksize})
    return xr.Dataset({Path(store).name: variable})


@dataclass(frozen=True, slots=True)
class _Chunking:
    """Shape of the chunks of an array, and how many there are."""

    shape: tuple[int, ...]
    number: int


def _chunking(variable: xr.DataArray) -> _Chunking:
    shape = tuple(variable.encoding.get("chunks") or variable.shape)
    number = 1
    for size, chunk in zip(variable.shape, shape, strict=True):
        number *= -(-size // max(1, chunk))
    return _Chunking(shape, number)


def _print_arrays(store: str, ds: xr.Dataset) -> None:
    console = Console()
    rows = max((v.shape[0] for v in ds.data_vars.values() if v.ndim), default=0)
    stored = _stored_bytes(store)
    size = "" if stored is None else f", {_bytes(stored)} stored"
    _heading(console, f"{store}: {rows:,} rows, {_bytes(ds.nbytes)}{size}")
    if "dvi_source" in ds.attrs:
        order = f"shuffled with seed {ds.attrs['dvi_random_seed']}" if ds.attrs["dvi_shuffled"] else "not shuffled"
        dropped = ds.attrs["dvi_dropped_rows"]
        less = f", {dropped:,} row{'s' if dropped > 1 else ''} dropped" if dropped else ""
        _heading(console, f"ingested by dvi {ds.attrs['dvi_version']}, {order}{less}")
    table = Table(box=None)
    for column, justify in (("array", "left"), ("shape", "right"), ("dtype", "left"), ("chunk", "right")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("chunks", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    for name, variable in ds.data_vars.items():
        chunking = _chunking(variable)
        table.add_row(
            Text(str(name)), _shape(variable.shape), str(variable.dtype), _shape(chunking.shape),
            f"{chunking.number:,}", _bytes(variable.nbytes),
        )  # fmt: skip
    console.print(table)


def _print_approximation(store: str, approx: Approximation) -> None:
    console = Console()
    run, hist = approx.run, approx.hist
    kind = type(approx.family).__name__.removesuffix("Family")
    _heading(console, f"{store}: {kind} approximation of {approx.ndim:,} dimensions")
    if len(hist):
        last = -float(hist[-max(1, len(hist) // 20) :].mean())
        _heading(console, f"method {run.get('method')}, seed {run.get('seed')}, {len(hist):,} steps")
        _heading(console, f"ELBO {last:,.7g} (mean of the last twentieth of the steps), {-hist[0]:,.7g} at the first")
    table = Table(box=None)
    table.add_column("variable", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    table.add_column("dimensions", no_wrap=True)
    for entry in approx.layout.entries:
        table.add_row(Text(entry.name), _shape(entry.shape), ", ".join(filter(None, entry.dims)))
    console.print(table)


def _heading(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape) or "scalar"


def _bytes(n: float) -> str:
    for size, suffix in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= size:
            return f"{n / size:,.3g} {suffix}"
    return f"{n:.0f} bytes"


def _stored_bytes(store: str) -> int | None:
    """Bytes of the files of a local store."""
    folder = Path(store.removeprefix("file://"))
    if not folder.is_dir():
        return None
    return sum(os.lstat(Path(root) / file).st_size for root, _, files in os.walk(folder) for file in files)
