"""What a user may ask of a run, checked before any work."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dvi.callbacks.convergence import CheckParametersConvergence
from dvi.errors import ArgumentError, ArgumentTypeError, suggestion
from dvi.inference import optimizers
from dvi.inference.optimizers import OPTIMIZERS, take_live
from dvi.inference.settings import positive
from dvi.types import FloatArray, Optimizer

type Callback = Callable[[Any, FloatArray, int], object]

TOLERANCE = 0.1  # of a fit until it has converged, in posterior standard deviations
CONSTRUCTION = ("random_seed", "start", "start_sigma", "init")
RUN = (
    "callbacks", "obj_optimizer", "obj_n_mc", "total_grad_norm_constraint", "progressbar", "client", "threads", "lanes",
    "score", "more_replacements", "include_transformed", "backend", "progressbar_theme",
    "tolerance", "max_steps", "max_seconds", "checkpoint", "checkpoint_every", "keep", "storage_options",
    "on_nonfinite", "cache_bytes", "staleness",
)  # fmt: skip
_WITH_DEFAULTS = (
    "tolerance", "max_steps", "max_seconds", "checkpoint_every", "keep", "on_nonfinite", "cache_bytes", "staleness",
)  # fmt: skip
_STORED = {  # keywords of a run that a checkpoint holds, and the fields that they become
    "obj_n_mc": "draws",
    "total_grad_norm_constraint": "max_norm",
    "lanes": "lanes",
    "include_transformed": "include_transformed",
    **{name: name for name in _WITH_DEFAULTS},
}
REFUSED = {  # what pm.fit takes and dvi has no use for
    "more_updates": "a step is a pure function of its state, so nothing else can be updated in it; use a callback",
    "more_obj_params": "the parameters are those of the approximation; give the model free variables for more",
    "more_tf_params": "there is no test function with parameters of its own",
    "test_optimizer": "there is no test function with parameters of its own",
    "tf_n_mc": "there is no test function with parameters of its own",
    "fn_kwargs": "kernels are compiled by dvi; set pytensor.config for what it leaves open",
    "compile_kwargs": "kernels are compiled by dvi; set pytensor.config for what it leaves open",
}


_COUNTS = (  # fields that may be left out, the least that is allowed, and what they are
    ("draws", 1, "number of Monte Carlo draws"),
    ("threads", 1, "number of threads"),
    ("lanes", 1, "number of lanes"),
    ("cache_bytes", 0, "number of bytes"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run a fit, checked where it is made."""

    n: int | None = 10_000
    optimizer: Optimizer | None = None
    draws: int | None = None
    max_norm: float | None = None
    callbacks: tuple[Callback, ...] = ()
    progressbar: bool = True
    client: Any = None
    threads: int | None = None
    lanes: int | None = None
    more_replacements: Mapping[Any, Any] | None = None
    include_transformed: bool | None = None
    live_rate: Callable[[], float] | None = None  # a learning rate that may change between steps
    tolerance: float = TOLERANCE
    max_steps: int = 200_000
    max_seconds: float | None = None
    checkpoint: Any = None
    checkpoint_every: float = 60.0  # seconds
    keep: int = 2
    storage_options: Mapping[str, Any] | None = None
    on_nonfinite: str = "raise"
    cache_bytes: int | None = None
    staleness: int = 0

    def __post_init__(self) -> None:
        if self.n is not None:
            check_int("n", self.n, 0, "number of steps")
        elif self.optimizer is not None:
            raise ArgumentError(
                "n=None needs the default optimizer, whose steps it adapts; leave obj_optimizer out, or give n"
            )
        for name in ("tolerance", "checkpoint_every"):
            positive(name, getattr(self, name))
        if self.max_seconds is not None:
            positive("max_seconds", self.max_seconds)
        check_int("max_steps", self.max_steps, 1, "number of steps")
        if self.storage_options is not None and self.checkpoint is None:
            raise ArgumentError("storage_options are for the URL of a checkpoint; give checkpoint=, or leave them out")
        check_int("keep", self.keep, 1, "number of checkpoints")
        for name, least, what in _COUNTS:
            if getattr(self, name) is not None:
                check_int("obj_n_mc" if name == "draws" else name, getattr(self, name), least, what)
        if str(self.on_nonfinite) not in ("raise", "skip"):  # an array has no truth value in `in`
            raise ArgumentError(f"on_nonfinite={self.on_nonfinite!r} is not allowed; give 'raise' or 'skip'")
        check_int("staleness", self.staleness, 0, "number of steps", most=1)
        if self.max_norm is not None:
            positive("total_grad_norm_constraint", self.max_norm)
        if self.client is not None and not hasattr(self.client, "asynchronous"):
            raise ArgumentTypeError(
                f"client={self.client!r} is of type {type(self.client).__name__}; give a distributed.Client"
            )
        for callback in self.callbacks:
            if not callable(callback):
                raise ArgumentTypeError(f"the callback {callback!r} cannot be called; give f(approx, losses, i)")


