"""What a user may ask of a run, checked before any work."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dvi.callbacks.convergence import CheckParametersConvergence
from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference import optimizers
from dvi.inference.optimizers import OPTIMIZERS, take_live
from dvi.inference.settings import positive
from dvi.types import FloatArray, Optimizer

type Callback = Callable[[Any, FloatArray, int], object]

CONSTRUCTION = ("random_seed", "start", "start_sigma", "init")
RUN = (
    "callbacks", "obj_optimizer", "obj_n_mc", "total_grad_norm_constraint", "progressbar", "client", "threads", "lanes",
    "score", "more_replacements", "include_transformed", "backend", "progressbar_theme",
    "tolerance", "max_steps", "max_seconds",
)  # fmt: skip
REFUSED = {  # what pm.fit takes and dvi has no use for
    "more_updates": "a step is a pure function of its state, so nothing else can be updated in it; use a callback",
    "more_obj_params": "the parameters are those of the approximation; give the model free variables for more",
    "more_tf_params": "there is no test function with parameters of its own",
    "test_optimizer": "there is no test function with parameters of its own",
    "tf_n_mc": "there is no test function with parameters of its own",
    "fn_kwargs": "kernels are compiled by dvi; set pytensor.config for what it leaves open",
    "compile_kwargs": "kernels are compiled by dvi; set pytensor.config for what it leaves open",
}


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
    tolerance: float = 0.1
    max_steps: int = 200_000
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.n is not None:
            check_int("n", self.n, 0, "number of steps")
        elif self.optimizer is not None:
            raise ArgumentError(
                "n=None needs the default optimizer, whose steps it adapts; leave obj_optimizer out, or give n"
            )
        check_int("max_steps", self.max_steps, 1, "number of steps")
        for name in ("tolerance", "max_seconds"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.draws is not None:
            check_int("obj_n_mc", self.draws, 1, "number of Monte Carlo draws")
        for name in ("threads", "lanes"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1, f"number of {name}")
        if self.max_norm is not None:
            positive("total_grad_norm_constraint", self.max_norm)
        if self.client is not None and not hasattr(self.client, "asynchronous"):
            raise ArgumentTypeError(
                f"client={self.client!r} is of type {type(self.client).__name__}; give a distributed.Client"
            )
        for callback in self.callbacks:
            if not callable(callback):
                raise ArgumentTypeError(f"the callback {callback!r} cannot be called; give f(approx, losses, i)")


def check_int(name: str, value: object, least: int, what: str) -> None:
    """Refuse what is not an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ArgumentTypeError(
            f"{name}={value!r} is of type {type(value).__name__}; give a {what} of at least {least}"
        )
    if value < least:
        raise ArgumentError(f"{name}={value} is not allowed; give a {what} of at least {least}")


def refuse_unknown(given: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Refuse keywords that are not known, with the nearest that is."""
    for name in given:
        if name in REFUSED:
            raise ArgumentTypeError(f"{name} is not supported: {REFUSED[name]}")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(known)}"
            raise ArgumentTypeError(f"unknown keyword {name!r}; {hint}")


def make_settings(n: int | None, run: Mapping[str, Any]) -> Settings:
    """Check the keywords of a run."""
    refuse_unknown(run, RUN)
    if run.get("backend") not in (None, "numba"):
        raise ArgumentError(f"backend={run['backend']!r} is not available; kernels are compiled by numba, leave it out")
    return Settings(
        n=n,
        optimizer=as_optimizer(run.get("obj_optimizer")),
        draws=run.get("obj_n_mc"),
        max_norm=run.get("total_grad_norm_constraint"),
        callbacks=_callbacks(run.get("callbacks")),
        progressbar=bool(run.get("progressbar", True)),
        client=run.get("client"),
        threads=run.get("threads"),
        lanes=run.get("lanes"),
        more_replacements=run.get("more_replacements"),
        include_transformed=run.get("include_transformed"),
        live_rate=live_rate(run.get("obj_optimizer")),
        **{name: run[name] for name in ("tolerance", "max_steps", "max_seconds") if name in run},
    )


def _callbacks(given: Any) -> tuple[Callback, ...]:
    if given is not None and not isinstance(given, Iterable):
        raise ArgumentTypeError(f"callbacks={given!r} is not a list; give [f], a list of f(approx, losses, i)")
    return tuple(_as_callback(callback) for callback in given or ())


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
        "for instance dvi.adam(learning_rate=0.01)"
    )
