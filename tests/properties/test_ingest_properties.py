from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dvi.data.arrays import array_rows, steps
from dvi.data.ingest import ingest
from dvi.data.ingest_plan import pieces, plan_ingest, select, slabs
from dvi.data.schema import scan
from dvi.data.shuffle import permutation


@settings(max_examples=15)
@given(
    n_rows=st.integers(1, 300),
    width=st.integers(1, 4),
    chunk_bytes=st.integers(1, 3000),
    memory_bytes=st.integers(2000, 50_000),
    seed=st.none() | st.integers(0, 2**70),
)
def test_every_row_is_written_once_in_the_order_of_the_seed(n_rows, width, chunk_bytes, memory_bytes, seed) -> None:
    x = np.arange(n_rows * width, dtype="f4").reshape(n_rows, width)
    with tempfile.TemporaryDirectory() as folder:
        ds = ingest(
            {"x": x, "row_number": np.arange(n_rows)},
            Path(folder) / "store.zarr",
            chunk_bytes=max(chunk_bytes, 40),
            memory_bytes=memory_bytes,
            shuffle=seed is not None,
            random_seed=seed or 0,
            progressbar=False,
        ).load()
    order = np.arange(n_rows) if seed is None else permutation(seed, n_rows)
    assert np.array_equal(ds["row_number"], order)
    assert np.array_equal(ds["x"], x[order])


@given(lengths=st.lists(st.integers(0, 20)), rows=st.integers(1, 15))
def test_slabs_and_pieces_keep_all_rows_in_order(lengths, rows) -> None:
    edges = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    batches = [np.arange(a, b) for a, b in itertools.pairwise(edges)]
    cut = list(slabs(batches, rows))
    assert all(len(slab) == rows for slab in cut[:-1])
    assert np.array_equal(np.concatenate([*cut, []]), np.arange(edges[-1]))
    small = [batch["a"] for batch in pieces([{"a": batch} for batch in batches], rows)]
    assert all(0 < len(piece) <= rows for piece in small)
    assert np.array_equal(np.concatenate([*small, []]), np.arange(edges[-1]))


@given(
    n_rows=st.integers(1, 10**6),
    widths=st.lists(st.integers(1, 1000), min_size=1, max_size=5),
    chunk_bytes=st.integers(1, 10**8),
    memory_bytes=st.integers(10**8, 10**10),
)
def test_what_is_planned_fits_in_memory(n_rows, widths, chunk_bytes, memory_bytes) -> None:
    arrays = {str(i): np.broadcast_to(np.float64(0), (n_rows, width)) for i, width in enumerate(widths)}
    rows = array_rows(arrays, "test", fingerprint="")
    selection = select(rows.names, None, None, False)
    plan = plan_ingest(
        scan(rows, rows.names, 1),
        selection,
        rows.layout,
        rows.row_dim,
        chunk_bytes=chunk_bytes,
        memory_bytes=memory_bytes,
    )
    row_nbytes = plan.record.itemsize
    assert 1 <= plan.chunk_rows <= n_rows
    assert plan.slab_rows % plan.chunk_rows == 0
    assert plan.chunk_rows == 1 or plan.chunk_rows * max(widths) * 8 <= chunk_bytes
    assert plan.slab_rows * row_nbytes <= memory_bytes / 8
    assert plan.batch_rows * row_nbytes <= memory_bytes / 8
    assert n_rows * row_nbytes / plan.n_buckets <= memory_bytes / 8


@given(n_rows=st.integers(1, 500), nbytes=st.integers(1, 10_000), chunks=st.none() | st.integers(1, 100))
def test_steps_cover_all_rows_once(n_rows, nbytes, chunks) -> None:
    dataset = array_rows({"x": np.zeros((n_rows, 3))}, "test", fingerprint="").dataset
    if chunks is not None:
        dataset = dataset.chunk(row=chunks)
    edges = list(steps(dataset, "row", nbytes))
    assert edges[0][0] == 0
    assert edges[-1][1] == n_rows
    assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
