"""Streaming from Zarr into the Gaussian kernel: against what the machine can do, and against other ways to get batches.

``DVI_BENCH_ROWS`` sets the rows, of 100 columns each: 5,000,000 by default, which is 4 GB.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytest
import zarr
from zarr.codecs import BloscCodec

import dvi
from dvi.data.plan import default_block_rows
from dvi.data.readers import reader
from dvi.model.compile import Piece, compile_kernel
from dvi.model.graph import split
from dvi.types import Slab, Span
from tests.benchmarks.measuring import Measurement, faster, in_turn, seconds

Report = Callable[[Measurement], None]
ROWS = int(os.environ.get("DVI_BENCH_ROWS", "5000000"))
COLUMNS, CHUNK_ROWS, BATCH, THREADS = 100, 5000, 5000, 2
PART_ROWS = 16 * CHUNK_ROWS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> zarr.Array[Any]:
    path = tmp_path_factory.mktemp("streaming") / "x.zarr"
    codec = BloscCodec(cname="lz4", clevel=1, shuffle="shuffle")
    array = zarr.create_array(
        path, shape=(ROWS, COLUMNS), chunks=(CHUNK_ROWS, COLUMNS), dtype="float64", compressors=[codec]
    )
    rng = np.random.default_rng(0)
    for start in range(0, ROWS, CHUNK_ROWS):
        rows = min(CHUNK_ROWS, ROWS - start)
        array[start : start + rows] = rng.normal(size=(rows, COLUMNS)).round(2)
    return zarr.open_array(path, mode="r")


def model(batch: Any, total: Any) -> pm.Model:
    with pm.Model() as made:
        mu, sd = pm.Normal("mu", 0, 10, shape=COLUMNS), pm.HalfNormal("sd", 1, shape=COLUMNS)
        pm.Normal("x", mu, sd, observed=batch, total_size=total)
    return made


def rows_a_second(inference: Any, n_rows: int, epochs: int, before: int = 0, **settings: Any) -> float:
    """Over whole epochs after some others, without what a fit costs besides. Each run is the quicker of two."""
    steps = n_rows // BATCH
    run = {"obj_n_mc": 1, "obj_optimizer": dvi.adam(1e-3), "progressbar": False, "threads": THREADS, **settings}
    lengths = (1 + before * steps, 1 + (before + epochs) * steps)
    short, long = (min(seconds(lambda: inference.fit(n, **run)) for _ in range(2)) for n in lengths)  # noqa: B023
    return epochs * n_rows / (long - short)


def cpu_seconds_a_row(store: zarr.Array[Any], decode: Callable[[], object]) -> float:
    """Decoding, permuting and the kernel, each alone, over the same few chunks.

    Parameters
    ----------
    decode : callable
        Decodes the first ``PART_ROWS`` rows.
    """
    term = split(model(dvi.Minibatch(store, batch_size=BATCH), (ROWS, COLUMNS))).terms[0]
    kernel = compile_kernel(term.program, (np.zeros((2, COLUMNS)),))
    Z, sums, size = np.zeros((1, 2 * COLUMNS)), np.zeros((1, 1, 1 + 2 * COLUMNS)), default_block_rows(8 * COLUMNS)
    slabs = [store[start : start + CHUNK_ROWS] for start in range(0, PART_ROWS, CHUNK_ROWS)]
    order = [np.random.default_rng(i).permutation(CHUNK_ROWS) for i in range(len(slabs))]
    out = np.empty_like(slabs[0])

    def permute() -> None:
        for slab, places in zip(slabs, order, strict=True):
            np.take(slab, places, axis=0, out=out, mode="clip")

    def evaluate() -> None:
        for slab in slabs:
            kernel.add(Z, sums, [Piece(0, Span(Slab.of([slab]), 0, CHUNK_ROWS))], size)

    total = 0.0
    for part in (decode, permute, evaluate):
        part()
        began = time.process_time()
        part()
        total += (time.process_time() - began) / PART_ROWS
    return total


def by_zarr(store: zarr.Array[Any]) -> Callable[[], object]:
    """Zarr's quickest pipeline, several chunks a read."""
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"}):
        fused = zarr.open_array(store.store, mode="r")

    def decode() -> None:
        with zarr.config.set({"codec_pipeline.max_workers": THREADS}):
            for start in range(0, PART_ROWS, 8 * CHUNK_ROWS):
                fused[start : start + 8 * CHUNK_ROWS]

    return decode


def by_dvi(store: zarr.Array[Any]) -> Callable[[], object]:
    """What a fit reads with, chunk by chunk, in one thread."""
    rows = reader(store)
    return lambda: [rows.read(start, start + CHUNK_ROWS) for start in range(0, PART_ROWS, CHUNK_ROWS)]


