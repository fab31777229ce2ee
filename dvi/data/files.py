"""Paths, URLs and glob patterns of data files, local or remote, through fsspec."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from dvi.data.chunks import without_secrets
from dvi.data.locations import Options, open_files, open_store, reachable
from dvi.errors import ArgumentError, StoreNotFoundError

type Format = Literal["parquet", "csv", "npy", "npz", "zarr"]

_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".npy": "npy",
    ".npz": "npz",
}
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one format on one file system, in the order in which their rows come."""

    fs: Any
    paths: tuple[str, ...]
    format: Format
    label: str
    storage_options: Options | None = None

    def fingerprint(self) -> list[dict[str, object]]:
        """Name, size in bytes and time of change of each file, of the newest file for a Zarr store."""
        return [self._describe(path) for path in self.paths]

    def local(self, path: str) -> str:
        """The path, if it is one that the operating system knows."""
        if not _is_local(self.fs):
            raise ArgumentError(f"{path} cannot be mapped into memory from a URL: copy it to this machine first.")
        return path

    def store(self, path: str) -> Any:
        """What Zarr opens: the path itself if it is local."""
        return path if _is_local(self.fs) else open_store(self.fs.unstrip_protocol(path), self.storage_options)

    def _describe(self, path: str) -> dict[str, object]:
        found = self.fs.find(path, detail=True) if self.format == "zarr" else {path: self.fs.info(path)}
        changed = [str(next((info[key] for key in _CHANGED if key in info), None)) for info in found.values()]
        size = sum(info["size"] or 0 for info in found.values())
        return {"name": _public(path), "files": len(found), "size": size, "changed": max(changed, default="")}


_CHANGED = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "e_tag", "created")


def list_files(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], storage_options: Options | None = None
) -> Files:
    """Find the files that a path, URL, glob pattern, folder or a list of these stands for.

    The files of a pattern or folder are sorted by name, those of a list stay in its order.

    Raises
    ------
    StoreNotFoundError
        If there is nothing there.
    ArgumentError
        If the format is not known, or if the files are of several formats.
    """
    given = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not given:
        raise ArgumentError("The list of files is empty: name at least one.")
    label = _public(os.fspath(given[0])) + (f" and {len(given) - 1} more" if len(given) > 1 else "")
    fs = open_files(os.fspath(given[0]), storage_options)
    with reachable(label):
        paths = [path for each in given for path in _expand(fs, os.fspath(each))]
        formats = {format_of(fs, path): path for path in paths}
    if len(formats) > 1:
        raise ArgumentError(f"{label} are files of several formats, {', '.join(formats)}: pass one format at a time.")
    return Files(fs, tuple(paths), next(iter(formats)), label, storage_options)


def format_of(fs: Any, path: str) -> Format:
    """The rule for the format of a file: its suffix, without that of a compression; a folder is Zarr."""
    if fs.isdir(path):
        return "zarr"
    name = PurePosixPath(path.lower())
    if name.suffix in _COMPRESSIONS and name.with_suffix("").suffix in (".csv", ".tsv"):
        return "csv"
    if name.suffix not in _SUFFIXES:
        raise ArgumentError(
            f"{path} has no known format. Allowed are {', '.join(_SUFFIXES)}, compressed .csv.gz, and Zarr stores."
        )
    return _SUFFIXES[name.suffix]


def compression_of(path: str) -> str | None:
    """What pandas calls the compression of a file, by its suffix."""
    return _COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)


def is_zarr(fs: Any, path: str) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any(fs.exists(f"{path.rstrip('/')}/{name}") for name in _ZARR_FILES)


def _expand(fs: Any, given: str) -> list[str]:
    """Paths on the file system: the name as it is if it exists, else as a pattern; a folder's data files."""
    path = fs._strip_protocol(given)
    if not fs.exists(path):
        found: list[str] = sorted(fs.glob(_pattern(fs, path))) if any(mark in path for mark in "*?[") else []
        if not found:
            raise StoreNotFoundError(f"There is nothing at {_public(given)!r}: check the path.")
        return [each for match in found for each in _expand(fs, match)]
    if not fs.isdir(path) or is_zarr(fs, path):
        return [path]
    inside = [each for each in sorted(fs.find(path)) if _is_data(each)]
    if not inside:
        raise StoreNotFoundError(f"The folder {given!r} is not a Zarr store and holds no Parquet or CSV files.")
    return inside


def _pattern(fs: Any, path: str) -> str:
    """A pattern as the file system takes it: that of obstore keeps the protocol of a path, and finds nothing by it."""
    return path.removeprefix(f"{fs.protocol}://") if isinstance(fs.protocol, str) else path


def _is_data(path: str) -> bool:
    name = PurePosixPath(path.lower())
    inner = name.with_suffix("") if name.suffix in _COMPRESSIONS else name
    return _SUFFIXES.get(inner.suffix) in ("parquet", "csv") and not name.name.startswith((".", "_"))


def _public(path: str) -> str:
    """A path as it is, which may have a ``?`` in it; a URL without its secrets."""
    return without_secrets(path) if "://" in path else path


def _is_local(fs: Any) -> bool:
    protocol = fs.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)
