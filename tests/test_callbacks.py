"""Callbacks keep what they are told to and end a fit that has converged, as PyMC's do."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytest
from pymc.variational import callbacks as pymc_callbacks

import dvi
from dvi.callbacks import Callback, CheckParametersConvergence, Tracker
from dvi.errors import ArgumentError, ArgumentTypeError


def approx(*theta: float) -> Any:
    return SimpleNamespace(theta=np.array(theta))


def losses(i: int) -> np.ndarray:
    return np.arange(float(i), 0.0, -1.0)


# Tracker


class Bound:
    def nothing(self) -> str:
        return "nothing"

    def three(self, approx: Any, hist: Any, i: int) -> int:
        return i


def defaults(approx: Any = None, hist: Any = None, i: int = -1) -> int:
    return i


def anything(*arguments: Any) -> Any:
    return arguments[2]


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (lambda: 5, 5),
        (lambda a, h, i: i, 7),
        (lambda a, h, i, j=3: j, 3),
        (Bound().nothing, "nothing"),
        (Bound().three, 7),
        (functools.partial(defaults, None, None), -1),
        (defaults, -1),
        (anything, 7),
        (lambda *arguments: len(arguments), 0),
        (dict, {}),
    ],
)
def test_tracker_calls_functions_of_nothing_and_of_three(function: Callable[..., Any], value: Any) -> None:
    tracker = Tracker(x=function)
    tracker(approx(), losses(7), 7)
    assert tracker["x"] == [value]


def test_tracker_takes_builtins() -> None:
    tracker = Tracker(time=time.time)
    tracker(approx(), losses(1), 1)
    assert isinstance(tracker["time"][0], float)


def test_tracker_keeps_lists_by_name_until_cleared() -> None:
    tracker = Tracker(loss=lambda a, h, i: h[-1], step=lambda a, h, i: i)
    assert tracker["loss"] == []
    for i in (1, 2):
        tracker.record(approx(), losses(i), i)
    assert tracker.hist == {"loss": [1.0, 1.0], "step": [1, 2]}
    tracker.clear()
    assert tracker.hist == {"loss": [], "step": []}


def test_tracker_shows_the_error_of_a_function_and_keeps_no_half_step() -> None:
    tracker = Tracker(good=lambda: 1, bad=lambda: losses(0)[0])
    with pytest.raises(IndexError):
        tracker(approx(), losses(1), 1)
    assert tracker.hist == {"good": [], "bad": []}


def test_tracker_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ArgumentTypeError, match="name a function"):
        Tracker()
    with pytest.raises(ArgumentTypeError, match="mean=3 is of type int"):
        Tracker(mean=3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="neither no arguments nor three"):
        Tracker(two=lambda a, h: None)
    with pytest.raises(ArgumentError, match="there are mean"):
        Tracker(mean=lambda: 1)["std"]


# CheckParametersConvergence


def stops(check: CheckParametersConvergence, thetas: Callable[[int], Any], steps: range) -> int | None:
    """The step at which a check ends a fit."""
    for i in steps:
        try:
            check(thetas(i), losses(i), i)
        except StopIteration:
            return i
    return None


@pytest.mark.parametrize("first", [0, 1, 37, 100, 12_345])
def test_it_can_be_called_first_at_any_step(first: int) -> None:
    check = CheckParametersConvergence(every=10, diff="absolute")
    assert stops(check, lambda i: approx(1.0, 2.0), range(first, first + 100)) == first + 10


def test_it_compares_with_the_check_before() -> None:
    check = CheckParametersConvergence(every=10, tolerance=0.5, diff="absolute")
    assert stops(check, lambda i: approx(max(0.0, 100.0 - i)), range(1, 200)) == 111


def test_it_is_not_fooled_by_rare_calls() -> None:
    """Two calls that are close to each other say little, on whatever multiples they fall."""
    check = CheckParametersConvergence(every=100, tolerance=5.0, diff="absolute")
    for i in (1, 199, 201, 203, 290):
        check(approx(float(i)), losses(i), i)
    check(approx(301.0), losses(301), 301)
    with pytest.raises(StopIteration):
        check(approx(302.0), losses(500), 500)


def test_relative_change_is_that_of_pymc() -> None:
    from pymc.variational.callbacks import relative

    before, after = np.array([1.0, -2.0, 0.0]), np.array([1.001, -2.01, 1e-9])
    norm = np.linalg.norm(relative(after, before), np.inf)
    for factor, ends in ((0.999, False), (1.001, True)):
        check = CheckParametersConvergence(every=1, tolerance=norm * factor)
        check(approx(*before), losses(1), 1)
        if ends:
            with pytest.raises(StopIteration, match="at step 2: the relative change over 1 steps"):
                check(approx(*after), losses(2), 2)
        else:
            check(approx(*after), losses(2), 2)


@pytest.mark.parametrize(("order", "ends"), [(np.inf, True), (None, False), (2, False), (1, False), (-np.inf, True)])
def test_norm(order: float | None, ends: bool) -> None:
    check = CheckParametersConvergence(every=1, tolerance=1.1, diff="absolute", ord=order)
    check(approx(0.0, 0.0), losses(1), 1)
    assert (stops(check, lambda i: approx(1.0, 1.0), range(2, 3)) == 2) is ends


def test_another_fit_starts_afresh() -> None:
    check = CheckParametersConvergence(every=10, diff="absolute")
    assert stops(check, lambda i: approx(float(i)), range(1, 100)) is None
    assert stops(check, lambda i: approx(1.0), range(1, 100)) == 11
    assert stops(check, lambda i: approx(1.0, 2.0, 3.0), range(12, 100)) == 22


def test_parameters_that_are_not_finite_have_not_converged() -> None:
    check = CheckParametersConvergence(every=1)
    assert stops(check, lambda i: approx(np.nan), range(10)) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"every": 0}, {"every": 1.5}, {"every": True}, {"tolerance": 0}, {"tolerance": -1}, {"tolerance": np.nan},
        {"tolerance": "1"}, {"diff": "other"}, {"ord": 0}, {"ord": "fro"}, {"ord": np.nan}, {"ord": True},
    ],
)  # fmt: skip
def test_settings_that_are_not_allowed(settings: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(settings))):
        CheckParametersConvergence(**settings)


@pytest.mark.parametrize("diff", ["relative", "absolute"])
@pytest.mark.parametrize("ord", [1, 2, np.inf])
def test_it_takes_the_approximations_of_pymc(diff: Any, ord: float) -> None:
    class Theirs:
        params = (pytensor.shared(np.array([1.0, 2.0])), pytensor.shared(np.array([[3.0]])))

    check = CheckParametersConvergence(every=1, diff=diff, ord=ord)
    check(Theirs(), losses(1), 1)  # type: ignore[arg-type]
    with pytest.raises(StopIteration):
        check(Theirs(), losses(10), 10)  # type: ignore[arg-type]
    Theirs.params[1].set_value(np.array([[4.0]]))
    check(Theirs(), losses(11), 11)  # type: ignore[arg-type]


@pytest.mark.parametrize("ord", [1, 2, np.inf])
@pytest.mark.parametrize("diff", ["relative", "absolute"])
@pytest.mark.parametrize("every", [1, 7])
def test_it_ends_a_fit_where_that_of_pymc_does(diff: Any, ord: float, every: int) -> None:
    """Given what both read: parameters as shared variables."""
    theirs = pymc_callbacks.CheckParametersConvergence(every=every, diff=diff, ord=ord, tolerance=1e-2)
    ours = CheckParametersConvergence(every=every, diff=diff, ord=ord, tolerance=1e-2)
    variable = pytensor.shared(np.zeros(2))
    ends = {}
    for name, check in (("theirs", theirs), ("ours", ours)):
        for i in range(0, 500 * every, every):
            variable.set_value(np.array([1.0, -2.0]) + 0.97 ** (i / every))
            try:
                check(SimpleNamespace(params=[variable]), losses(1), i)
            except StopIteration:
                ends[name] = i
                break
    assert ends["ours"] == ends["theirs"] > 10 * every


def test_reprs_say_what_they_do() -> None:
    tracker = Tracker(loss=lambda a, h, i: h[-1], step=lambda a, h, i: i)
    tracker(approx(), losses(1), 1)
    assert repr(tracker) == "Tracker(loss, step; 1 values each)"
    check = CheckParametersConvergence(every=5, diff="absolute", ord=2)
    assert repr(check) == "CheckParametersConvergence(every=5, tolerance=0.001, diff='absolute', ord=2.0)"


# In a fit


def test_callback_is_a_base_class_as_in_pymc() -> None:
    class Mine(Callback):
        def __call__(self, approx: Any, losses: Any, i: int, /) -> None:
            """Nothing."""

    assert isinstance(Mine(), Callback)
    assert isinstance(Tracker(time=time.time), Callback)
    assert isinstance(CheckParametersConvergence(), Callback)


def test_callbacks_in_a_fit() -> None:
    y = np.random.default_rng(1).normal(3.0, 1.0, 100)
    tracker = Tracker(step=lambda approx, hist, i: i, mu=lambda approx, hist, i: approx.params["mu"].copy())
    check = CheckParametersConvergence(every=20, tolerance=1e9)
    with pm.Model():
        mu = pm.Normal("mu", 0, 10)
        pm.Normal("y", mu, 1, observed=y)
        approx = dvi.fit(100, random_seed=1, callbacks=[tracker, check], progressbar=False)
    assert len(approx.hist) == 40  # compared at step 40 with step 20
    assert tracker["step"] == list(range(1, 41))
    assert np.array_equal(tracker["mu"][-1], approx.params["mu"])
    assert not np.array_equal(tracker["mu"][0], tracker["mu"][-1])
