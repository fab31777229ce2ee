from __future__ import annotations

import inspect
import json
from dataclasses import dataclass

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose
from pymc.variational import updates as pymc_rules
from pytensor.compile.mode import Mode

from dvi.errors import ArgumentError, ArgumentTypeError
from dvi.inference import optimizers
from dvi.inference.schedules import Constant, Cosine, Exponential, OneCycle, ReduceOnPlateau

PYTHON_ONLY = Mode(linker="py", optimizer=None)
STEPS = 30
NAMES = [
    "sgd", "momentum", "nesterov_momentum", "adagrad", "adagrad_window", "rmsprop", "adadelta", "adam", "adamax",
]  # fmt: skip

# Settings besides PyMC's defaults.
OTHERS = {
    "sgd": {"learning_rate": 0.3},
    "momentum": {"learning_rate": 0.05, "momentum": 0.5},
    "nesterov_momentum": {"learning_rate": 0.05, "momentum": 0.99},
    "adagrad": {"learning_rate": 0.1, "epsilon": 1e-2},
    "adagrad_window": {"learning_rate": 0.2, "epsilon": 1e-3, "n_win": 4},
    "rmsprop": {"learning_rate": 0.05, "rho": 0.5, "epsilon": 1e-3},
    "adadelta": {"learning_rate": 2.0, "rho": 0.8, "epsilon": 1e-2},
    "adam": {"learning_rate": 0.2, "beta1": 0.0, "beta2": 0.9, "epsilon": 1e-3},
    "adamax": {"learning_rate": 0.2, "beta1": 0.8, "beta2": 0.0, "epsilon": 1e-3},
}


@dataclass(frozen=True)
class Quadratic:
    """Noisy gradients of a quadratic; some components are exactly zero now and then."""

    curvature: np.ndarray
    noise: np.ndarray  # (STEPS, p)

    def gradient(self, step: int, theta: np.ndarray) -> np.ndarray:
        return np.where(self.noise[step] > 1.0, 0.0, self.curvature * theta + 0.5 * self.noise[step])


def quadratic(p: int) -> Quadratic:
    rng = np.random.default_rng(20)
    return Quadratic(np.geomspace(0.1, 2.0, p), rng.normal(size=(STEPS, p)))


def pymc_iterates(name: str, settings: dict, problem: Quadratic, start: np.ndarray) -> list[np.ndarray]:
    theta = pytensor.shared(start.copy(), "theta")
    gradient = pt.dvector("gradient")
    updates = getattr(pymc_rules, name)(**settings)([gradient], [theta])
    step_function = pytensor.function([gradient], [], updates=updates, mode=PYTHON_ONLY)
    iterates = []
    for step in range(STEPS):
        step_function(problem.gradient(step, theta.get_value()))
        iterates.append(theta.get_value())
    return iterates


@pytest.mark.parametrize("which", ["defaults", "others"])
@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_the_one_that_pymc_takes(name, which):
    settings = OTHERS[name] if which == "others" else {}
    start = np.linspace(-2.0, 3.0, 8)
    problem = quadratic(start.size)
    optimizer = getattr(optimizers, name)(**settings)
    theta, state = start, optimizer.init(start)
    for step, expected in enumerate(pymc_iterates(name, settings, problem, start)):
        theta, state = optimizer.update(step, theta, problem.gradient(step, theta), state)
        assert_allclose(theta, expected, rtol=1e-12, atol=1e-14, err_msg=f"step {step}")
    assert np.abs(theta - start).max() > 1e-3  # it went somewhere


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_those_of_pymc(name):
    ours = inspect.signature(getattr(optimizers, name)).parameters
    theirs = inspect.signature(getattr(pymc_rules, name)).parameters
    for theirs_name in ("loss_or_grads", "params"):
        assert theirs_name in theirs and theirs_name not in ours
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values() if p.name not in {"loss_or_grads", "params"}
    ]


