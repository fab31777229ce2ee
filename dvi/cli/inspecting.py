"""``dvi info``."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dvi.cli.application import Settings, app, opener, reporting
from dvi.errors import StoreError, StoreNotFoundError

if TYPE_CHECKING:
    import xarray as xr

    from dvi.approximation import Approximation

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
_WIDE = 1_000  # columns of a pipe, where nothing is cut off


@app.command()
@reporting
def info(
    store: Annotated[str, typer.Argument(help="Path or URL of a Zarr group or array, or of a saved approximation.")],
    as_json: AsJson = False,
    storage_option: Settings = None,
) -> None:
    """Say what is in a store."""
    where = opener(storage_option, store)(store)
    ds = open_store(store, where)
    if "dvi_format" in ds.attrs:
        import dvi

        approximation = approximation_facts(store, dvi.load(where))
        typer.echo(json.dumps(approximation)) if as_json else _print_approximation(approximation)
    else:
        arrays = array_facts(store, ds)
        typer.echo(json.dumps(arrays)) if as_json else _print_arrays(arrays)


def open_store(store: str, where: Any) -> xr.Dataset:
    """A Zarr group, or an array as a dataset of one variable, from where its name was opened."""
    import xarray as xr

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated", RuntimeWarning)
            ds: xr.Dataset = xr.open_zarr(where, chunks=None)
    except Exception as error:  # stores raise whatever they like
        return _open_array(store, where, error)
    return ds


def _open_array(store: str, where: Any, reason: Exception) -> xr.Dataset:
    import dask.array
    import xarray as xr

    try:
        array = dask.array.from_zarr(where)
    except Exception:  # neither a group nor an array
        if "://" not in store and not Path(store).exists():
            raise StoreNotFoundError(f"There is nothing at {store}; give the path or URL of a Zarr store.") from None
        message = (
            f"{store} is not a Zarr group or array that can be read ({type(reason).__name__}: {reason}); give another "
            "store, or make one of other formats with dvi ingest"
        )
        raise StoreError(message) from None
    variable = xr.Variable([f"dim_{i}" for i in range(array.ndim)], array, encoding={"chunks": array.chunksize})
    return xr.Dataset({Path(store).name: variable})


def array_facts(store: str, ds: xr.Dataset) -> dict[str, Any]:
    """What ``dvi info --json`` says of arrays.

    Sizes are in bytes; None for ``stored`` where it is no local folder, and for ``rows`` of a group of groups.
    """
    ingested = {
        "dvi_version": ds.attrs["dvi_version"],
        "shuffled": bool(ds.attrs["dvi_shuffled"]),
        "random_seed": ds.attrs["dvi_random_seed"],
        "dropped_rows": ds.attrs["dvi_dropped_rows"],
    } if "dvi_source" in ds.attrs else None  # fmt: skip
    nested = {} if ds.data_vars else _nested(store)
    return {
        "kind": "arrays",
        "store": store,
        "rows": None if nested else max((v.shape[0] for v in ds.data_vars.values() if v.ndim), default=0),
        "nbytes": sum(v.nbytes for v in nested.values()) if nested else ds.nbytes,
        "stored": _stored_bytes(store),
        "ingested": ingested,
        "arrays": [_array_facts(str(name), variable) for name, variable in (nested or ds.data_vars).items()],
    }


def _nested(store: str) -> dict[str, xr.DataArray]:
    """Arrays of the groups in a group, such as predictions, by their paths."""
    import xarray as xr

    import dvi

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated", RuntimeWarning)
        groups = xr.open_groups(dvi.open_store(store), engine="zarr", chunks=None)
    return {
        f"{path.strip('/')}/{name}": variable
        for path, group in groups.items()
        for name, variable in group.data_vars.items()
    }


def _array_facts(name: str, variable: xr.DataArray) -> dict[str, Any]:
    chunk = [int(n) for n in variable.encoding.get("chunks") or variable.shape]
    return {
        "name": name,
        "shape": list(variable.shape),
        "dtype": str(variable.dtype),
        "chunk": chunk,
        "chunks": math.prod(-(-size // max(1, n)) for size, n in zip(variable.shape, chunk, strict=True)),
        "nbytes": variable.nbytes,
    }


def approximation_facts(store: str, approx: Approximation) -> dict[str, Any]:
    """What ``dvi info --json`` says of an approximation. The ELBO is the mean over the last twentieth of the steps."""
    run, hist = approx.run, approx.hist
    return {
        "kind": "approximation",
        "store": store,
        "family": type(approx.family).__name__.removesuffix("Family"),
        "dimensions": approx.ndim,
        "method": run.get("method"),
        "seed": run.get("seed"),
        "steps": len(hist),
        "elbo": -float(hist[-max(1, len(hist) // 20) :].mean()) if len(hist) else None,
        "first_elbo": -float(hist[0]) if len(hist) else None,
        "findings": [found["code"] for found in run["diagnosis"]["findings"]] if "diagnosis" in run else None,
        "variables": [
            {"name": e.name, "shape": list(e.shape), "dimensions": list(filter(None, e.dims))}
            for e in approx.layout.entries
        ],
    }


def print_arrays(store: str, ds: xr.Dataset) -> None:
    """Arrays of a store as a table."""
    _print_arrays(array_facts(store, ds))


def _print_arrays(facts: dict[str, Any]) -> None:
    console = _console()
    size = "" if facts["stored"] is None else f", {_bytes(facts['stored'])} stored"
    rows = "" if facts["rows"] is None else f"{facts['rows']:,} rows, "
    _heading(console, f"{facts['store']}: {rows}{_bytes(facts['nbytes'])}{size}")
    ingested = facts["ingested"]
    if ingested is not None:
        order = f"shuffled with seed {ingested['random_seed']}" if ingested["shuffled"] else "not shuffled"
        dropped = ingested["dropped_rows"]
        less = f", {dropped:,} row{'s' if dropped > 1 else ''} dropped" if dropped else ""
        _heading(console, f"ingested by dvi {ingested['dvi_version']}, {order}{less}")
    table = Table(box=None)
    for column in ("array", "shape", "dtype", "chunk", "chunks", "bytes"):
        table.add_column(column, justify="left" if column in ("array", "dtype") else "right", no_wrap=True)
    for array in facts["arrays"]:
        table.add_row(
            Text(array["name"]), _shape(array["shape"]), array["dtype"], _shape(array["chunk"]),
            f"{array['chunks']:,}", _bytes(array["nbytes"]),
        )  # fmt: skip
    console.print(table)


def _print_approximation(facts: dict[str, Any]) -> None:
    console = _console()
    _heading(console, f"{facts['store']}: {facts['family']} approximation of {facts['dimensions']:,} dimensions")
    if facts["steps"]:
        _heading(console, f"method {facts['method']}, seed {facts['seed']}, {facts['steps']:,} steps")
        last, first = facts["elbo"], facts["first_elbo"]
        _heading(console, f"ELBO {last:,.7g} (mean of the last twentieth of the steps), {first:,.7g} at the first")
    if facts["findings"] is not None:
        _heading(console, f"diagnosis: {', '.join(facts['findings']) or 'ok'}")
    table = Table(box=None)
    for column in ("variable", "shape", "dimensions"):
        table.add_column(column, no_wrap=True)
    for variable in facts["variables"]:
        table.add_row(Text(variable["name"]), _shape(variable["shape"]), Text(", ".join(variable["dimensions"])))
    console.print(table)


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)


def _heading(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _shape(shape: Sequence[int]) -> str:
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
