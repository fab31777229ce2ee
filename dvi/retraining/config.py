"""What a scheduled run is asked to do: a TOML file, checked whole before anything else happens."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from dvi.data.locations import checked_path
from dvi.errors import ArgumentError, ArgumentTypeError, suggestion

_CHECKED = ConfigDict(extra="forbid", strict=True)
_SET_BY_RUN = {
    "n", "method", "model", "random_seed", "start", "client", "threads", "callbacks", "progressbar", "checkpoint",
    "checkpoint_every", "max_seconds",
}  # fmt: skip
_MOST_DENSITIES = 100_000_000  # held-out rows times draws: 800 MB

type Positive = Annotated[int, Field(gt=0)]
type Seconds = Annotated[float, Field(gt=0)]
type Limit = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True, config=_CHECKED)
class DataConfig:
    """Where the rows are, and which of them a run uses.

    Parameters
    ----------
    store : str
        Path or URL of a Zarr group whose arrays share their leading dimension, along which it grows.
    window : {"all", "new", "sliding"}
        Fit all rows, those since the promoted run, or the last ``rows``.
    rows : int, optional
        Of a sliding window.
    min_new_rows : int
        Below which there is nothing new.
    storage_options : dict
        As in :func:`dvi.ingest`.
    """

    store: str
    window: Literal["all", "new", "sliding"] = "all"
    rows: Positive | None = None
    min_new_rows: Positive = 1
    storage_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.window == "sliding") != (self.rows is not None):
            raise ValueError("rows belongs to window = 'sliding': give both, or neither")


@dataclass(frozen=True, slots=True, config=_CHECKED)
class ModelConfig:
    """What builds the model.

    Parameters
    ----------
    function : str
        ``package.module:function``, called as ``function(data=dataset, **arguments)`` with a lazy xarray Dataset of the
        rows to use. It returns the ``pm.Model``, with its rows in a :func:`dvi.Minibatch`.
    arguments : dict
    """

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, config=_CHECKED)
class FitConfig:
    """How to fit.

    Parameters
    ----------
    method : str
        As in :func:`dvi.fit`, of those that have a density and can be resumed.
    steps : int, optional
        Until converged by default.
    max_seconds : float, optional
        Budget in time of a fit until converged, the one setting that gives up the same bits for the same seed.
    seed : int
    carry_posterior : bool
        Take the promoted posterior as the prior of the new rows; needs ``window = "new"``.
    checkpoint_seconds : float
    settings : dict
        More keywords of :func:`dvi.fit`, such as ``{obj_n_mc = 4}``.
    """

    method: Literal["advi", "fullrank_advi", "lowrank_advi", "nfvi"] = "advi"
    steps: Positive | None = None
    max_seconds: Seconds | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    carry_posterior: bool = False
    checkpoint_seconds: Seconds = 60.0
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps is not None and self.max_seconds is not None:
            raise ValueError("max_seconds is the budget of a fit until converged: leave out steps, or max_seconds")
        if taken := sorted(_SET_BY_RUN & self.settings.keys()):
            raise ValueError(f"settings has {', '.join(taken)}, which a run sets itself, by other keys: leave it out")
        if self.carry_posterior and self.method == "nfvi":
            raise ValueError("carry_posterior needs a normal approximation: choose another method than 'nfvi'")


@dataclass(frozen=True, slots=True, config=_CHECKED)
class ClusterConfig:
    """Where to compute.

    Parameters
    ----------
    kind : {"threads", "local", "address", "kubernetes"}
        Threads of this process, worker processes of this machine, a running scheduler, or a cluster that the Dask
        operator makes for this run.
    workers : int, optional
        Threads, or worker processes of this machine; the cores at hand by default.
    address : str, optional
        Such as ``tcp://scheduler:8786``.
    manifest : str, optional
        Path of the DaskCluster of a ``kubernetes`` cluster, which says how many workers it has.
    start_seconds : float
        In which its scheduler and its first worker have to be there, or the run ends, and may be tried again. A day at
        most.
    """

    kind: Literal["threads", "local", "address", "kubernetes"] = "threads"
    workers: Positive | None = None
    address: str | None = None
    manifest: str | None = None
    start_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0

    def __post_init__(self) -> None:
        for name, kind in (("address", "address"), ("manifest", "kubernetes")):
            if (getattr(self, name) is not None) != (self.kind == kind):
                raise ValueError(f"{name} belongs to kind = {kind!r}: give both, or neither")


@dataclass(frozen=True, slots=True, config=_CHECKED)
class RunsConfig:
    """Where runs are kept.

    Parameters
    ----------
    folder : str
        Path or URL.
    keep : int
        Finished runs to keep, besides the promoted one.
    storage_options : dict
    """

    folder: str
    keep: Positive = 5
    storage_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, config=_CHECKED)
class JudgeConfig:
    """What a candidate has to show.

    Parameters
    ----------
    rows : int
        Newest rows that neither the candidate nor the promoted run was fitted to; at most a fifth of the new ones.
    draws : int
        Posterior draws of the predictive densities and of the diagnosis.
    tolerance : float
        The mean log predictive density may be lower by so many standard errors of the difference.
    max_khat : float, optional
        No limit by default.
    max_drift : float, optional
        Of any posterior mean from that of the promoted run, in its standard deviations; no limit by default.
    """

    rows: Positive = 10_000
    draws: Annotated[int, Field(ge=100)] = 500
    tolerance: Annotated[float, Field(ge=0)] = 2.0
    max_khat: Limit | None = None
    max_drift: Limit | None = None

    def __post_init__(self) -> None:
        if self.rows * self.draws > _MOST_DENSITIES:
            raise ValueError(f"rows times draws must be at most {_MOST_DENSITIES:,}, which take 800 MB")


@dataclass(frozen=True, slots=True, config=_CHECKED)
class MetricsConfig:
    """Where to tell Prometheus how a run is going.

    Parameters
    ----------
    port : int, optional
        Serve ``/metrics`` there while the run goes on; 0 for any free port.
    textfile : str, optional
        Write them there at the end, for the textfile collector of the node exporter.
    """

    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    textfile: str | None = None


@dataclass(frozen=True, slots=True, config=_CHECKED)
class Config:
    """A scheduled run, one table of the TOML file each. See :func:`dvi.retrain`."""

    data: DataConfig
    model: ModelConfig
    runs: RunsConfig
    fit: FitConfig = field(default_factory=FitConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        if self.fit.carry_posterior and self.data.window != "new":
            raise ValueError("fit.carry_posterior needs data.window = 'new': other windows have rows in them twice")


_CONFIG: TypeAdapter[Config] = TypeAdapter(Config)


def read_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> Config:
    """Check a configuration: the path of a TOML file, or its content as a dict.

    Raises
    ------
    ArgumentError
        That lists all that is wrong with it.

    Examples
    --------
    >>> tables = {"data": {"store": "rows.zarr"}, "model": {"function": "models:build"}, "runs": {"folder": "runs"}}
    >>> read_config(tables).data.window
    'all'
    >>> read_config(tables | {"fit": {"stepps": 5}})
    Traceback (most recent call last):
    ...
    dvi.errors.ArgumentError: The configuration is not valid: fit.stepps is not known, did you mean 'steps'?
    """
    label, tables = ("The configuration", config) if isinstance(config, Mapping) else (str(config), _parsed(config))
    try:
        return _CONFIG.validate_json(json.dumps(tables, default=str))
    except ValidationError as error:
        raise ArgumentError(f"{label} is not valid: {'; '.join(map(_told, error.errors()))}") from None


def _parsed(path: str | os.PathLike[str]) -> dict[str, Any]:
    if not isinstance(path, str | os.PathLike):
        raise ArgumentTypeError(f"config={path!r} is of type {type(path).__name__}; give a path or a mapping")
    try:
        return tomllib.loads(Path(checked_path(path)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} cannot be read ({error}): give the path of a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise ArgumentError(f"{path} is not TOML: {error}. Repair that line.") from None


def _told(error: Any) -> str:
    """One thing that is wrong, with where it is and the nearest that would be right."""
    where = ".".join(map(str, error["loc"]))
    match error["type"]:
        case "unexpected_keyword_argument":
            *tables, name = error["loc"]
            return f"{where} is not known, {_nearest(str(name), _names(tables))}"
        case "missing":
            return f"{where} is missing"
        case "literal_error":
            allowed = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            return f"{where} = {error['input']!r} is not allowed, {_nearest(str(error['input']), allowed)}"
        case "value_error":
            return f"{where}: {error['ctx']['error']}" if where else str(error["ctx"]["error"])
        case _:
            return f"{where} = {error['input']!r} is not allowed: {error['msg'][0].lower()}{error['msg'][1:]}"


def _names(tables: list[Any]) -> list[str]:
    """The keys that a table may have."""
    kind: Any = Config
    for table in tables:
        kind = get_type_hints(kind)[table]
    return [known.name for known in fields(kind)]


def _nearest(given: str, allowed: list[str]) -> str:
    return suggestion(given, allowed).removeprefix("; ") or f"allowed are {', '.join(allowed)}"
