"""One step of a fit, without a model, a thread or a cluster: what it asks for, and what it makes of the answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.approximations.point import PointFamily
from dvi.errors import NonFiniteError
from dvi.inference.averaging import TailAverage
from dvi.inference.elbo import Elbo
from dvi.inference.optimizers import adam, sgd
from dvi.inference.plateau import ReduceOnPlateau
from dvi.inference.training import VariationalTraining
from dvi.types import Evaluation, FloatArray, Round, State, StepInfo, Work

NEVER = 10**9  # a tail that no test reaches


def parabola(Z: FloatArray, *blocks: Any) -> tuple[FloatArray, FloatArray]:
    """The kernel of a standard normal prior, without its constant."""
    return -0.5 * np.sum(Z**2, axis=1), -Z


@dataclass
class Sharing:
    """An objective that asks for work, and keeps what it is told."""

    seen: list[Any] = field(default_factory=list)

    def work(self, Z: FloatArray, score: FloatArray) -> Work:
        return Work(divmod, (len(Z),), (1, 2))

    def gradient(self, family: Any, theta: FloatArray, eps: Any, logp: Any, score: Any, results: Any) -> Any:
        self.seen.append((eps, logp, score, results))
        return 5.0, np.ones(len(theta))


def training(**settings: Any) -> VariationalTraining:
    made = VariationalTraining(MeanFieldFamily(2), Elbo("stl"), sgd(0.1), TailAverage(NEVER), parabola, 3, seed=1)
    return replace(made, **settings)


def start(of: VariationalTraining) -> State:
    return of.initial(of.family.initial(np.array([1.0, -2.0]), np.array([0.5, 2.0])))


def nothing(asked: Round) -> Evaluation:
    return Evaluation(np.zeros(len(asked.Z)), np.zeros(asked.Z.shape), 7)


def advance(of: VariationalTraining, state: State) -> tuple[State, StepInfo]:
    """One step, with data that say nothing."""
    steps = of.step(state)
    asked = next(steps)
    assert isinstance(asked, Round)
    with pytest.raises(StopIteration) as done:
        steps.send(nothing(asked))
    result: tuple[State, StepInfo] = done.value.value
    return result


def test_a_step_asks_for_its_round_and_then_for_its_work() -> None:
    objective = Sharing()
    own = training(objective=objective)
    state = start(own)
    steps = own.step(state)
    asked = next(steps)
    assert isinstance(asked, Round)
    assert (asked.step, asked.Z.shape) == (0, (3, 2))
    assert asked.Z.tobytes() == own.round(state).Z.tobytes()
    work = steps.send(Evaluation(np.full(3, 10.0), np.full((3, 2), 4.0), 7))
    assert work == Work(divmod, (3,), (1, 2))
    with pytest.raises(StopIteration) as done:
        steps.send([(3, 0), (1, 1)])
    after, info = done.value.value
    ((eps, logp, score, results),) = objective.seen
    assert eps.tobytes() == own.noise(0).tobytes()
    assert_allclose(logp, 10.0 + parabola(asked.Z)[0])
    assert_allclose(score, 4.0 - asked.Z)
    assert results == [(3, 0), (1, 1)]
    assert (info.objective, info.n_rows, after.step) == (5.0, 7, 1)
    assert_allclose(after.theta, state.theta + 0.1)  # uphill


@pytest.mark.parametrize("estimator", ["stl", "entropy"])
def test_a_delayed_step_takes_the_gradient_of_one_step_before(estimator: Any) -> None:
    own = training(delayed=True, objective=Elbo(estimator))
    family, state, rate = own.family, start(own), 0.1
    thetas = [state.theta, state.theta]  # nothing is before the first
    for step in range(5):
        following = own.following(state)
        assert following is not None
        state, _ = advance(own, state)
        assert own.round(state).step == following.step == step + 1
        assert own.round(state).Z.tobytes() == following.Z.tobytes()  # was known before the step was done
        eps = own.noise(step)
        Z = family.draw(thetas[-2], eps)
        _, gradient = own.objective.gradient(family, thetas[-2], eps, *parabola(Z), [])
        thetas.append(thetas[-1] + rate * gradient)
        assert_allclose(state.theta, thetas[-1], rtol=1e-13)
    prompt = training()
    assert prompt.following(start(prompt)) is None
    assert advance(prompt, start(prompt))[0].behind == ()


def test_a_delayed_step_that_is_skipped_is_followed_by_one_that_is_not_behind() -> None:
    own = training(delayed=True, lenient=True)
    first, _ = advance(own, start(own))
    steps = own.step(first)
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.send(Evaluation(np.full(3, np.nan), np.zeros((3, 2)), 7))
    skipped, _ = done.value.value
    assert skipped.theta.tobytes() == first.theta.tobytes() == skipped.behind[0].tobytes()
    assert first.behind[0].tobytes() != first.theta.tobytes()


def test_no_prior_where_it_is_evaluated_with_the_data() -> None:
    objective = Sharing()
    steps = training(objective=objective, prior=None).step(start(training()))
    next(steps)
    steps.send(Evaluation(np.full(3, 10.0), np.full((3, 2), 4.0), 7))
    with pytest.raises(StopIteration):
        steps.send([])
    assert objective.seen[0][1].tolist() == [10.0] * 3


def test_a_step_leaves_the_state_it_starts_from() -> None:
    own = training(optimizer=adam(0.1), averaging=TailAverage(0))
    state, _ = advance(own, start(own))
    arrays = (state.theta, *state.slots, *state.average, state.rate)
    before = [array.copy() for array in arrays]
    once, again = advance(own, state), advance(own, state)
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, before, strict=True))
    assert once[0].theta.tobytes() == again[0].theta.tobytes() != state.theta.tobytes()
    assert once[1] == again[1]


def test_noise_is_a_function_of_seed_and_step_alone() -> None:
    own, other = training(), training(seed=2)
    forward = [own.noise(step) for step in range(150)]
    backward = [training(optimizer=adam(), origin=3).noise(step) for step in reversed(range(150))][::-1]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(forward, backward, strict=True))
    values = np.concatenate([*forward, *(other.noise(step) for step in range(150))])
    assert values.shape == (900, 2)
    assert len(np.unique(values)) == values.size
    assert abs(values.mean()) < 4 / np.sqrt(values.size)
    assert abs(values.std() - 1) < 4 / np.sqrt(2 * values.size)


def test_an_even_number_of_draws_is_antithetic() -> None:
    first, second = np.split(training(draws=4).noise(9), 2)
    assert np.array_equal(first, -second)
    assert len(np.unique(first)) == 4


def test_noise_of_many_draws_and_dimensions() -> None:
    wide = training(family=MeanFieldFamily(40_000), draws=2)
    assert wide.noise(5).shape == (2, 40_000)
    assert wide.noise(5).tobytes() == training(family=MeanFieldFamily(40_000), draws=2).noise(5).tobytes()
    assert wide.noise(5).tobytes() != wide.noise(6).tobytes()


def test_a_family_without_noise() -> None:
    own = training(family=PointFamily(2), draws=1)
    state = own.initial(own.family.initial(np.array([1.0, -2.0]), np.ones(2)))
    assert own.noise(3).shape == (1, 0)
    assert own.round(state).Z.tolist() == [[1.0, -2.0]]
    after, info = advance(own, state)
    assert_allclose(after.theta, [0.9, -1.8])
    assert info.objective == pytest.approx(-2.5)


def test_points_are_the_noise_of_every_step() -> None:
    points = np.array([[1.0, 0.0], [0.0, 2.0]])
    own = training(points=points, draws=2)
    assert own.noise(0) is own.noise(17) is points
    assert_allclose(own.round(start(own)).Z, [[1.5, -2.0], [1.0, 2.0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_what_is_not_finite_is_refused(bad: float, where: str) -> None:
    def prior(Z: FloatArray, *blocks: Any) -> tuple[FloatArray, FloatArray]:
        value, gradient = parabola(Z)
        (value if where == "value" else gradient)[0] = bad
        return value, gradient

    own = training(prior=prior)
    steps = own.step(replace(start(own), step=41))
    asked = next(steps)
    with pytest.raises(NonFiniteError, match=r"objective is .* at step 42: .*priors.*lower the learning rate"):
        steps.send(nothing(asked))


def test_a_lenient_training_leaves_out_what_is_not_finite() -> None:
    def answer(asked: Round, value: float) -> Evaluation:
        return Evaluation(np.full(len(asked.Z), value), np.full(asked.Z.shape, value), 7)

    own = training(lenient=True, averaging=TailAverage(0))
    before = start(own)
    for value in (np.nan, np.inf, -np.inf):
        steps = own.step(before)
        asked = next(steps)
        with pytest.raises(StopIteration) as ended:
            steps.send(answer(asked, value))
        after, info = ended.value.value
        assert after.step == before.step + 1
        assert after.theta is before.theta
        assert after.slots is before.slots
        assert after.average is before.average
        assert np.isnan(info.objective)
        assert info.n_rows == 7


def test_a_gradient_whose_sum_overflows_is_finite() -> None:
    def prior(Z: FloatArray, *blocks: Any) -> tuple[FloatArray, FloatArray]:
        return np.zeros(len(Z)), np.full(Z.shape, 1.5e308)

    own = training(family=PointFamily(2), draws=1, prior=prior, optimizer=sgd(1e-300))
    with np.errstate(over="ignore"):
        after, _ = advance(own, own.initial(np.zeros(2)))
    assert_allclose(after.theta, [1.5e8, 1.5e8])


def test_a_longest_gradient_keeps_its_direction() -> None:
    free, bound = training(family=PointFamily(2)), training(family=PointFamily(2), max_norm=0.5)
    theta = np.array([3.0, -4.0])
    step = theta - advance(bound, bound.initial(theta))[0].theta
    assert np.linalg.norm(step) == pytest.approx(0.1 * 0.5)
    whole = theta - advance(free, free.initial(theta))[0].theta
    assert_allclose(whole, 10 * step, rtol=1e-6)
    short = np.array([0.03, -0.04])
    steps = [short - advance(own, own.initial(short))[0].theta for own in (free, bound)]
    assert_allclose(*steps, rtol=1e-5)  # PyMC's rule adds 1e-7 to the norm


def test_a_step_takes_the_mean_over_its_draws() -> None:
    many = training()
    state = start(many)
    alone = [advance(training(points=eps[None], draws=1), state) for eps in many.noise(0)]
    after, info = advance(many, state)
    assert_allclose(after.theta, np.mean([one.theta for one, _ in alone], axis=0))
    assert info.objective == pytest.approx(np.mean([one.objective for _, one in alone]))


def test_the_optimizer_counts_from_the_origin() -> None:
    rates: list[int] = []

    def rate(step: int) -> float:
        rates.append(step)
        return 0.1

    own = training(optimizer=sgd(rate), origin=100)
    state = own.initial(np.zeros(4))
    assert state.step == 100
    for _ in range(3):
        state, _ = advance(own, state)
    assert rates[-3:] == [0, 1, 2]


def test_the_factor_on_the_learning_rate() -> None:
    own, half = training(family=PointFamily(2)), training(family=PointFamily(2), optimizer=sgd(0.05))
    theta = np.array([3.0, -4.0])
    state = replace(own.initial(theta), rate=np.array([0.5]))
    assert own.learning_rate(state) == half.learning_rate(half.initial(theta)) == 0.05
    assert advance(own, state)[0].theta.tobytes() == advance(half, half.initial(theta))[0].theta.tobytes()


def test_a_learning_rate_that_observes_is_told_the_loss() -> None:
    schedule = ReduceOnPlateau(0.1, factor=0.5, patience=2, window=1)
    own = training(objective=Sharing(), optimizer=sgd(schedule))
    state = own.initial(np.zeros(4))
    rates = []
    for _ in range(5):
        steps = own.step(state)
        steps.send(nothing(next(steps)))
        with pytest.raises(StopIteration) as done:
            steps.send([])
        state, _ = done.value.value
        rates.append(own.learning_rate(state))
    assert rates == [0.1, 0.1, 0.05, 0.05, 0.025]  # a loss of -5 throughout


def test_the_result_is_the_average_of_the_tail() -> None:
    own = training(averaging=TailAverage(2))
    state, thetas = start(own), []
    for _ in range(5):
        state, _ = advance(own, state)
        thetas.append(state.theta)
        if state.step <= 2:
            assert own.result(state) is state.theta
    assert_allclose(own.result(state), np.mean(thetas[2:], axis=0))


def test_the_prior_is_compiled_when_asked() -> None:
    class Kernel:
        prepared = 0

        def prepare(self) -> None:
            self.prepared += 1

        __call__ = staticmethod(parabola)

    kernel = Kernel()
    own = training(prior=kernel)
    assert kernel.prepared == 0
    own.prepare()
    assert kernel.prepared == 1
    training().prepare()  # a function has nothing to prepare


def test_steps_lead_to_the_posterior() -> None:
    """Prior N(0, 1) and a likelihood that makes the posterior N(1, 1/2), of any rotation."""
    family = FullRankFamily(2)
    own = training(family=family, optimizer=adam(0.02), averaging=TailAverage(1000))
    state = own.initial(family.initial(np.zeros(2), np.full(2, 0.1)))
    for _ in range(2000):
        steps = own.step(state)
        Z = next(steps).Z  # type: ignore[union-attr]
        with pytest.raises(StopIteration) as done:
            steps.send(Evaluation(-0.5 * np.sum((Z - 2.0) ** 2, axis=1), 2.0 - Z, 1))
        state, _ = done.value.value
    assert_allclose(family.mean(own.result(state)), 1.0, atol=0.02)
    assert_allclose(family.cov(own.result(state)), np.eye(2) / 2, atol=0.02)
