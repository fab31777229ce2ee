"""What is stored of an approximation, as attributes and groups of arrays, and back."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr

from dvi.approximation import Approximation
from dvi.approximations.empirical import EmpiricalFamily
from dvi.approximations.flow import FlowFamily
from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.lowrank import LowRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.point import PointFamily
from dvi.approximations.structured import Part, StructuredFamily
from dvi.data.store import COMPLETE
from dvi.data.zarr_arrays import strict
from dvi.errors import ArgumentError, StoreError
from dvi.inference.settings import describe, rebuild
from dvi.model.layout import Entry, Layout
from dvi.model.transforms import build_transform
from dvi.persistence.places import FORMAT, VERSION
from dvi.types import AnyArray, Family, FloatArray

GROUPS = ("posterior", "approximation", "history")
_DRAWS = 1_000
_MAX_SIZE = 2**48  # elements of a variable; more is not a layout that anyone can have saved


# The families that can be saved, besides those made of others. The name is part of the format.
_FAMILIES: Mapping[str, type[Any]] = {
    "meanfield": MeanFieldFamily,
    "fullrank": FullRankFamily,
    "lowrank": LowRankFamily,
    "point": PointFamily,
    "empirical": EmpiricalFamily,
    "flow": FlowFamily,
}
_STRUCTURED = "structured"


def attributes_of(approximation: Approximation) -> dict[str, Any]:
    """Attributes of the root: all that is not an array."""
    layout = approximation.layout
    coords = {name: _coordinate_to_json(values) for name, values in layout.coords.items()}
    attributes = {
        FORMAT: VERSION,
        "dvi_version": _dvi_version(),
        "created": dt.datetime.now(dt.UTC).isoformat(),
        "family": _family_to_json(approximation.family),
        "layout": {**layout.to_json(), "coords": coords},
        "steps": len(approximation.hist),
        "run": approximation.run,
        COMPLETE: True,
    }
    try:
        plain: dict[str, Any] = json.loads(json.dumps(attributes, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"approx.run holds what JSON cannot: {error}. Remove it.") from error
    return plain


def _dvi_version() -> str:
    try:
        return importlib.metadata.version("dask-vi")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def tree_of(approximation: Approximation) -> xr.DataTree:
    """The groups, in memory. Their root is marked as not complete."""
    posterior = approximation.sample(_DRAWS, random_seed=0).posterior.to_dataset()
    objects = {k: (v.dims, _plain(v.values)) for k, v in posterior.coords.items() if v.dtype == object}
    losses = np.asarray(approximation.hist, dtype=np.float64)
    history = xr.Dataset(
        {"loss": ("step", losses, {"long_name": "negative ELBO on the full-data scale"})},
        {"step": np.arange(1, len(losses) + 1)},
    )
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(attrs={FORMAT: VERSION, COMPLETE: False}),
            "/posterior": posterior.assign_coords(objects),
            "/approximation": _parameters(approximation),
            "/history": history,
        }
    )


def _parameters(approximation: Approximation) -> xr.Dataset:
    """The flat vector, and the parameters by name with the unconstrained elements labelled."""
    d = approximation.ndim
    arrays: dict[str, tuple[list[str], FloatArray]] = {}
    for name, value in approximation.params.items():
        dims = (
            ["unconstrained"]
            if value.shape == (d,) and name in ("mu", "rho")
            else [f"{name}_dim_{i}" for i in range(value.ndim)]
        )
        arrays[name] = (dims, value)
    arrays["theta"] = (["parameter"], np.asarray(approximation.theta, dtype=np.float64))
    return xr.Dataset(arrays, {"unconstrained": np.array(approximation.layout.names())})


def _plain(values: object) -> AnyArray:
    """Coordinates as an array that is not of objects: dates as dates, anything else as text."""
    array = np.asarray(values)
    if array.dtype != object:
        return array
    if all(isinstance(v, dt.date | np.datetime64) and getattr(v, "tzinfo", None) is None for v in array.flat):
        return np.array(array.tolist(), dtype="datetime64")  # of days, if they are days
    return np.array([str(v) for v in array.flat]).reshape(array.shape)


def _coordinate_to_json(values: tuple[Any, ...]) -> list[Any] | dict[str, Any]:
    """A list; dates, and floats that JSON has no word for, as the integers with the same bits."""
    array = _plain(values)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        array = array.astype(np.float64)
        return {"dtype": "float64", "bits": array.view(np.int64).tolist()}
    if array.dtype.kind in "mM":
        return {"dtype": array.dtype.name, "bits": array.view(np.int64).tolist()}
    listed: list[Any] = array.tolist()
    return listed


def _coordinate_from_json(record: Any) -> tuple[Any, ...]:
    if isinstance(record, list):
        if not all(isinstance(v, str | int | float) for v in record):
            raise ValueError("a coordinate has values that are neither text nor numbers")
        return tuple(record)
    if not re.fullmatch(r"(datetime64|timedelta64)\[\w+\]|float64", record["dtype"]):
        raise ValueError(f"a coordinate has the dtype {record['dtype']!r}")
    return tuple(np.array(record["bits"], dtype=np.int64).view(record["dtype"]))


def check_format(attributes: Mapping[str, Any], label: str) -> None:
    """Refuse a group that is something else, that is from another version, or that is not whole.

    Raises
    ------
    StoreError
        That says which.
    """
    version = attributes.get(FORMAT)
    if version is None:
        raise StoreError(f"{label} is a Zarr group, but not a saved approximation. Pass what approx.save wrote.")
    if type(version) is not int or version != VERSION:
        raise StoreError(
            f"{label} has the format {version!r} of dvi {attributes.get('dvi_version')}; this dvi reads {VERSION}, in "
            "which the parameters of an approximation may mean something else. Read it with that version of dvi, or "
            "fit again."
        )
    if attributes.get(COMPLETE) is not True:
        raise StoreError(f"{label} was not saved to its end. Save the approximation again.")


def rebuilt(root: zarr.Group, attributes: Mapping[str, Any], groups: tuple[str, ...] = GROUPS) -> Approximation:
    """The approximation, with each size checked before anything of that size is made.

    A damaged group, and one without some of the groups, raises ValueError, or whatever comes of it: see `explained`.
    """
    missing = [name for name in groups if name not in root]
    if missing:
        raise ValueError(f"it has no group {', '.join(missing)}")
    layout = _layout_from_json(attributes["layout"])
    family = _family_from_json(attributes["family"], layout.ndim)
    theta = _vector(root, "approximation/theta", family.size)
    hist = _vector(root, "history/loss", attributes["steps"])
    run = attributes["run"]
    if not isinstance(run, dict):
        raise ValueError(f"the attribute run is {type(run).__name__}")
    return Approximation(family, theta, layout, hist, run)


def _family_to_json(family: Family) -> dict[str, Any]:
    if not isinstance(family, StructuredFamily):
        return describe(family, _FAMILIES, "a family")
    parts = [{"indices": list(part.indices), "family": _family_to_json(part.family)} for part in family.parts]
    return {"name": _STRUCTURED, "parts": parts}


def _family_from_json(record: Mapping[str, Any], ndim: int) -> Family:
    """The family of a record, of as many dimensions as are in its place, whatever the record says of them."""
    if record["name"] != _STRUCTURED:
        if not all(type(value) is int for name, value in record.items() if name in ("rank", "n")):
            raise ValueError(f"the family has the settings {record}")
        family: Family = rebuild({**record, "ndim": ndim}, _FAMILIES, "a family")
        return family
    if record.keys() != {"name", "parts"}:
        raise ValueError(f"a structured family has the settings {sorted(record)}")
    parts = [Part(_family_from_json(part["family"], len(part["indices"])), part["indices"]) for part in record["parts"]]
    family = StructuredFamily(tuple(parts))
    if family.ndim != ndim:
        raise ValueError(f"the parts of the family have {family.ndim} dimensions in the place of {ndim}")
    return family


def _vector(root: zarr.Group, name: str, size: int) -> FloatArray:
    array = root[name]
    if not isinstance(array, zarr.Array) or array.shape != (size,) or array.dtype != np.float64:
        raise ValueError(f"{name} is {array}; expected {size} floats of 64 bits")
    return np.asarray(strict(array)[:], dtype=np.float64)


def _layout_from_json(record: Mapping[str, Any]) -> Layout:
    """A layout whose every part is of the right type, and whose coordinates fit its variables."""
    names = [item["name"] for item in record["entries"]]
    if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the variables {names} are not distinct names")
    for item in record["entries"]:
        sizes = item["shape"]
        if not all(type(n) is int and n >= 0 for n in sizes) or math.prod(sizes) > _MAX_SIZE:
            raise ValueError(f"{item['name']!r} has the shape {sizes}")
    coords = {name: _coordinate_from_json(values) for name, values in record["coords"].items()}
    layout = Layout.from_json({**record, "coords": coords})
    for entry in layout.entries:
        if not _is_numeric(list(entry.transform.parameters)):
            raise ValueError(f"the transform of {entry.name!r} has the parameters {entry.transform.parameters}")
        if entry.transform.kind != "model":
            build_transform(entry.transform)  # fails for a kind that is not known
        _check_dims(entry, coords)
    return layout


def _is_numeric(parameter: object) -> bool:
    """Whether it is a number, None, or a list of these."""
    if isinstance(parameter, list):
        return all(_is_numeric(p) for p in parameter)
    return parameter is None or isinstance(parameter, int | float)


def _check_dims(entry: Entry, coords: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse coordinates whose number is not that of the constrained elements along their dimension."""
    if entry.transform.kind == "model":
        return
    for axis, dim in enumerate(entry.dims):
        n = entry.shape[axis] + _grows(entry, axis)
        if dim is not None and dim in coords and len(coords[dim]) != n:
            raise ValueError(f"{entry.name!r} has {n} elements along {dim!r}, which has {len(coords[dim])}")


def _grows(entry: Entry, axis: int) -> bool:
    """Whether a variable has one element more along an axis than its unconstrained value."""
    rank = len(entry.shape)
    if entry.transform.kind == "simplex":
        return axis == rank - 1
    return entry.transform.kind == "zerosum" and not {axis, axis - rank}.isdisjoint(entry.transform.parameters)
