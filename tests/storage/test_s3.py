"""Every way through dvi on an object store, compared with the same way on a disk."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from zarr.core.sync import sync
from zarr.storage import FsspecStore

import dvi
from dvi.data import locations
from dvi.data.readers import reader
from dvi.errors import ArgumentError, DataError, StoreDamagedError, StoreError, StoreExistsError, StoreNotFoundError
from tests.storage.service import KEY, SECRET, Gate, Service, coming_back, impatient, running

N, CHUNK = 2_000, 250
QUIET: dict[str, Any] = {"random_seed": 1, "progressbar": False}


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=N)
    return pd.DataFrame({"x": x, "y": 1 + 2 * x + rng.normal(size=N)})


def ingested(store: Any, **options: Any) -> xr.Dataset:
    return dvi.ingest(table(), store, chunk_bytes=CHUNK * 8, progressbar=False, **options)


def model_of(ds: xr.Dataset) -> pm.Model:
    x, y = dvi.Minibatch(ds["x"], ds["y"], batch_size=CHUNK)
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 10), pm.Normal("b", 0, 10)
        pm.Normal("y", a + b * x, 1, observed=y)
    return model


def run(root: Any, join: Any, **where: Any) -> tuple[bytes, bytes]:
    """Ingest, fit, save, load and predict in a folder; parameters and predictions as bits."""
    model = model_of(ingested(join(root, "rows.zarr")))
    dvi.fit(50, model=model, **QUIET, **where).save(join(root, "posterior.zarr"))
    loaded = dvi.load(join(root, "posterior.zarr"), model=model)
    tree = dvi.predict(loaded, store=join(root, "predictions.zarr"), draws=20, **QUIET, **where)
    return loaded.theta.tobytes(), tree["posterior_predictive"]["y"].values.tobytes()


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    return run(tmp_path_factory.mktemp("disk"), lambda root, name: root / name, threads=1)


def test_the_same_bits_as_on_a_disk(s3: Service, on_disk: Any) -> None:
    assert run(s3.url("run"), "{}/{}".format, threads=2) == on_disk


@pytest.mark.cluster
def test_workers_read_and_write_by_themselves(s3: Service, on_disk: Any) -> None:
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        assert run(s3.url("run"), "{}/{}".format, client=client) == on_disk


def test_what_xarray_opened_through_s3fs(s3: Service) -> None:
    url = s3.url("rows.zarr")
    own = ingested(url)
    store = FsspecStore.from_url(url, storage_options={"endpoint_url": s3.endpoint, "skip_instance_cache": True})
    theirs = xr.open_zarr(store, chunks=None)
    fits = [dvi.fit(20, model=model_of(ds), threads=1, **QUIET).theta for ds in (own, theirs)]
    sync(store.fs._s3.close())  # s3fs leaves that to the garbage collector
    assert fits[0].tobytes() == fits[1].tobytes()


def test_an_array_by_its_url(s3: Service) -> None:
    ds = ingested(s3.url("rows.zarr"))
    url = reader(ds["x"]).label
    assert url.startswith("s3://data/") and url.endswith("/rows.zarr/x")
    assert reader(url).read(0, N).tobytes() == ds["x"].values.tobytes()


@pytest.mark.parametrize("kind", ["parquet", "csv", "zarr"])
def test_ingest_from_a_url(s3: Service, tmp_path: Path, kind: str) -> None:
    url = s3.url(f"rows.{kind}")
    if kind == "zarr":
        ingested(url, shuffle=False)
    else:
        getattr(table(), f"to_{kind}")(tmp_path / "rows", index=False)
        s3.put(url, (tmp_path / "rows").read_bytes())
    found = dvi.ingest(url, tmp_path / "rows.zarr", shuffle=False, progressbar=False)
    np.testing.assert_array_equal(found["y"].values, table()["y"].to_numpy())


def test_ingest_of_a_pattern(s3: Service, tmp_path: Path) -> None:
    folder = s3.url("parts")
    for name, part in (("a", table()[:50]), ("b", table()[50:])):
        part.to_parquet(tmp_path / name, index=False)
        s3.put(f"{folder}/{name}.parquet", (tmp_path / name).read_bytes())
    found = dvi.ingest(f"{folder}/*.parquet", tmp_path / "rows.zarr", shuffle=False, progressbar=False)
    np.testing.assert_array_equal(found["y"].values, table()["y"].to_numpy())


def test_options_take_the_place_of_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in service.environment:
        monkeypatch.delenv(name, raising=False)
    options = {
        "endpoint": service.endpoint, "region": "us-east-1", "access_key_id": KEY, "secret_access_key": SECRET,
    }  # fmt: skip
    url = service.url("rows.zarr")
    ingested(url, storage_options=options)
    copy = dvi.ingest(url, service.url("copy.zarr"), source_options=options, storage_options=options, progressbar=False)
    assert copy.sizes["row"] == N
    approx, place = dvi.fit(5, model=model_of(copy), threads=1, **QUIET), service.url("posterior.zarr")
    approx.save(place, storage_options=options)
    assert dvi.load(place, storage_options=options).theta.tobytes() == approx.theta.tobytes()
    again = dvi.fit(5, model=model_of(copy), threads=1, checkpoint=dvi.open_store(place + "2", options), **QUIET)
    assert dvi.load(dvi.open_store(place + "2", options)).theta.tobytes() == again.theta.tobytes()


def test_a_store_is_not_replaced_unasked(s3: Service) -> None:
    url = s3.url("rows.zarr")
    ingested(url)
    with pytest.raises(StoreExistsError, match="exists already"):
        ingested(url)
    assert ingested(url, overwrite=True).sizes["row"] == N


@pytest.mark.parametrize("fault", ["503 Slow Down", "500 Internal Server Error", "reset", "truncated", "slow"])
def test_what_may_pass_is_tried_again(s3: Service, fault: str) -> None:
    x = reader(ingested(s3.url("rows.zarr"))["x"])
    expected = x.read(CHUNK, 2 * CHUNK).tobytes()
    s3.gate.fault, s3.gate.suffix, s3.gate.refused, s3.gate.refusals = fault, "/c/1", 0, 3
    try:
        for _ in range(3 if fault == "slow" else 1):
            assert x.read(CHUNK, 2 * CHUNK).tobytes() == expected
    finally:
        s3.gate.refusals = 0
    assert s3.gate.refused == 3


def test_a_missing_chunk_is_refused(s3: Service) -> None:
    url = s3.url("rows.zarr")
    ds = ingested(url)
    opened = reader(ds["x"])
    s3.delete(f"{url}/x/c/3")
    with pytest.raises(DataError, match=r"/rows.zarr/x lacks chunks among its rows 750 to 1000"):
        opened.read(750, 1000)
    with pytest.raises(DataError, match=r"/rows.zarr/x lacks 1 of its chunks, the first of them 'c/3'"):
        reader(ds["x"])


@pytest.mark.parametrize("part", [slice(None), slice(100, None)])
def test_a_corrupt_chunk_is_named(s3: Service, part: slice) -> None:
    url = s3.url("rows.zarr")
    ds = ingested(url)
    body = bytearray(
        s3.client().get_object(Bucket="data", Key=f"{url.removeprefix('s3://data/')}/y/c/3")["Body"].read()
    )
    body[20] ^= 1
    s3.put(f"{url}/y/c/3", bytes(body))
    with pytest.raises(StoreDamagedError, match=rf"{url}/y.*Its chunk 'c/3' is damaged"):
        dvi.fit(10, model=model_of(ds.isel(row=part)), threads=1, **QUIET)


def test_a_service_that_goes_is_waited_for_and_then_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    with running() as gone:
        for name, value in gone.environment.items():
            monkeypatch.setenv(name, value)
        url = gone.url("rows.zarr")
        x = reader(ingested(url)["x"])
    with coming_back(gone, seconds=0.5):
        assert len(x.read(0, 10)) == 10
    with pytest.raises(StoreError, match=rf"^{url}/x cannot be reached \(GenericError: .*\)\. Check") as found:
        x.read(0, 10)
    assert SECRET not in str(found.value) and "\n" not in str(found.value)
    with pytest.raises(StoreError, match=f"{url} cannot be reached"):
        ingested(url)


def test_nothing_there(s3: Service) -> None:
    with pytest.raises(StoreNotFoundError, match="There is no Zarr array"):
        reader(s3.url("none.zarr"))
    with pytest.raises(StoreNotFoundError, match="There is nothing at"):
        dvi.ingest(s3.url("none.parquet"), s3.url("x.zarr"), progressbar=False)


def test_options_without_a_url_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="storage_options are for URLs"):
        ingested(tmp_path / "x.zarr", storage_options={"region": "x"})
    assert dvi.open_store(f"file://{tmp_path}") == tmp_path


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("s3://bucket/x", {"endpont": "http://x"}, "'endpont' is not valid"),
        ("az://container/x", {}, "Account must be specified"),
        ("gcs://bucket/x", {}, "install gcsfs"),
        ("nowhere://user:password@host/x", {}, r"nowhere://host/x cannot be opened \(ValueError: Protocol not known"),
    ],
)
def test_what_cannot_be_opened(s3: Service, url: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as found:
        dvi.open_store(url, options)
    assert "password" not in str(found.value)


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(locations, "_session", botocore.session.get_session)
    for name in Service("", Gate(None)).environment:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="There are no credentials for S3"):
        dvi.open_store("s3://bucket/x")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Files of a folder by HTTP, read only."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_arrays_from_a_web_server(web: str, tmp_path: Path) -> None:
    ds = ingested(tmp_path / "rows.zarr")
    assert reader(f"{web}/rows.zarr/x").read(0, N).tobytes() == ds["x"].values.tobytes()
    with pytest.raises(StoreNotFoundError):
        reader(f"{web}/none.zarr")
