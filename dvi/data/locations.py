"""Paths and URLs as stores and as file systems, and the errors of those that are far away.

Object stores are reached through obstore, which repeats what may pass after growing, random pauses; other URLs through
fsspec.
"""

from __future__ import annotations

import datetime as dt
import errno
import functools
import importlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from zarr.storage import FsspecStore, ObjectStore

from dvi.data.chunks import without_secrets
from dvi.errors import ArgumentError, ArgumentTypeError, DviError, StoreError

type Options = Mapping[str, Any]

_AMAZON = ("s3", "s3a")
_OBJECT_STORES = (*_AMAZON, "gs", "az", "azure", "abfs", "abfss", "adl")
_RETRY = {  # a minute in all, and never less than ten seconds: a service that restarts should not end a fit
    "max_retries": 10,
    "retry_timeout": dt.timedelta(seconds=300),  # more than one request that hangs
    "backoff": {"init_backoff": dt.timedelta(seconds=0.5), "max_backoff": dt.timedelta(seconds=10), "base": 4},
}
_CLIENT = {"allow_http": True, "connect_timeout": "10s", "timeout": "120s"}  # http where the endpoint says so
_MOST_SHOWN = 80  # characters of a path that cannot be one
_CREDENTIALS_SECONDS = 300.0  # between two looks at credentials, which botocore renews well before they end
_SCHEMES = {"S3Store": ("s3", "bucket"), "GCSStore": ("gs", "bucket"), "AzureStore": ("az", "container_name")}
_REMOTE = ("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "obstore")


def open_store(where: Any, storage_options: Options | None = None) -> Any:
    """Open a URL as a Zarr store, to be given wherever a store is taken.

    Parameters
    ----------
    where : str, path or zarr.abc.store.Store
    storage_options : mapping, optional
        For ``s3://``, ``gs://`` and ``az://`` the settings of obstore by name, such as ``endpoint``, ``region``,
        ``skip_signature`` and ``access_key_id``; credentials that are not among them come from the environment, as
        the command line of each cloud takes them. For other URLs, what fsspec takes.

    Returns
    -------
    zarr.abc.store.Store
        The path of ``file://``, and anything that is not a URL, is returned as it is.

    Raises
    ------
    ArgumentError
        For options without a URL, for a URL or options that no library knows, and where a package is not installed.
    StoreError
        Where there are no credentials.

    Examples
    --------
    >>> store = open_store("s3://bucket/flights.zarr", {"endpoint": "http://minio:9000"})  # doctest: +SKIP
    >>> approx = dvi.fit(20_000, model=model, checkpoint=store)  # doctest: +SKIP
    >>> open_store("file:///data/flights.zarr").name
    'flights.zarr'
    """
    protocol, options = _protocol(where), _checked(storage_options, where)
    if protocol is None:
        return checked_path(where) if isinstance(where, str | os.PathLike) else where
    if protocol == "file":
        return checked_path(Path(where.removeprefix("file://")))
    with _openable(where):
        if protocol not in _OBJECT_STORES:
            return FsspecStore.from_url(where, storage_options=options)
        return ObjectStore(_package("obstore.store").from_url(where, **_settings(protocol, options)))


def checked_path[P: str | os.PathLike[str]](path: P) -> P:
    """A path itself, if it can be one of this system; what is there, or whether anything is, does not matter.

    Raises
    ------
    ArgumentError
    """
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            return path
        reason = str(error.strerror)
    except ValueError as error:  # a null character, or one that has no encoding
        reason = str(error)
    else:
        return path
    shown = repr(str(path))
    shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."
    raise ArgumentError(f"{shown} cannot be a path here ({reason}); give another one")


def open_files(where: str, storage_options: Options | None = None) -> Any:
    """The fsspec file system of a path or URL. Parameters and errors are those of `open_store`."""
    protocol, options = _protocol(where), _checked(storage_options, where)
    with _openable(where):
        if protocol not in _OBJECT_STORES:
            return fsspec.core.url_to_fs(where, **options)[0]
        return _package("obstore.fsspec").FsspecStore(protocol, **_settings(protocol, options))


def url_of(store: ObjectStore[Any]) -> str:
    """The URL of a store of obstore's, without secrets. Assumes the names of its classes and of their ``config``."""
    inner: Any = store.store
    scheme, container = _SCHEMES.get(type(inner).__name__, ("", ""))
    return f"{scheme}://{inner.config[container]}/{inner.prefix or ''}".rstrip("/") if scheme else str(store)


@contextmanager
def reachable(label: object) -> Iterator[None]:
    """Errors of the libraries that speak to far stores, which are no OSError, as one StoreError that names the store.

    Parameters
    ----------
    label : object
        The store, as people know it.
    """
    try:
        yield
    except Exception as error:
        if not is_remote(error):
            raise
        place = without_secrets(str(label))
        raise StoreError(
            f"{place} cannot be reached ({brief(error)}). Check the address, the endpoint, the network and the "
            "credentials; what may pass was tried several times."
        ) from error


def is_remote(error: BaseException) -> bool:
    """Whether an exception is of a library that speaks to far stores."""
    return type(error).__module__.partition(".")[0] in _REMOTE


def brief(error: BaseException) -> str:
    """Type and first line of an exception, without secrets: some libraries append all that they know."""
    first = str(error).strip().partition("\n")[0]
    return without_secrets(f"{type(error).__name__}: {first}")


@contextmanager
def _openable(where: str) -> Iterator[None]:
    """Whatever a library says of a URL or options before it has asked anybody, as one kind of error."""
    try:
        yield
    except DviError:
        raise
    except Exception as error:
        raise ArgumentError(
            f"{without_secrets(where)} cannot be opened ({brief(error)}). Check URL and storage_options, and whether "
            "what they need is installed: dask-vi[storage], or what fsspec names."
        ) from error


def _protocol(where: object) -> str | None:
    """The protocol of a URL; None for a path and anything else."""
    found = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", where) if isinstance(where, str) else None
    return None if found is None else found[1].lower()


def _checked(storage_options: Options | None, where: object) -> dict[str, Any]:
    if storage_options is None:
        return {}
    if not isinstance(storage_options, Mapping):
        raise ArgumentTypeError(f"storage_options={type(storage_options).__name__}(...) is not allowed: pass a dict.")
    if storage_options and _protocol(where) in (None, "file"):
        raise ArgumentError("storage_options are for URLs, and the store is none: leave them out.")
    return dict(storage_options)


def _settings(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of obstore's stores."""
    settings: dict[str, Any] = {"config": options, "client_options": _CLIENT, "retry_config": _RETRY}
    own = {name.removeprefix("aws_") for name in options}
    if protocol in _AMAZON and own.isdisjoint({"access_key_id", "skip_signature"}):
        session = _session()
        if session.get_credentials() is None:
            raise StoreError(
                "There are no credentials for S3. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or "
                "role as for the aws command line, or pass storage_options={'skip_signature': True} for public data."
            )
        region = session.get_config_variable("region")
        settings["config"] = ({"region": region} if region else {}) | options
        settings["credential_provider"] = _credentials
    return settings


@functools.cache
def _session() -> Any:
    return _package("botocore.session").get_session()


def _credentials() -> dict[str, Any]:
    """What obstore signs requests with: whatever the aws command line would use on this machine."""
    found = _session().get_credentials().get_frozen_credentials()
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=_CREDENTIALS_SECONDS)
    return {
        "access_key_id": found.access_key, "secret_access_key": found.secret_key, "token": found.token,
        "expires_at": until,
    }  # fmt: skip


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ArgumentError(
            f"This URL needs {name.partition('.')[0]}, which is not installed: pip install 'dask-vi[storage]'."
        ) from error
