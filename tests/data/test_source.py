"""Alignment of arrays, their row grid, and the checks made while reading."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dvi.data.chunks import lengths_of, regular_chunks, rows_per_chunk, runs_of
from dvi.data.readers import DeliveredReader, reader
from dvi.data.source import Source, check_finite, merge_small, row_grid
from dvi.errors import ArgumentError, DataError, DviWarning, NonFiniteError
from dvi.types import AnyArray

MB = 2**20
chunkings = st.lists(st.integers(1, 50), min_size=1, max_size=30)


@dataclass(frozen=True)
class Stored:
    """An array of bytes in a store that need not exist, with ``width`` bytes a row."""

    chunk_rows: tuple[int, ...]
    width: int
    label: str = "nowhere"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("u1")

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(self.chunk_rows), self.width)

    def read(self, start: int, stop: int) -> AnyArray:
        return np.zeros((stop - start, self.width), "u1")


def lengths(*arrays: Any) -> list[int]:
    return np.diff(row_grid(arrays)).tolist()


class TestGrid:
    def test_arrays_in_memory_are_cut_in_64_or_in_4_mb_together(self) -> None:
        x, y = reader(np.zeros((16 * MB, 1), "u1")), reader(np.zeros(16 * MB, "u1"))
        assert lengths(x, y) == [MB // 4] * 64
        assert lengths(y) == [MB // 4] * 64
        assert lengths(reader(np.zeros(MB // 8, "u1"))) == [MB // 16] * 2
        assert lengths(reader(np.broadcast_to(np.zeros((), "u1"), (320, MB)))) == [4] * 80

    def test_the_coarsest_chunking_within_64_mb_wins(self) -> None:
        fine, coarse = Stored(regular_chunks(100, 10), MB), Stored(regular_chunks(100, 30), MB)
        assert lengths(fine, coarse) == [30, 30, 30, 10]
        assert lengths(coarse, fine) == [30, 30, 30, 10]

    def test_a_chunking_beyond_64_mb_in_all_is_not_taken(self) -> None:
        fine, coarse = Stored(regular_chunks(100, 10), MB), Stored(regular_chunks(100, 33), MB)
        assert lengths(fine, coarse) == [10] * 10

    def test_if_all_are_too_coarse_the_widest_array_is_not_cut(self) -> None:
        wide, narrow = Stored(regular_chunks(100, 50), 10 * MB), Stored(regular_chunks(100, 40), MB)
        assert lengths(narrow, wide) == [50, 50]

    def test_arrays_in_memory_have_no_say_beside_stored_ones(self) -> None:
        assert lengths(reader(np.zeros((100, MB), "u1")), Stored(regular_chunks(100, 25), 8)) == [25] * 4

    def test_small_chunks_are_merged(self) -> None:
        assert lengths(Stored((1,) * 6400, MB // 16)) == [64] * 100
        assert lengths(Stored((1,) * 100, MB // 16)) == [1] * 100
        assert lengths(Stored((1,) * 10, MB)) == [1] * 10
        assert merge_small([8, 1, 8, 1, 1, 8, 16, 20], MB // 8, 4 * MB) == [9, 10, 8, 16, 20]

    @given(chunkings, st.sampled_from([1, MB // 64, MB // 9, MB // 2, MB, 5 * MB]))
    def test_merged_chunks_end_where_chunks_end(self, rows: list[int], width: int) -> None:
        merged = merge_small(rows, width, 4 * MB)
        assert set(np.cumsum(merged)) <= set(np.cumsum(rows)) and sum(merged) == sum(rows)
        assert max(merged) * width <= max(4 * MB, max(rows) * width)
        for left, right in pairwise(merged):
            assert min(left, right) * width >= MB or (left + right) * width > 4 * MB

    @given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 3 * MB)), min_size=1, max_size=4))
    def test_a_grid_never_cuts_every_array(self, settings: list[tuple[int, int]]) -> None:
        arrays = [Stored(regular_chunks(60, rows), width) for rows, width in settings]
        starts = row_grid(arrays)
        assert starts[0] == 0 and starts[-1] == 60 and (np.diff(starts) > 0).all()
        assert any(set(starts) <= {0, *np.cumsum(array.chunk_rows)} for array in arrays)

    def test_a_chunk_that_is_decoded_again_and_again_is_told(self) -> None:
        fine, whole = Stored(regular_chunks(1000, 10), MB), Stored((1000,), 8)
        with pytest.warns(DviWarning, match=r"'y' \(nowhere\) will be decoded about 100 times .* dvi.ingest"):
            Source.align([fine, whole], ["x", "y"])

    def test_a_chunk_that_hardly_fits_in_memory_is_told(self) -> None:
        with pytest.warns(DviWarning, match=r"takes 1.05 GB in memory.* with dvi.ingest"):
            Source.align([Stored((1000,), MB)])

    @given(chunkings)
    def test_runs_give_chunk_lengths_back(self, rows: list[int]) -> None:
        assert lengths_of(runs_of(rows)) == tuple(rows)

    def test_at_least_one_row_a_chunk(self) -> None:
        assert rows_per_chunk(10 * MB) == 1
        assert rows_per_chunk(8) == MB // 2


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Three arrays with chunks of their own: Zarr, ragged Dask in memory, xarray rows of a Zarr store."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70_000, 8))
    zarr.create_array(folder / "x.zarr", data=x, chunks=(17_000, 8))
    xr.Dataset({"g": ("row", np.arange(80_000))}).chunk(row=9000).to_zarr(folder / "d.zarr")
    ragged = da.from_array(x[:, 0], chunks=((1, 69_998, 1),)) * 2
    g = xr.open_zarr(folder / "d.zarr", chunks=None)["g"][10_000:]
    return Source.align([reader(folder / "x.zarr"), reader(ragged), reader(g)], ["x", "y", "g"])


class TestSource:
    def test_reads_aligned_rows(self, source: Source) -> None:
        assert source.starts.tolist() == [0, 17_000, 34_000, 51_000, 68_000, 70_000]
        slabs = [source.read(chunk) for chunk in range(source.n_chunks)]
        x, y, g = (np.concatenate(parts) for parts in zip(*slabs, strict=True))
        np.testing.assert_array_equal(x, source.readers[0].read(0, 70_000))
        np.testing.assert_array_equal(y, x[:, 0] * 2)
        np.testing.assert_array_equal(g, np.arange(10_000, 80_000))

    def test_reads_from_many_threads(self, source: Source) -> None:
        with ThreadPoolExecutor(8) as threads:
            slabs = list(threads.map(source.read, [*range(4)] * 4))
        for chunk, (x, y, g) in zip([*range(4)] * 4, slabs, strict=True):
            np.testing.assert_array_equal(y, x[:, 0] * 2)
            assert g[0] == source.starts[chunk] + 10_000

    def test_sizes(self, source: Source) -> None:
        assert source.n_rows == 70_000
        assert source.row_nbytes == 10 * 8
        assert source.chunk_nbytes == 17_000 * 80
        assert source.in_memory == ("y",)

    def test_head(self, source: Source) -> None:
        x, y, g = source.head(3)
        assert (x.shape, y.shape, g.tolist()) == ((3, 8), (3,), [10_000, 10_001, 10_002])
        assert len(source.head(1_000_000)[1]) == 70_000

    def test_is_described(self, source: Source) -> None:
        assert "70,000 rows in 5 chunks of at most 1.36 MB, 5.6 MB in all" in repr(source)
        assert "y  float64 (70,000)  memory (computed from Dask" in repr(source)
        page = Source.align([reader(np.ones(3))], ["<x>"])._repr_html_()
        assert "<td>&lt;x&gt;</td><td>float64</td><td>(3)</td><td>memory</td>" in page

    def test_fingerprint_tells_sources_apart_and_is_json(self, source: Source) -> None:
        found = source.fingerprint()
        assert json.loads(json.dumps(found)) == found == pickle.loads(pickle.dumps(source)).fingerprint()
        x, y, _ = found["arrays"]
        assert (x["name"], x["shape"], x["dtype"]) == ("x", [70_000, 8], "float64")
        assert {k: y["chunks"][k] for k in ("count", "first", "last")} == {"count": 3, "first": 1, "last": 1}
        other = Source(source.names, source.readers, np.array([0, 70_000]))
        assert other.fingerprint() != found

    def test_a_chunk_that_does_not_exist(self, source: Source) -> None:
        for chunk in (-1, 5):
            with pytest.raises(ArgumentError, match=f"Chunk {chunk} does not exist: there are 5"):
                source.read(chunk)


class TestTravel:
    @pytest.mark.parametrize("n_rows", [10, 3_000_000])
    def test_a_pickle_holds_no_data(self, n_rows: int) -> None:
        source = Source.align([reader(np.zeros((n_rows, 2))), reader(np.zeros(n_rows))])
        source.read(0)
        assert len(cloudpickle.dumps(source)) < 1000

    def test_a_pickle_holds_no_chunk_lists(self) -> None:
        source = Source(("x",), (Stored((1,) * 10, 3),), np.arange(11))
        many = Source(("x",), (reader(np.zeros(500_000)),), np.arange(500_001))
        assert len(cloudpickle.dumps(source)) < 100_000 and len(cloudpickle.dumps(many)) < 1000

    def test_what_is_stored_is_read_where_the_pickle_goes(self, source: Source) -> None:
        again = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(again.starts, source.starts)
        assert again.names == source.names and repr(again) == repr(source)
        np.testing.assert_array_equal(again.readers[2].read(5, 9), source.readers[2].read(5, 9))
        with pytest.raises(DataError, match="were not delivered to this worker"):
            again.read(0)

    def test_pieces_make_up_for_what_is_in_memory(self, source: Source) -> None:
        far = pickle.loads(pickle.dumps(source)).with_pieces({1: source.pieces(1)})
        far = far.with_pieces({2: source.pieces(2)})
        for chunk in (1, 2):
            for there, here in zip(far.read(chunk), source.read(chunk), strict=True):
                np.testing.assert_array_equal(there, here)
        assert list(source.pieces(1)) == ["y"]
        y = far.readers[1]
        np.testing.assert_array_equal(y.read(20_000, 40_000), source.readers[1].read(20_000, 40_000))
        for start, stop in ((16_999, 17_001), (50_000, 51_001), (0, 1), (60_000, 60_001)):
            with pytest.raises(DataError, match=f"Rows {start} to {stop} .* were not delivered"):
                y.read(start, stop)
        with pytest.raises(DataError, match="not delivered"):
            pickle.loads(pickle.dumps(far)).read(1)

    def test_a_piece_of_something_else_is_refused(self, source: Source) -> None:
        meta = pickle.loads(pickle.dumps(source.readers[1]))
        for piece in (np.ones((3, 2)), np.ones(3, "f4")):
            with pytest.raises(DataError, match="were announced"):
                DeliveredReader(meta, {0: piece})
        with pytest.raises(ArgumentError, match="Rows 69999 to 70002"):
            DeliveredReader(meta, {69_999: np.ones(3)})

    def test_copies_keep_the_data(self, source: Source) -> None:
        assert copy.deepcopy(source) is source and copy.copy(source) is source
        assert all(copy.deepcopy(r).read(0, 1).shape for r in source.readers)


class TestRefuses:
    def test_arrays_of_other_lengths(self) -> None:
        with pytest.raises(DataError, match=r"'x' \(memory\) has 3, 'y' \(memory\) has 4. Row i of each"):
            Source.align([reader(np.ones(3)), reader(np.ones(4))], ["x", "y"])

    @pytest.mark.parametrize("names", [["x"], ["x", "x"], ["x", "y", "z"]])
    def test_names_that_do_not_fit(self, names: list[str]) -> None:
        with pytest.raises(ArgumentError, match="2 arrays need as many distinct names"):
            Source.align([reader(np.ones(3)), reader(np.ones(3))], names)

    def test_no_arrays(self) -> None:
        with pytest.raises(ArgumentError, match="at least one array"):
            Source.align([])

    @pytest.mark.parametrize("starts", [[0], [0, 2], [1, 3], [0, 2, 2, 3], [0, 4, 3]])
    def test_grids_that_do_not_fit(self, starts: list[int]) -> None:
        with pytest.raises(ArgumentError, match="starts must increase from 0 to 3 rows"):
            Source(("x",), (reader(np.ones(3)),), np.array(starts))


class TestFinite:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
    def test_names_array_chunk_row_and_value(self, tmp_path: Path, bad: float, dtype: str) -> None:
        x = np.ones((100, 3), dtype)
        x[57, 2] = x[58, 0] = x[98, 0] = bad
        zarr.create_array(tmp_path, data=x, chunks=(50, 3))
        source = Source(("y", "x"), (reader(np.ones(100)), reader(tmp_path)), np.array([0, 50, 100]))
        source.read(0)
        with pytest.raises(NonFiniteError, match=rf"'x' \(file:.*\), chunk 1, has {bad} at row 57, column 2: only"):
            source.read(1)

    def test_vectors_and_tensors(self) -> None:
        with pytest.raises(NonFiniteError, match="x, has nan at row 11: "):
            check_finite(np.array([1, np.nan]), "x", first_row=10)
        with pytest.raises(NonFiniteError, match=r"x, has nan at row 10, column \(1, 0\): "):
            check_finite(np.array([[[1.0, 2.0], [np.nan, 3.0]]]), "x", first_row=10)

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
    def test_a_sum_that_overflows_is_no_infinity(self, dtype: str) -> None:
        check_finite(np.full(70_000, np.finfo(dtype).max, dtype), "x", first_row=0)

    def test_infinities_that_cancel_are_seen(self) -> None:
        with pytest.raises(NonFiniteError, match="has inf at row 1"):
            check_finite(np.array([0, np.inf, -np.inf]), "x", first_row=0)

    @pytest.mark.parametrize("dtype", ["i8", "u1", "?"])
    def test_other_dtypes_need_no_check(self, dtype: str) -> None:
        check_finite(np.ones(3, dtype), "x", first_row=0)

    def test_a_chunk_is_checked_once_in_a_process(self) -> None:
        x = np.ones(3)
        source = Source.align([reader(x)])
        source.read(0)
        x[1] = np.nan
        source.read(0)
        with pytest.raises(NonFiniteError):
            Source.align([reader(x)]).read(0)
