"""What a user may ask of a run, checked before any work."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference import optimizers
from dvi.inference.optimizers import OPTIMIZERS
from dvi.types import FloatArray, Optimizer

type Callback = Callable[[Any, FloatArray, int], object]

CONSTRUCTION = ("random_seed", "start", "start_sigma")
RUN = (
    "callbacks", "obj_optimizer", "obj_n_mc", "total_grad_norm_constraint", "progressbar", "client", "threads", "lanes",
    "score",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run a fit, checked where it is made."""

    n: int = 10_000
    optimizer: Optimizer | None = None
    draws: int = 1
    max_norm: float | None = None
    callbacks: tuple[Callback, ...] = ()
    progressbar: bool = True
    client: Any = None
    threads: int | None = None
    lanes: int | None = None

    def __post_init__(self) -> None:
        check_int("n", self.n, 0, "number of steps")
        check_int("obj_n_mc", self.draws, 1, "number of Monte Carlo draws")
        for name in ("threads", "lanes"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1, f"number of {name}")
        if self.max_norm is not None and not 0 < self.max_norm < math.inf:
            raise ArgumentError(f"total_grad_norm_constraint={self.max_norm} is not a positive number; leave it out")
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
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(known)}"
            raise ArgumentTypeError(f"unknown keyword {name!r}; {hint}")


def make_settings(n: int, run: Mapping[str, Any]) -> Settings:
    """Check the keywords of a run."""
    refuse_unknown(run, RUN)
    return Settings(
        n=n,
        optimizer=as_optimizer(run.get("obj_optimizer")),
        draws=run.get("obj_n_mc", 1),
        max_norm=run.get("total_grad_norm_constraint"),
        callbacks=tuple(run.get("callbacks") or ()),
        progressbar=bool(run.get("progressbar", True)),
        client=run.get("client"),
        threads=run.get("threads"),
        lanes=run.get("lanes"),
    )


def as_optimizer(optimizer: Any) -> Optimizer | None:
    """Return an optimizer; PyMC's own, such as ``pm.adam(learning_rate=0.01)``, become the same rule here."""
    keywords: dict[str, Any] = {}
    if isinstance(optimizer, functools.partial):
        keywords = {k: v for k, v in optimizer.keywords.items() if k not in ("loss_or_grads", "params")}
        optimizer = optimizer.func
    name = getattr(optimizer, "__name__", "")
    if name in OPTIMIZERS and optimizer.__module__ in (optimizers.__name__, "pymc.variational.updates"):
        rule: Optimizer = getattr(optimizers, name)(**keywords)
        return rule
    if optimizer is None or (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        checked: Optimizer | None = optimizer
        return checked
    raise ArgumentTypeError(
        f"obj_optimizer={optimizer!r} is not an optimizer; give one of {', '.join(OPTIMIZERS)}, "
        "for instance dvi.adam(learning_rate=0.01)"
    )
