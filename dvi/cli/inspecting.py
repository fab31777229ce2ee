"""``dvi info``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dvi.cli.application import app, reporting
from dvi.errors import StoreError, StoreNotFoundError

if TYPE_CHECKING:
    import xarray as xr

    from dvi.approximation import Approximation


@app.command()
@reporting
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
        print_arrays(store, ds)


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


def print_arrays(store: str, ds: xr.Dataset) -> None:
    """Arrays of a store as a table."""
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