@pytest.mark.parametrize(("decoder", "by"), [("Zarr's", by_zarr), ("dvi's", by_dvi)], ids=["zarr", "dvi"])
def bench_limit(report: Report, store: zarr.Array[Any], decoder: str, by: Any) -> None:
    """Rows a second of a fit that streams, and keeps nothing, against cores / (decode + permute + kernel).

    Memory is at hand on both sides: the parts are measured the second time, and the fit from its second epoch on.
    """
    inference = dvi.ADVI(random_seed=1, model=model(dvi.Minibatch(store, batch_size=BATCH), (ROWS, COLUMNS)))
    decode = by(store)
    pairs = in_turn(
        lambda: 1 / rows_a_second(inference, ROWS, 1, before=1, cache_bytes=0),
        lambda: cpu_seconds_a_row(store, decode) / THREADS,
    )
    work, peer = f"a row of {ROWS:,} x {COLUMNS} from Zarr", f"its parts alone, {decoder} decoder"
    report(faster(6, work, peer, pairs, 0.85, limit=1.0))


def bench_first_epoch(report: Report, store: zarr.Array[Any]) -> None:
    """Against pm.Minibatch of an array in memory, a part of the rows that fits."""
    inference = dvi.ADVI(random_seed=1, model=model(dvi.Minibatch(store, batch_size=BATCH), (ROWS, COLUMNS)))
    step = peer_step(store[: min(ROWS, 200_000)])
    pairs = in_turn(lambda: BATCH / rows_a_second(inference, ROWS, 1), lambda: seconds(lambda: repeat(step, 40)) / 40)
    report(faster(7, "a batch of 5000, first epoch from Zarr", "pm.fit from memory", pairs, 0.5))


def bench_kept(report: Report, store: zarr.Array[Any], tmp_path: Path) -> None:
    """Chunks that are kept decoded between epochs."""
    part = zarr.create_array(tmp_path / "part.zarr", shape=(200_000, COLUMNS), chunks=(CHUNK_ROWS, COLUMNS), dtype="f8")
    part[:] = store[:200_000]
    kept = zarr.open_array(tmp_path / "part.zarr", mode="r")
    inference = dvi.ADVI(random_seed=1, model=model(dvi.Minibatch(kept, batch_size=BATCH), kept.shape))
    step = peer_step(kept[:])
    pairs = in_turn(
        lambda: BATCH / rows_a_second(inference, 200_000, 40), lambda: seconds(lambda: repeat(step, 40)) / 40
    )
    report(faster(7, "a batch of 5000, chunks kept decoded", "pm.fit from memory", pairs, 2.0))


def peer_step(x: Any) -> Callable[[], object]:
    """What ``pm.fit`` calls in its loop."""
    with model(pm.Minibatch(x, batch_size=BATCH), ROWS):
        step = pm.ADVI(random_seed=1).objective.step_function(obj_optimizer=pm.adam(learning_rate=1e-3), score=True)
    step()
    return step  # type: ignore[no-any-return]


def repeat(step: Callable[[], object], n: int) -> None:
    for _ in range(n):
        step()


LOADERS = [("oindex", 1000.0, 20), ("xbatcher", 100.0, 20), ("torch", 1.0, 400)]


@pytest.mark.parametrize(("name", "target", "batches"), LOADERS)
def bench_loader(report: Report, store: zarr.Array[Any], name: str, target: float, batches: int) -> None:
    """A whole step of a fit against a batch from a loader alone, without any computation."""
    batch_of = {"oindex": by_oindex, "xbatcher": by_xbatcher, "torch": by_torch}[name]
    batches = min(batches, ROWS // BATCH)

    def theirs() -> float:
        loader = batch_of(store)
        next(loader)
        return seconds(lambda: [next(loader) for _ in range(batches - 1)]) / (batches - 1)

    inference = dvi.ADVI(random_seed=1, model=model(dvi.Minibatch(store, batch_size=BATCH), (ROWS, COLUMNS)))
    pairs = in_turn(lambda: BATCH / rows_a_second(inference, ROWS, 1), theirs, rounds=3 if target > 1 else 5)
    report(faster(7, "a step with a batch of 5000 from Zarr", f"{name}, the batch alone", pairs, target))


def by_oindex(store: zarr.Array[Any]) -> Iterator[Any]:
    """Random rows by orthogonal indexing."""
    rng = np.random.default_rng(0)
    while True:
        yield store.oindex[np.sort(rng.choice(ROWS, BATCH, replace=False))]


def by_xbatcher(store: zarr.Array[Any]) -> Iterator[Any]:
    """Batches of a Dask-backed dataset in random order of rows."""
    xbatcher = pytest.importorskip("xbatcher")
    import dask.array as da
    import xarray as xr

    shuffled = xr.Dataset({"x": (("row", "column"), da.from_array(store, chunks=(CHUNK_ROWS, COLUMNS)))})
    order = np.random.default_rng(0).permutation(ROWS)
    generator = xbatcher.BatchGenerator(shuffled.isel(row=order[: 40 * BATCH]), {"row": BATCH})
    for batch in generator:
        yield batch["x"].values


def by_torch(store: zarr.Array[Any]) -> Iterator[Any]:
    """Chunks in random order, their rows shuffled, by two loader threads of PyTorch's."""
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, Dataset

    class Chunks(Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return ROWS // CHUNK_ROWS

        def __getitem__(self, i: int) -> Any:
            rows = torch.from_numpy(store[i * CHUNK_ROWS : (i + 1) * CHUNK_ROWS])
            return rows[torch.randperm(len(rows))]

    yield from DataLoader(Chunks(), batch_size=None, shuffle=True, num_workers=THREADS)
