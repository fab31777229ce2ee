"""What an ingest writes, from every kind of source. Failures are in test_ingest_errors, restarts in _restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from dvi.data import ingest as driver
from dvi.data import zarr_arrays
from dvi.data.ingest import ingest
from dvi.data.readers import reader
from dvi.data.shuffle import permutation
from dvi.data.stored import ZarrReader
from dvi.errors import DviWarning

N = 1000
SMALL = {"memory_bytes": 50_000, "chunk_bytes": 2000, "progressbar": False}


def table(n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "a": rng.normal(size=n),
            "carrier": rng.choice(["UA", "AA", "WN"], n),
            "late": rng.integers(0, 2, n).astype(bool),
        }
    )


def arrays(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    return {name: frame[name].to_numpy("U2" if name == "carrier" else None) for name in frame}


def as_npy(frame: pd.DataFrame, folder: Path) -> list[Path]:
    for name, array in arrays(frame).items():
        np.save(folder / f"{name}.npy", array)
    return [folder / f"{name}.npy" for name in frame]


def as_npz(frame: pd.DataFrame, folder: Path, save: Callable[..., None]) -> Path:
    save(folder / "table.npz", **arrays(frame))
    return folder / "table.npz"


def as_csv(frame: pd.DataFrame, folder: Path, name: str = "table.csv", **options: Any) -> Path:
    frame.to_csv(folder / name, index=False, **options)
    return folder / name


def as_parts(frame: pd.DataFrame, folder: Path) -> str:
    for part, start in enumerate(range(0, N, 300)):
        frame[start : start + 300].to_parquet(folder / f"part-{part}.parquet", row_group_size=70)
    return str(folder / "part-*.parquet")


def as_zarr(frame: pd.DataFrame, folder: Path) -> str:
    xr.Dataset({k: ("row", v) for k, v in arrays(frame).items()}).to_zarr(folder / "source.zarr", zarr_format=3)
    return str(folder / "source.zarr")


def as_bare_zarr(frame: pd.DataFrame, folder: Path) -> zarr.Group:
    group = zarr.create_group(folder / "bare.zarr")
    for name, array in arrays(frame).items():
        group.create_array(name, data=array, chunks=(130,))
    return group


SOURCES: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "pandas": lambda frame, folder: frame,
    "pandas categorical": lambda frame, folder: frame.astype({"carrier": "category"}),
    "parquet files": as_parts,
    "parquet folder": lambda frame, folder: Path(as_parts(frame, folder)).parent,
    "csv": as_csv,
    "csv.gz": lambda frame, folder: as_csv(frame, folder, "table.csv.gz"),
    "tsv": lambda frame, folder: as_csv(frame, folder, "table.tsv", sep="\t"),
    "npy": as_npy,
    "npz": lambda frame, folder: as_npz(frame, folder, np.savez),
    "compressed npz": lambda frame, folder: as_npz(frame, folder, np.savez_compressed),
    "dict of numpy": lambda frame, folder: arrays(frame),
    "dict of dask": lambda frame, folder: {k: da.from_array(v, chunks=90) for k, v in arrays(frame).items()},
    "dask dataframe": lambda frame, folder: dd.from_pandas(frame, npartitions=4),
    "xarray": lambda frame, folder: xr.Dataset({k: ("row", v) for k, v in arrays(frame).items()}),
    "xarray with dask": lambda frame, folder: xr.Dataset({k: ("row", v) for k, v in arrays(frame).items()}).chunk(
        row=77
    ),
    "zarr path": as_zarr,
    "zarr, opened lazily": lambda frame, folder: xr.open_zarr(as_zarr(frame, folder), chunks=None),
    "zarr without dimension names": as_bare_zarr,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> xr.Dataset:
    return ingest(table(), tmp_path_factory.mktemp("expected") / "store.zarr", **SMALL).load()


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_the_same_store(kind, tmp_path, expected) -> None:
    source = SOURCES[kind](table(), tmp_path)
    ds = ingest(source, tmp_path / "store.zarr", **SMALL)
    xr.testing.assert_equal(ds, expected)
    assert {name: array.dtype for name, array in ds.items()} == {name: v.dtype for name, v in expected.items()}


def test_rows_are_in_the_order_of_the_permutation_and_stay_together(expected) -> None:
    frame = table().iloc[permutation(0, N)]
    assert np.array_equal(expected["id"], frame["id"])
    assert np.array_equal(expected["a"], frame["a"])
    assert np.array_equal(expected["late"], frame["late"])
    categories = np.array(expected["carrier"].attrs["categories"])
    assert np.array_equal(categories[expected["carrier"]], frame["carrier"])
    assert expected["carrier_categories"].values.tolist() == ["AA", "UA", "WN"]


@pytest.mark.parametrize("sizes", [{"memory_bytes": 9000, "chunk_bytes": 400}, {}])
def test_order_does_not_depend_on_memory_or_chunks(sizes, tmp_path, expected) -> None:
    xr.testing.assert_equal(ingest(table(), tmp_path / "s.zarr", progressbar=False, **sizes), expected)


def test_another_seed_is_another_order(tmp_path, expected) -> None:
    ds = ingest(table(), tmp_path / "store.zarr", random_seed=1, **SMALL)
    assert not np.array_equal(ds["id"], expected["id"])
    assert np.array_equal(ds["id"], permutation(1, N))
    assert ds.attrs["dvi_random_seed"] == 1


@pytest.mark.parametrize("kind", ["pandas", "csv", "parquet files", "npy", "dict of dask", "zarr path"])
def test_without_shuffle_the_order_is_kept(kind, tmp_path) -> None:
    ds = ingest(SOURCES[kind](table(), tmp_path), tmp_path / "store.zarr", shuffle=False, **SMALL)
    assert np.array_equal(ds["id"], np.arange(N))
    assert np.array_equal(ds["a"], table()["a"])
    assert ds.attrs["dvi_shuffled"] is False


def test_chunks_are_aligned_and_codecs_are_the_fast_ones(tmp_path) -> None:
    source = {"x": np.zeros((N, 5)), "y": np.zeros(N, "f4")}
    ds = ingest(source, tmp_path / "store.zarr", chunk_bytes=2000, progressbar=False)
    assert ds["x"].encoding["chunks"] == (50, 5)  # 2000 bytes
    assert ds["y"].encoding["chunks"] == (50,)
    codecs = zarr.open_array(tmp_path / "store.zarr" / "x").metadata.to_dict()["codecs"]
    assert [codec["name"] for codec in codecs] == ["bytes", "blosc", "crc32c"]
    assert (
        codecs[1]["configuration"] | {"cname": "lz4", "shuffle": "shuffle", "typesize": 8} == codecs[1]["configuration"]
    )


def test_the_last_chunk_is_about_as_long_as_the_others(tmp_path) -> None:
    ds = ingest(np.zeros(1001), tmp_path / "store.zarr", chunk_bytes=8000, progressbar=False)
    assert ds["x"].encoding["chunks"] == (501,)


def test_no_chunk_is_missing_even_if_all_values_are_zero(tmp_path) -> None:
    ingest({"x": np.zeros((N, 2)), "b": np.zeros(N, bool)}, tmp_path / "store.zarr", **SMALL)
    for name in ("x", "b"):
        array = zarr.open_array(tmp_path / "store.zarr" / name)
        assert array.nchunks > 1
        assert zarr_arrays.missing_chunks(array) == []


def test_nothing_else_is_left(tmp_path) -> None:
    ingest(table(), tmp_path / "deep" / "store.zarr", **SMALL)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["store.zarr"]


def test_attributes_say_how_the_store_was_made(tmp_path) -> None:
    source = as_csv(table(), tmp_path)
    attrs = ingest(source, tmp_path / "store.zarr", **SMALL).attrs
    assert attrs["dvi_complete"] is True
    assert attrs["dvi_n_rows"] == N
    assert attrs["dvi_dropped_rows"] == 0
    assert attrs["dvi_version"]
    (file,) = attrs["dvi_source"]["fingerprint"]
    assert file["name"] == str(source)
    assert file["size"] == source.stat().st_size
    assert float(file["changed"]) == source.stat().st_mtime


def test_columns_are_packed_into_a_matrix(tmp_path) -> None:
    frame = table()
    ds = ingest(frame, tmp_path / "store.zarr", pack={"x": ["a", "late", "id"]}, shuffle=False, **SMALL)
    assert set(ds.data_vars) == {"carrier", "x"}
    assert ds["x"].dims == ("row", "x_column")
    assert ds["x"].dtype == np.float64
    assert ds["x_column"].values.tolist() == ["a", "late", "id"]
    assert np.array_equal(ds["x"], frame[["a", "late", "id"]].to_numpy(float))


def test_a_pack_may_take_the_name_of_a_column_that_it_packs(tmp_path) -> None:
    ds = ingest(table(), tmp_path / "store.zarr", columns=["late"], pack={"a": ["a"]}, **SMALL)
    assert dict(ds.sizes) == {"row": N, "a_column": 1}
    assert set(ds.data_vars) == {"late", "a"}


def test_only_the_chosen_columns_are_stored(tmp_path) -> None:
    frame = table().assign(when=pd.Timestamp("2020-01-01"), thing=[object()] * N)
    ds = ingest(frame, tmp_path / "store.zarr", columns=["id"], pack={"x": ["a"]}, **SMALL)
    assert set(ds.data_vars) == {"id", "x"}


def test_columns_without_names_get_their_position(tmp_path) -> None:
    assert set(ingest(pd.DataFrame(np.eye(3)), tmp_path / "store.zarr", **SMALL).data_vars) == {"0", "1", "2"}


@pytest.mark.parametrize("kind", ["dict", "table"])
def test_a_column_named_row_does_not_become_an_index(kind, tmp_path) -> None:
    source = {"row": [3, 1, 2]} if kind == "dict" else pd.DataFrame({"row": [3, 1, 2]})
    ds = ingest(source, tmp_path / "store.zarr", shuffle=False, **SMALL)
    assert ds["row"].dims == ("rows",)
    assert ds["row"].values.tolist() == [3, 1, 2]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", ["pandas", "csv", "parquet files", "xarray"])
def test_rows_without_a_value_are_dropped(kind, shuffle, tmp_path) -> None:
    frame = table()
    frame.loc[::7, "a"] = np.nan
    frame.loc[900:, "a"] = np.nan
    kept = frame["id"][frame["a"].notna()].to_numpy()
    ds = ingest(SOURCES[kind](frame, tmp_path), tmp_path / "s.zarr", dropna=["a"], shuffle=shuffle, **SMALL)
    order = permutation(0, N)
    assert np.array_equal(ds["id"], order[np.isin(order, kept)] if shuffle else kept)
    assert ds.attrs["dvi_dropped_rows"] == N - len(kept)
    assert ds.sizes["row"] == len(kept)


@pytest.mark.parametrize("kind", ["pandas", "csv", "parquet files", "dask dataframe"])
def test_missing_integers_and_booleans_become_floats(kind, tmp_path) -> None:
    frame = table().astype({"id": "Int64", "late": "boolean"})
    frame.loc[500, ["id", "late"]] = pd.NA
    ds = ingest(SOURCES[kind](frame, tmp_path), tmp_path / "store.zarr", shuffle=False, **SMALL)
    assert ds["id"].dtype == ds["late"].dtype == np.float64
    assert np.flatnonzero(np.isnan(ds["id"])).tolist() == [500]
    dropped = ingest(SOURCES[kind](frame, tmp_path), tmp_path / "dropped.zarr", dropna=True, **SMALL)
    assert dropped["id"].dtype == np.int64
    assert dropped["late"].dtype == bool
    assert dropped.sizes["row"] == N - 1


def test_a_csv_column_that_looks_like_numbers_at_first_is_text_throughout(tmp_path) -> None:
    tails = [f"{i:04d}" for i in range(3000)] + ["N123"] * 2
    source = as_csv(pd.DataFrame({"tail": tails, "x": 1.0}), tmp_path)
    ds = ingest(source, tmp_path / "store.zarr", shuffle=False, memory_bytes=20_000, progressbar=False)
    assert [ds["tail"].attrs["categories"][code] for code in ds["tail"].values] == tails


def test_integer_files_and_float_files_are_promoted(tmp_path) -> None:
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "1.parquet")
    pd.DataFrame({"a": [0.5]}).to_parquet(tmp_path / "2.parquet")
    ds = ingest(str(tmp_path / "*.parquet"), tmp_path / "store.zarr", shuffle=False, progressbar=False)
    assert ds["a"].values.tolist() == [1.0, 2.0, 0.5]


def test_names_and_coordinates_of_xarray_are_kept(tmp_path) -> None:
    source = xr.Dataset(
        {"x": (("time", "feature"), np.arange(20.0).reshape(10, 2), {"units": "m", "odd": object()})},
        coords={"feature": ["a", "b"], "label": ("feature", [1, 2]), "site": 7, "time": np.arange(10)},
        attrs={"title": "t"},
    )
    with pytest.warns(DviWarning, match="time run along the rows and are left out.*reset_coords"):
        ds = ingest(source, tmp_path / "store.zarr", shuffle=False, **SMALL)
    xr.testing.assert_equal(ds, source.drop_vars("time"))
    assert ds["x"].attrs == {"units": "m"}
    assert ds.attrs["title"] == "t"


def test_the_store_is_read_without_anything_in_between(tmp_path) -> None:
    ds = ingest({"x": np.arange(6.0).reshape(3, 2)}, tmp_path / "store.zarr", shuffle=False, **SMALL)
    x = reader(ds["x"])
    assert isinstance(x, ZarrReader)
    assert x.read(1, 3).tolist() == [[2.0, 3.0], [4.0, 5.0]]


def test_a_dict_of_xarray_objects_shares_the_rows(tmp_path) -> None:
    arrays = {"x": xr.DataArray(np.eye(3), dims=("obs", "k")), "y": xr.Variable(("time",), [1, 2, 3])}
    ds = ingest(arrays, tmp_path / "store.zarr", shuffle=False, **SMALL)
    assert ds["x"].dims == ("row", "k")
    assert ds["y"].values.tolist() == [1, 2, 3]


def test_a_zarr_array(tmp_path) -> None:
    zarr.create_array(tmp_path / "z.zarr", data=np.arange(5), chunks=(2,))
    assert ingest(tmp_path / "z.zarr", tmp_path / "s.zarr", shuffle=False, **SMALL)["x"].values.tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_a_data_array_keeps_its_name(tmp_path) -> None:
    array = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("obs", "k"), name="design")
    ds = ingest(array, tmp_path / "store.zarr", shuffle=False, **SMALL)
    xr.testing.assert_equal(ds["design"], array)


def test_dimensions_of_numpy_arrays_are_named(tmp_path) -> None:
    ds = ingest({"x": np.zeros((4, 2, 3)), "y": [1, 2, 3, 4]}, tmp_path / "store.zarr", **SMALL)
    assert ds["x"].dims == ("row", "x_dim_1", "x_dim_2")
    assert ds["y"].dims == ("row",)


def test_missing_chunks_of_a_foreign_store_are_warned_of(tmp_path) -> None:
    group = zarr.create_group(tmp_path / "source.zarr")
    group.create_array("x", shape=(10,), chunks=(5,), dtype="f8", fill_value=2.0)[:5] = 1.0
    with pytest.warns(DviWarning, match=r"lacks 1 chunks of 'x', the first of them 'c/1'"):
        ds = ingest(tmp_path / "source.zarr", tmp_path / "store.zarr", shuffle=False, **SMALL)
    assert ds["x"].values.tolist() == [1.0] * 5 + [2.0] * 5


def test_a_store_can_be_made_anew_from_itself(tmp_path, expected) -> None:
    store = tmp_path / "store.zarr"
    ingest(table(), store, shuffle=False, **SMALL)
    xr.testing.assert_equal(ingest(store, store, overwrite=True, **SMALL), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["store.zarr"]


def test_stores_that_cannot_rename(expected) -> None:
    store = zarr.storage.MemoryStore()
    xr.testing.assert_equal(ingest(table(), store, **SMALL), expected)
    xr.testing.assert_equal(ingest(table(), store, overwrite=True, **SMALL), expected)


def test_urls(tmp_path, expected) -> None:
    table().to_parquet("memory://dvi-test/table.parquet", row_group_size=300)
    ds = ingest("memory://dvi-test/*.parquet", "memory://user:secret@dvi-test/store.zarr", **SMALL)
    xr.testing.assert_equal(ds, expected)
    xr.testing.assert_equal(ingest(table(), f"file://{tmp_path}/file.zarr", **SMALL), expected)
    xr.testing.assert_equal(ingest(table(), zarr.storage.LocalStore(tmp_path / "local.zarr"), **SMALL), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.zarr", "local.zarr"]


def test_batches_and_buckets_are_bounded_by_the_memory_allowed(tmp_path, monkeypatch) -> None:
    """An eighth of ``memory_bytes`` each; how many rows a bucket has is random, with a standard deviation of 16."""
    batches: list[int] = []
    buckets: list[int] = []
    records, read = driver.records, driver.Buckets.read
    monkeypatch.setattr(driver, "records", lambda *args: kept(batches, records(*args)))
    monkeypatch.setattr(driver.Buckets, "read", lambda self, bucket: kept(buckets, read(self, bucket)))
    np.save(tmp_path / "x.npy", np.zeros((20_000, 10)))
    ingest(tmp_path / "x.npy", tmp_path / "store.zarr", memory_bytes=200_000, progressbar=False)
    assert sum(batches) == sum(buckets) == 20_000 * 88
    assert max(batches) <= 200_000 / 8
    assert max(buckets) <= 200_000 / 8 + 5 * 16 * 88


def kept(sizes: list[int], array: np.ndarray) -> np.ndarray:
    sizes.append(array.nbytes)
    return array
