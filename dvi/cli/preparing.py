"""``dvi ingest``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dvi.cli.application import Settings, app, is_url, opener, options_of, reporting
from dvi.cli.inspecting import AsJson, array_facts, print_arrays
from dvi.errors import ArgumentError


@app.command()
@reporting
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
    as_json: AsJson = False,
    storage_option: Settings = None,
) -> None:
    """Write data as a shuffled, chunked Zarr group, the store that dvi reads fastest."""
    opened = opener(storage_option, source, store)
    packed = dict(_parse_pack(text) for text in pack or [])

    import dvi

    ds = dvi.ingest(
        source,
        opened(store),
        columns=None if columns is None else columns.split(","),
        pack=packed or None,
        dropna=dropna,
        chunk_bytes=chunk_bytes,
        shuffle=shuffle,
        random_seed=seed,
        overwrite=overwrite,
        source_options=options_of(storage_option) if is_url(source) else None,
    )
    typer.echo(json.dumps(array_facts(store, ds))) if as_json else print_arrays(store, ds)


def _parse_pack(text: str) -> tuple[str, list[str]]:
    """Name and columns of ``name=a,b,c``."""
    name, equals, columns = text.partition("=")
    if not (name and equals and all(columns.split(","))):
        raise ArgumentError(f"--pack {text} is not allowed; give a name and columns, such as --pack x=distance,hour")
    return name, columns.split(",")
