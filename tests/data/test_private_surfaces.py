"""What dvi assumes about private surfaces of Zarr, xarray and Dask, one test an assumption.

A failure here after an upgrade says which function of ``dvi.data.unwrap`` to look at. Readers fall back to slower
public ways where they can.
"""

import pickle
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.codec_pipeline import BatchedCodecPipeline, FusedCodecPipeline
from zarr.errors import ChunkNotFoundError
from zarr.storage import FsspecStore, LocalStore, ZipStore

from dvi.data import unwrap, zarr_arrays

X = np.arange(300.0).reshape(100, 3)


def stored(path: Any, **settings: Any) -> zarr.Array[Any]:
    array = zarr.create_array(path, **{"shape": X.shape, "dtype": X.dtype, "chunks": (30, 2), **settings})
    array[...] = X
    return array


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("surfaces") / "data.zarr"
    encoding = {"z": {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}}
    data = xr.Dataset({"x": (("row", "column"), X), "z": (("row", "column"), X)})
    data.chunk(row=30).to_zarr(path, encoding=encoding)
    return path


class TestZarr:
    def test_with_config_builds_the_pipeline_that_the_configuration_names(self, tmp_path: Path) -> None:
        array = stored(tmp_path)
        assert isinstance(array.async_array.codec_pipeline, BatchedCodecPipeline)
        assert isinstance(zarr_arrays.strict(array).async_array.codec_pipeline, FusedCodecPipeline)
        assert zarr.config.get("codec_pipeline.path") == zarr_arrays.DEFAULT_PIPELINE

    def test_a_pickled_array_keeps_its_pipeline_and_its_strictness(self, tmp_path: Path) -> None:
        array = pickle.loads(pickle.dumps(zarr_arrays.strict(stored(tmp_path))))
        assert isinstance(array.async_array.codec_pipeline, FusedCodecPipeline)
        assert not array.config.read_missing_chunks

    def test_a_pipeline_that_the_user_chose_is_kept(self, tmp_path: Path) -> None:
        with (
            zarr.config.set({"codec_pipeline.path": "dvi_test.ChosenPipeline"}),
            pytest.raises(Exception, match="Chosen"),
        ):
            zarr_arrays.strict(stored(tmp_path))

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"compressors": [BloscCodec(cname="lz4"), Crc32cCodec()]},
            {"compressors": None},
            {"chunks": (10, 3), "shards": (50, 3)},
            {"zarr_format": 2},
            {"zarr_format": 2, "order": "F"},
            {"dtype": ">f4"},
        ],
        ids=str,
    )
    def test_rows_are_read_in_the_calling_thread(self, tmp_path: Path, settings: dict[str, Any]) -> None:
        array = zarr_arrays.strict(stored(tmp_path, **settings))
        slab = zarr_arrays._synchronous_read(array, 7, 95)
        assert slab is not None
        np.testing.assert_array_equal(slab, array[7:95])
        for start, stop in (30, 60), (60, 90), (90, 100), (30, 50), (99, 100):  # whole chunks, the last, and parts
            part = zarr_arrays._synchronous_read(array, start, stop)
            assert part is not None
            np.testing.assert_array_equal(part, array[start:stop])

    def test_other_stores_and_pipelines_are_read_the_public_way(self, tmp_path: Path) -> None:
        zipped = ZipStore(tmp_path / "x.zip", mode="w")
        array = stored(zipped)
        for other in (zarr_arrays.strict(array), stored(tmp_path / "x")):
            assert zarr_arrays._synchronous_read(other, 0, 100) is None
            np.testing.assert_array_equal(zarr_arrays.read_rows(other, 3, 50), X[3:50])

    def test_a_changed_signature_falls_back_to_the_public_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        array = zarr_arrays.strict(stored(tmp_path))
        monkeypatch.setattr(zarr_arrays, "_max_workers", lambda: None)  # read_sync cannot compare it with 1
        np.testing.assert_array_equal(zarr_arrays.read_rows(array, 3, 50), X[3:50])

    def test_a_missing_chunk_is_an_error_when_strict_and_the_fill_value_otherwise(self, tmp_path: Path) -> None:
        array = stored(tmp_path, fill_value=9)
        (tmp_path / "c" / "1" / "0").unlink()
        assert zarr_arrays.missing_chunks(array) == ["c/1/0"]
        with pytest.raises(ChunkNotFoundError, match="c/1/0"):
            zarr_arrays.read_rows(zarr_arrays.strict(array), 0, 100)
        np.testing.assert_array_equal(zarr_arrays.read_rows(zarr_arrays.filling(array), 30, 60)[:, :2], 9)
        np.testing.assert_array_equal(zarr_arrays.read_rows(zarr_arrays.strict(array), 60, 100), X[60:])

    @pytest.mark.parametrize(
        ("settings", "missing"),
        [
            ({}, ["c/0/0", "c/0/1"]),
            ({"chunk_key_encoding": {"name": "v2", "separator": "/"}}, ["0/0", "0/1"]),
            ({"zarr_format": 2}, ["0.0", "0.1"]),
            ({"chunks": (5, 3), "shards": (30, 3)}, ["c/0/0"]),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("local", [True, False])
    def test_keys_of_chunks_are_those_that_a_listing_gives(
        self, tmp_path: Path, settings: dict[str, Any], missing: list[str], local: bool
    ) -> None:
        group = zarr.create_group(tmp_path if local else {}, zarr_format=settings.get("zarr_format", 3))
        settings = {key: value for key, value in settings.items() if key != "zarr_format"}
        options: dict[str, Any] = {"shape": X.shape, "dtype": X.dtype, "chunks": (30, 2), **settings}
        array, neighbour = (group.create_array(name, **options) for name in ("x", "x2"))
        neighbour[:] = X
        array[30:] = X[30:]
        assert zarr_arrays.missing_chunks(array) == missing
        assert zarr_arrays.missing_chunks(neighbour) == []

    def test_a_listing_without_the_metadata_says_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def nothing(*args: object) -> Any:
            for _ in ():
                yield ""

        array = stored(tmp_path)
        monkeypatch.setattr(LocalStore, "list_prefix", nothing)
        assert zarr_arrays.missing_chunks(array) == []

    def test_local_files_are_found_from_any_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        array = stored("x.zarr")
        through_fsspec = zarr.open_array(FsspecStore.from_url(f"file://{tmp_path}/x.zarr"), mode="r")
        for opened in (zarr_arrays.strict(array), zarr_arrays.strict(through_fsspec)):
            assert isinstance(opened.store, LocalStore)
            assert opened.store.root == tmp_path / "x.zarr"
            assert zarr_arrays.is_visible(opened)


class TestXarray:
    @pytest.fixture
    def data(self, dataset: Path) -> xr.Dataset:
        return xr.open_zarr(dataset, chunks=None)

    def test_an_untouched_variable_is_its_stored_array(self, data: xr.Dataset) -> None:
        lazy = unwrap.lazy_array(data["x"].variable)
        assert lazy is not None and lazy.is_identity and lazy.is_slice
        assert lazy.stored is not None and lazy.stored.path.endswith("x")

    @pytest.mark.parametrize(
        ("rows", "is_slice", "chunks"),
        [
            (slice(40, 95), True, (20, 30, 5)),
            (slice(0, 60), True, (30, 30)),
            (slice(None, None, 2), False, None),
            (np.array([3, 1, 2]), False, None),
        ],
        ids=str,
    )
    def test_some_rows_are_told_from_all(
        self, data: xr.Dataset, rows: Any, is_slice: bool, chunks: tuple[int, ...] | None
    ) -> None:
        lazy = unwrap.lazy_array(data["x"][rows].variable)
        assert lazy is not None and not lazy.is_identity
        assert lazy.is_slice is is_slice
        assert lazy.chunk_rows == chunks
        np.testing.assert_array_equal(lazy.variable.values, X[rows])

    @pytest.mark.parametrize("columns", [slice(1, None), slice(None, None, -1), [0]])
    def test_some_columns_are_told_from_all(self, data: xr.Dataset, columns: Any) -> None:
        lazy = unwrap.lazy_array(data["x"][:, columns].variable)
        assert lazy is not None and not lazy.is_identity and lazy.is_slice

    def test_decoded_and_transposed_variables_are_not_their_stored_array(self, data: xr.Dataset) -> None:
        decoded, transposed = unwrap.lazy_array(data["z"].variable), unwrap.lazy_array(data["x"].T.variable)
        assert decoded is not None and not decoded.is_identity and decoded.is_slice
        assert transposed is not None and not transposed.is_identity and not transposed.is_slice

    def test_rebuilt_variables_read_strictly(self, data: xr.Dataset) -> None:
        lazy = unwrap.lazy_array(data["z"].variable)
        assert lazy is not None
        for variable, may_fill in ((lazy.variable, False), (lazy.filling, True)):
            *_, backend = unwrap._chain(variable._data)
            assert backend.get_array().config.read_missing_chunks is may_fill
            np.testing.assert_array_equal(variable[3:50].values, (X[3:50] / 0.5).round() * 0.5)

    def test_values_in_memory_are_told(self, data: xr.Dataset) -> None:
        assert unwrap.lazy_array(data["x"].load().variable) is None
        assert unwrap.lazy_array(xr.Variable(["row"], np.ones(3))) is None

    def test_values_that_xarray_keeps_are_not_pickled(self, data: xr.Dataset) -> None:
        before = unwrap.lazy_array(data["z"].variable)
        data["z"].values  # noqa: B018
        assert before is not None and len(pickle.dumps(before.variable)) < 3000

    def test_preferred_chunks_of_other_backends(self) -> None:
        variable = xr.Variable(["row"], np.ones(10))
        variable.encoding["preferred_chunks"] = {"row": 4}
        assert unwrap._stored_rows(variable, None, 10, range(10)) == (4, 4, 2)
        assert unwrap._stored_rows(variable, None, 10, range(3, 9)) == (1, 4, 1)
        variable.encoding["preferred_chunks"] = {"row": "auto"}
        assert unwrap._stored_rows(variable, None, 10, range(10)) is None


class TestDask:
    def test_untouched_arrays_are_their_stored_array(self, tmp_path: Path, dataset: Path) -> None:
        array = stored(tmp_path / "x.zarr")
        for untouched in (
            da.from_zarr(array),
            da.from_zarr(str(tmp_path / "x.zarr")),
            da.from_array(array, chunks=(7, 3)),
            da.from_array(array, inline_array=True),
            da.from_array(array, lock=True, asarray=False),
            xr.open_zarr(dataset)["x"].data,
            xr.open_dataset(dataset, engine="zarr", chunks={}, inline_array=True)["x"].data,
            xr.open_zarr(dataset, chunks=None)["x"].chunk(row=7).data,
        ):
            behind = unwrap.behind_dask(untouched)
            found = behind.stored if isinstance(behind, unwrap.LazyArray) and behind.is_identity else behind
            assert isinstance(found, zarr.Array)
            assert found.store_path == array.store_path or found.shape == X.shape

    def test_a_part_or_a_decoding_under_dask_is_told(self, dataset: Path) -> None:
        for part, chunks in (
            (xr.open_zarr(dataset)["z"], (30, 30, 30, 10)),
            (xr.open_zarr(dataset, chunks=None)["x"][40:].chunk(row=7), (20, 30, 10)),
        ):
            behind = unwrap.behind_dask(part.data)
            assert isinstance(behind, unwrap.LazyArray) and not behind.is_identity
            assert behind.chunk_rows == chunks
            np.testing.assert_array_equal(behind.variable.values, part.values)

    def test_touched_arrays_are_not(self, tmp_path: Path) -> None:
        array = da.from_zarr(stored(tmp_path))
        for touched in (
            array + 1,
            array[3:],
            array[::-1],
            array[:, :2],
            array.T,
            array.astype("f4"),
            array.rechunk((50, 3)),
            array.map_blocks(np.negative),
            dask.optimize(array)[0],
            dask.optimize(array + 1)[0],
            array.persist(),
            da.concatenate([array, array]),
            da.ones((100, 3), chunks=30),
            da.from_array(X),
            da.random.default_rng(0).normal(size=(100, 3)),
        ):
            assert unwrap.behind_dask(touched) is None

    def test_a_custom_getitem_is_not_the_stored_array(self, tmp_path: Path) -> None:
        def doubled(array: Any, key: Any, **_: Any) -> Any:
            return np.asarray(array[key]) * 2

        assert unwrap.behind_dask(da.from_array(stored(tmp_path), getitem=doubled)) is None