@pytest.mark.parametrize("n_win", [1, 2, 3, 7, STEPS - 1, STEPS, STEPS + 1])
def test_windows_of_every_length_are_those_of_pymc(n_win):
    start = np.linspace(-2.0, 3.0, 8)
    problem = quadratic(start.size)
    settings = {"learning_rate": 0.2, "epsilon": 1e-6, "n_win": n_win}
    optimizer = optimizers.adagrad_window(**settings)
    theta, state = start, optimizer.init(start)
    for step, expected in enumerate(pymc_iterates("adagrad_window", settings, problem, start)):
        theta, state = optimizer.update(step, theta, problem.gradient(step, theta), state)
        assert_allclose(theta, expected, rtol=1e-12, atol=1e-14, err_msg=f"step {step}")


@pytest.mark.parametrize("name", ["apply_momentum", "apply_nesterov_momentum"])
@pytest.mark.parametrize("rule", ["sgd", "rmsprop", "adam"])
def test_momentum_on_another_rule_is_that_of_pymc(name, rule):
    start = np.linspace(-2.0, 3.0, 8)
    problem = quadratic(start.size)
    theta = pytensor.shared(start.copy(), "theta")
    gradient = pt.dvector("gradient")
    updates = getattr(pymc_rules, rule)(learning_rate=0.05)([gradient], [theta])
    updates = getattr(pymc_rules, name)(updates, [theta], momentum=0.7)
    step_function = pytensor.function([gradient], [], updates=updates, mode=PYTHON_ONLY)
    optimizer = getattr(optimizers, name)(getattr(optimizers, rule)(learning_rate=0.05), momentum=0.7)
    ours, state = start, optimizer.init(start)
    for step in range(STEPS):
        step_function(problem.gradient(step, theta.get_value()))
        ours, state = optimizer.update(step, ours, problem.gradient(step, ours), state)
        assert_allclose(ours, theta.get_value(), rtol=1e-12, atol=1e-14, err_msg=f"step {step}")
    assert np.abs(ours - start).max() > 1e-3


def test_momentum_needs_a_rule():
    for value in (None, optimizers.sgd, 0.1):
        with pytest.raises(ArgumentTypeError, match="is not an optimizer"):
            optimizers.apply_momentum(value)
    with pytest.raises(ArgumentError, match="momentum = "):
        optimizers.apply_nesterov_momentum(optimizers.sgd(), 1.0)


@pytest.mark.parametrize("value", [np.array(0.1), np.float32(0.25), pytensor.shared(np.float32(0.25))])
def test_learning_rates_may_be_arrays_and_variables_of_one_number(value):
    number = float(value.get_value() if hasattr(value, "get_value") else value)
    start, gradient = np.ones(2), np.array([1.0, -2.0])
    theta, _ = optimizers.sgd(value).update(0, start, gradient, ())
    assert_allclose(theta, start - number * gradient, rtol=1e-15)


@pytest.mark.parametrize("value", [np.array([0.1]), pytensor.shared(np.ones(2)), pytensor.shared("fast")])
def test_learning_rates_that_hold_no_number_are_refused(value):
    with pytest.raises(ArgumentTypeError, match="learning_rate"):
        optimizers.sgd(value)


def test_a_variable_that_turns_into_nonsense_is_refused():
    variable = pytensor.shared(0.1)
    rate = optimizers.sgd(variable).learning_rate
    variable.set_value(np.nan)
    with pytest.raises(ArgumentError, match="learning_rate = nan"):
        rate(3)
    with pytest.raises(ArgumentTypeError, match="cannot be saved"):
        optimizers.to_json(optimizers.sgd(pytensor.shared(0.1)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, 0.0, -0.1, np.nan, np.inf])
def test_learning_rates_out_of_range_are_refused(name, value):
    with pytest.raises(ArgumentError, match=r"learning_rate = .*Pass a finite number above 0"):
        getattr(optimizers, name)(learning_rate=value)


@pytest.mark.parametrize("value", [True, np.True_, None, "0.1", [0.1], 1j])
def test_learning_rates_of_another_type_are_refused(value):
    with pytest.raises(ArgumentTypeError, match=r"learning_rate = .* is of type"):
        optimizers.adam(learning_rate=value)


def test_a_schedule_class_is_not_a_schedule():
    with pytest.raises(ArgumentTypeError, match="Pass an instance"):
        optimizers.adam(learning_rate=Cosine)