def check_int(name: str, value: object, least: int, what: str, most: float = math.inf) -> None:
    """Refuse what is not an int of at least ``least`` and at most ``most``."""
    allowed = f"give a {what} of at least {least}" + (f" and at most {most}" if most < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ArgumentTypeError(f"{name}={value!r} is of type {type(value).__name__}; {allowed}")
    if not least <= value <= most:
        raise ArgumentError(f"{name}={value} is not allowed; {allowed}")


def refuse_unknown(given: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Refuse keywords that are not known, with the nearest that is."""
    for name in given:
        if name in REFUSED:
            raise ArgumentTypeError(f"{name} is not supported: {REFUSED[name]}")
        if name not in known:
            hint = suggestion(name, known) or f"; allowed are {', '.join(known)}"
            raise ArgumentTypeError(f"unknown keyword {name!r}{hint}")


def make_settings(n: int | None, run: Mapping[str, Any]) -> Settings:
    """Check the keywords of a run."""
    refuse_unknown(run, RUN)
    backend, progressbar = run.get("backend"), run.get("progressbar", True)
    if backend is not None and not (isinstance(backend, str) and backend == "numba"):
        raise ArgumentError(f"backend={backend!r} is not available; kernels are compiled by numba, leave it out")
    if progressbar is not None and not isinstance(progressbar, bool | int | np.bool_):
        raise ArgumentTypeError(f"progressbar={progressbar!r} is not a bool; give True or False")
    return Settings(
        n=n,
        optimizer=as_optimizer(run.get("obj_optimizer")),
        draws=run.get("obj_n_mc"),
        max_norm=run.get("total_grad_norm_constraint"),
        callbacks=_callbacks(run.get("callbacks")),
        progressbar=bool(progressbar),
        client=run.get("client"),
        threads=run.get("threads"),
        lanes=run.get("lanes"),
        more_replacements=run.get("more_replacements"),
        include_transformed=run.get("include_transformed"),
        live_rate=live_rate(run.get("obj_optimizer")),
        checkpoint=run.get("checkpoint"),
        storage_options=run.get("storage_options"),
        **{name: run[name] for name in _WITH_DEFAULTS if name in run},
    )


def to_json(settings: Settings) -> dict[str, Any]:
    """What a checkpoint holds of the settings of a run, with the names of those that it cannot hold in ``needed``."""
    try:
        rule = None if settings.optimizer is None else optimizers.to_json(settings.optimizer)
    except ArgumentTypeError:  # of other make, or with a learning rate that is a function
        rule = None
    needed = {
        "callbacks": bool(settings.callbacks),
        "obj_optimizer": settings.live_rate is not None or (rule is None and settings.optimizer is not None),
        "more_replacements": bool(settings.more_replacements),
    }
    return {
        "n": None if settings.n is None else int(settings.n),
        "run": {keyword: _plain(getattr(settings, name)) for keyword, name in _STORED.items()},
        "obj_optimizer": rule,
        "needed": [name for name, is_needed in needed.items() if is_needed],
    }


def resumed_settings(record: Mapping[str, Any], n: int | None, given: Mapping[str, Any]) -> Settings:
    """The settings of a run that goes on.

    Parameters
    ----------
    record : mapping
        What :func:`to_json` gave.
    n : int, optional
    given : mapping
        Keywords of the run that a checkpoint does not hold.

    Raises
    ------
    ArgumentError
        If something is given that the run did not have, or not given that it had.
    """
    for name in ("callbacks", "obj_optimizer", "more_replacements"):
        if name in record["needed"] and given[name] is None:
            raise ArgumentError(f"the fit had {name}, which no checkpoint can hold; give {name}= again")
        if name not in record["needed"] and name != "callbacks" and given[name] is not None:
            raise ArgumentError(f"the fit goes on as it began, without the {name} that is given; leave it out")
    stored = {keyword: record["run"][keyword] for keyword in _STORED}
    rule = record["obj_optimizer"]
    own = {} if rule is None else {"obj_optimizer": optimizers.from_json(rule)}
    return make_settings(n, {**given, **stored, **(own if given["obj_optimizer"] is None else {})})


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _callbacks(given: Any) -> tuple[Callback, ...]:
    if given is not None and not isinstance(given, Iterable):
        raise ArgumentTypeError(f"callbacks={given!r} is not a list; give [f], a list of f(approx, losses, i)")
    return tuple(_as_callback(callback) for callback in (() if given is None else given))


def _as_callback(callback: Any) -> Callback:
    """The callback itself; PyMC's check of convergence, which reads PyMC's kind of parameters, becomes dvi's own."""
    kind = type(callback)
    if (kind.__module__, kind.__name__) != ("pymc.variational.callbacks", "CheckParametersConvergence"):
        own: Callback = callback
        return own
    return CheckParametersConvergence(callback.every, callback.tolerance, callback._diff.__name__, callback.ord)


_RULES = (optimizers.__name__, "pymc.variational.updates")  # modules whose functions make a rule


def as_optimizer(optimizer: Any) -> Optimizer | None:
    """Return an optimizer; PyMC's own, such as ``pm.adam(learning_rate=0.01)``, become the same rule here.

    A learning rate that is a shared variable is taken at its present value; :func:`live_rate` goes on reading it.
    """
    rule = _rule(optimizer)
    return None if rule is None else take_live(rule)[0]


def live_rate(optimizer: Any) -> Callable[[], float] | None:
    """What reads the learning rate of an optimizer where it is a shared variable, else None."""
    rule = _rule(optimizer)
    return None if rule is None else take_live(rule)[1]


def _rule(optimizer: Any) -> Optimizer | None:
    keywords: dict[str, Any] = {}
    if isinstance(optimizer, functools.partial):
        keywords = {k: v for k, v in optimizer.keywords.items() if k not in ("loss_or_grads", "params")}
        optimizer = optimizer.func
    name = getattr(optimizer, "__name__", "")
    momenta = ("apply_momentum", "apply_nesterov_momentum")  # PyMC's take updates, not a rule
    if name in OPTIMIZERS and name not in momenta and optimizer.__module__ in _RULES:
        rule: Optimizer = getattr(optimizers, name)(**keywords)
        return rule
    if optimizer is None or (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        checked: Optimizer | None = optimizer
        return checked
    raise ArgumentTypeError(
        f"obj_optimizer={optimizer!r} is not an optimizer; give one of {', '.join(OPTIMIZERS)}, "
        f"for instance dvi.adam(learning_rate=0.01){suggestion(optimizer, OPTIMIZERS)}"
    )
