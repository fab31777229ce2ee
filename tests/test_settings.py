"""What a user may ask of a run is checked before any work, and PyMC's own objects are taken."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytest
from pymc.variational import callbacks as pymc_callbacks

import dvi
from dvi.callbacks import CheckParametersConvergence
from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.settings import REFUSED, RUN, as_optimizer, live_rate, make_settings, refuse_unknown


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        ({"obj_n_mc": 0}, ArgumentError, "obj_n_mc=0 is not allowed"),
        ({"obj_n_mc": 2.0}, ArgumentTypeError, "obj_n_mc=2.0 is of type float"),
        ({"obj_n_mc": True}, ArgumentTypeError, "obj_n_mc=True"),
        ({"threads": 0}, ArgumentError, "threads=0"),
        ({"threads": "2"}, ArgumentTypeError, "threads='2' is of type str"),
        ({"lanes": 1.0}, ArgumentTypeError, "lanes=1.0"),
        ({"staleness": 2}, ArgumentError, "staleness=2 is not allowed; .*at least 0 and at most 1"),
        ({"staleness": -1}, ArgumentError, "staleness=-1"),
        ({"staleness": 1.0}, ArgumentTypeError, "staleness=1.0 is of type float"),
        ({"total_grad_norm_constraint": 0.0}, ArgumentError, "total_grad_norm_constraint = 0.0"),
        ({"total_grad_norm_constraint": np.inf}, ArgumentError, "total_grad_norm_constraint = inf"),
        ({"total_grad_norm_constraint": "1"}, ArgumentTypeError, "total_grad_norm_constraint = '1'"),
        ({"callbacks": [3]}, ArgumentTypeError, "the callback 3 cannot be called"),
        ({"callbacks": print}, ArgumentTypeError, r"is not a list; give \[f\]"),
        ({"client": "tcp://localhost:8786"}, ArgumentTypeError, "client='tcp.*give a distributed.Client"),
        ({"backend": "jax"}, ArgumentError, "backend='jax' is not available; kernels are compiled by numba"),
        ({"obj_optimizer": "adam"}, ArgumentTypeError, "obj_optimizer='adam' is not an optimizer; give one of"),
        ({"obj_optimizer": dict}, ArgumentTypeError, "is not an optimizer"),
        ({"obj_optimizer": pm.adam, "n_mc": 1}, ArgumentTypeError, "did you mean 'obj_n_mc'"),
        ({"obj_optimizer": "adamm"}, ArgumentTypeError, "dvi.adam.*did you mean 'adam'"),
        ({"zzz": 1}, ArgumentTypeError, "unknown keyword 'zzz'; allowed are callbacks, obj_optimizer"),
    ],
)
def test_what_is_not_allowed(run: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make_settings(10, run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("n", "error"), [(-1, ArgumentError), (1.5, ArgumentTypeError), (True, ArgumentTypeError)])
def test_numbers_of_steps_that_are_not_allowed(n: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"n={n}"):
        make_settings(n, {})


@pytest.mark.parametrize("name", REFUSED)
def test_what_pymc_takes_and_dvi_does_not_is_refused_with_its_reason(name: str) -> None:
    assert name not in RUN
    with pytest.raises(ArgumentTypeError, match=f"{name} is not supported: ") as caught:
        refuse_unknown({name: 1}, RUN)
    assert REFUSED[name] in str(caught.value)


@pytest.mark.parametrize("run", [{"score": True}, {"backend": "numba"}, {"backend": None}, {"progressbar_theme": 1}])
def test_what_is_taken_as_pymc_takes_it_changes_nothing(run: dict[str, Any]) -> None:
    assert make_settings(10, run) == make_settings(10, {})


def test_callbacks_are_kept_in_their_order() -> None:
    def one(*_: Any) -> None:
        """Nothing."""

    def two(*_: Any) -> None:
        """Nothing."""

    def generator() -> Iterator[Any]:
        yield from (two, one)

    assert make_settings(1, {"callbacks": generator()}).callbacks == (two, one)
    assert make_settings(1, {"callbacks": None}).callbacks == make_settings(1, {"callbacks": []}).callbacks == ()


@pytest.mark.parametrize("diff", ["relative", "absolute"])
def test_the_check_of_convergence_of_pymc_becomes_that_of_dvi(diff: str) -> None:
    theirs = pymc_callbacks.CheckParametersConvergence(every=7, tolerance=0.25, diff=diff, ord=2)
    (ours,) = make_settings(1, {"callbacks": [theirs]}).callbacks
    assert isinstance(ours, CheckParametersConvergence)
    assert (ours.every, ours.tolerance, ours.diff, ours.ord) == (7, 0.25, diff, 2.0)


def test_other_callbacks_of_pymc_are_used_as_they_are() -> None:
    class Mine(pymc_callbacks.CheckParametersConvergence):
        def __call__(self, approx: Any, losses: Any, i: int) -> None:
            """Nothing."""

    given = [pymc_callbacks.Tracker(loss=lambda a, h, i: h[-1]), Mine(), CheckParametersConvergence()]
    assert make_settings(1, {"callbacks": given}).callbacks == tuple(given)


@pytest.mark.parametrize("optimizer", [pm.adam(learning_rate=0.02), dvi.adam(learning_rate=0.02)])
def test_optimizers_of_pymc_are_the_same_rules(optimizer: Any) -> None:
    assert as_optimizer(optimizer) == dvi.adam(0.02)
    assert live_rate(optimizer) is None


def test_optimizers_that_are_functions_take_their_defaults() -> None:
    assert as_optimizer(pm.adam) == as_optimizer(dvi.adam) == dvi.adam()
    assert as_optimizer(functools.partial(dvi.adam, beta1=0.5)) == dvi.adam(beta1=0.5)
    assert as_optimizer(None) is None


def test_an_optimizer_of_other_make_is_taken() -> None:
    class Mine:
        def init(self, theta: Any) -> tuple[Any, ...]:
            return ()

        def update(self, step: int, theta: Any, gradient: Any, state: Any, scale: float = 1.0) -> Any:
            return theta - 1e-3 * gradient, state

    mine = Mine()
    assert as_optimizer(mine) is mine


@pytest.mark.parametrize("adam", [pm.adam, dvi.adam])
def test_a_shared_learning_rate_is_read_again(adam: Any) -> None:
    rate = pytensor.shared(0.25)
    settings = make_settings(1, {"obj_optimizer": adam(learning_rate=rate)})
    assert settings.optimizer == dvi.adam(0.25)
    rate.set_value(0.125)
    assert settings.live_rate is not None
    assert settings.live_rate() == 0.125