@pytest.mark.parametrize("returned", [np.nan, -1.0, np.inf, "a", None, True])
def test_a_schedule_that_starts_with_nonsense_is_refused(returned):
    with pytest.raises(ArgumentError, match=r"learning_rate\(0\)"):
        optimizers.sgd(learning_rate=lambda step: returned)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("momentum", "momentum"),
        ("nesterov_momentum", "momentum"),
        ("rmsprop", "rho"),
        ("adadelta", "rho"),
        ("adam", "beta1"),
        ("adam", "beta2"),
        ("adamax", "beta1"),
        ("adamax", "beta2"),
    ],
)
def test_decays_lie_from_zero_to_below_one(name, setting):
    getattr(optimizers, name)(**{setting: 0})
    for value in (1.0, -0.1, np.nan):
        with pytest.raises(ArgumentError, match=f"{setting} = .*from 0 to below 1"):
            getattr(optimizers, name)(**{setting: value})


@pytest.mark.parametrize("name", ["adagrad", "adagrad_window", "rmsprop", "adadelta", "adam", "adamax"])
def test_epsilon_is_above_zero(name):
    for value in (0.0, -1e-8, np.inf):
        with pytest.raises(ArgumentError, match="epsilon"):
            getattr(optimizers, name)(epsilon=value)


def test_window_is_a_positive_integer():
    for value in (0, -1, 2.0, True):
        with pytest.raises(ArgumentError, match=r"n_win = .*Pass an integer, at least 1"):
            optimizers.adagrad_window(n_win=value)


def test_numbers_of_numpy_become_plain_ones():
    optimizer = optimizers.adagrad_window(np.float32(0.5), epsilon=1, n_win=np.int64(3))
    assert [type(value) for value in (optimizer.learning_rate, optimizer.epsilon, optimizer.n_win)] == [
        float,
        float,
        int,
    ]


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(0.1), Exponential(0.1, 0.5, 10), Cosine(0.1, 10, warmup=2, final=0.1), OneCycle(0.1, 10),
        ReduceOnPlateau(0.1, factor=0.3, patience=5, minimum=0.01),
    ],
)  # fmt: skip
def test_schedules_are_saved_with_their_optimizer(schedule):
    optimizer = optimizers.adam(learning_rate=schedule)
    record = optimizers.to_json(optimizer)
    assert record["name"] == "adam"
    assert isinstance(record["learning_rate"], dict)
    assert optimizers.from_json(record) == optimizer
    wrapped = optimizers.apply_momentum(optimizer)
    assert optimizers.from_json(json.loads(json.dumps(optimizers.to_json(wrapped)))) == wrapped


def test_what_dvi_does_not_know_cannot_be_saved():
    with pytest.raises(ArgumentTypeError, match=r"cannot be saved. Use a schedule that dvi knows: constant"):
        optimizers.to_json(optimizers.sgd(learning_rate=lambda step: 0.1))
    with pytest.raises(ArgumentTypeError, match="Use an optimizer that dvi knows: sgd"):
        optimizers.to_json(object())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": "lion", "learning_rate": 0.1}, "'lion' is not the name of an optimizer. Give one of sgd, momentum"),
        ({"learning_rate": 0.1}, "None is not the name of an optimizer"),
        ({"name": ["sgd"], "learning_rate": 0.1}, "is not the name of an optimizer"),
        ({"name": "sgd", "learning_rate": {"name": "cyclic"}}, "'cyclic' is not the name of a schedule"),
        ({"name": "sgd", "learning_rate": 0.1, "beta": 1}, "sgd has the settings learning_rate; .*'beta'"),
        ({"name": "adam", "learning_rate": 0.1}, "adam has the settings learning_rate, beta1, beta2, epsilon"),
        ({"name": "sgd", "learning_rate": -1}, "learning_rate = -1"),
        ({"name": "sgd", "learning_rate": "fast"}, "is of type str"),
    ],
)
def test_records_that_do_not_fit_are_refused(record, message):
    with pytest.raises(ArgumentError, match=message):
        optimizers.from_json(record)
