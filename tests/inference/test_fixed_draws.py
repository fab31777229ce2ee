"""Fixed noise, second derivatives from scores, and the minimum that Newton's method finds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import root

from dvi.approximations.fullrank import FullRankFamily
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.errors import NonFiniteError
from dvi.inference import fixed_draws, newton
from dvi.inference.fixed_draws import Evaluate, FixedDraws, fixed_noise, hessians
from dvi.inference.newton import Minimum, minimise


def spd(d: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(d, 2 * d))
    return factor @ factor.T / d


def gaussian(mean: np.ndarray, precision: np.ndarray) -> Evaluate:
    def evaluate(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        score = (mean - Z) @ precision
        return 0.5 * np.einsum("sd,sd->s", Z - mean, score), score

    return evaluate


def poisson(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A log density whose curvature differs from place to place, and which is not finite everywhere."""
    with np.errstate(over="ignore"):
        rate = np.exp(Z)
    if not np.isfinite(rate).all():
        raise NonFiniteError("too far")
    return (3.0 * Z - rate - 0.5 * Z[:, ::-1] * Z).sum(axis=1), 3.0 - rate - Z[:, ::-1]


def run(objective: FixedDraws, theta: np.ndarray, n: int = 100) -> tuple[Minimum, list[float]]:
    losses: list[float] = []

    def watch(point: fixed_draws.Point) -> bool:
        losses.append(point.loss)
        return False

    return minimise(objective, theta, n, watch), losses


@pytest.mark.parametrize("width", [1, 4, 15, 40])
def test_noise_has_the_moments_of_the_normal_distribution(width: int) -> None:
    eps = fixed_noise(1, 30, width)
    second = eps.T @ eps / 30
    assert np.array_equal(eps[15:], -eps[:15])
    np.testing.assert_allclose(np.diag(second), 1.0)
    for start in range(0, width, 15):
        block = second[start : start + 15, start : start + 15]
        np.testing.assert_allclose(block, np.eye(len(block)), atol=1e-12)
    assert np.array_equal(eps, fixed_noise(1, 30, width))
    assert not np.allclose(np.abs(eps[:15]), np.abs(fixed_noise(2, 30, width)[:15]))


def test_noise_is_not_rotated_towards_an_axis() -> None:
    """The elements of a random rotation are symmetric about zero: a factor of a matrix with fixed signs is not."""
    corner = [fixed_noise(seed, 8, 4)[0, 0] for seed in range(200)]
    assert abs(np.mean(corner)) < 0.3
    assert np.mean(np.square(corner)) == pytest.approx(1.0, rel=0.3)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_hessians_from_scores(scale: float) -> None:
    points = np.random.default_rng(0).normal(size=(3, 2))

    def scaled(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logp, score = poisson(Z / scale)
        return logp, score / scale

    found = hessians(scaled, scale * points, np.full(2, scale)) * scale**2
    exact = np.array([-np.diag(np.exp(z)) - np.array([[0.0, 1.0], [1.0, 0.0]]) for z in points])
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", [MeanFieldFamily(2), FullRankFamily(2)])
def test_products_with_the_hessian(family: MeanFieldFamily | FullRankFamily) -> None:
    """By evaluations and by Hessians of the log density, against differences of the gradient itself."""
    objective = FixedDraws(family, fixed_noise(3, 8, 2), poisson)
    theta = family.initial(np.array([0.3, -0.2]), np.array([0.7, 0.1]))
    point = objective.at(theta)
    model = objective.model(point, hessians(poisson, point.Z, family.std(theta)))
    matrix = model.matrix()
    step = 1e-5
    for i, unit in enumerate(np.eye(family.size)):
        up, down = (objective.at(theta + sign * step * unit).gradient for sign in (1.0, -1.0))
        np.testing.assert_allclose(matrix[i], (up - down) / (2 * step), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(objective.product(theta, unit), matrix[i], rtol=1e-5, atol=1e-5)
    assert not model.product(np.zeros(family.size)).any()


def test_gradient_is_that_of_the_loss() -> None:
    family = MeanFieldFamily(2)
    objective = FixedDraws(family, fixed_noise(3, 8, 2), poisson)
    theta = family.initial(np.array([0.3, -0.2]), np.array([0.7, 0.1]))
    for unit in np.eye(4):
        slope = (objective.at(theta + 1e-6 * unit).loss - objective.at(theta - 1e-6 * unit).loss) / 2e-6
        assert objective.at(theta).gradient @ unit == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("d", "scale"), [(3, 1.0), (20, 1.0), (20, 1e-4)])
def test_minimum_of_a_gaussian_is_the_closed_form(d: int, scale: float) -> None:
    r"""The scales solve :math:`\sigma_i \sum_j A_{ij} C_{ij} \sigma_j = 1`, C being the second moments of the noise."""
    mean, precision = np.linspace(-3.0, 3.0, d), spd(d, 0) / scale**2
    family, eps = MeanFieldFamily(d), fixed_noise(5, 30, d)
    weights = precision * (eps.T @ eps / 30)
    solved = root(lambda s: np.exp(s) * (weights @ np.exp(s)) - 1.0, -0.5 * np.log(np.diag(precision)), tol=1e-13)
    assert solved.success
    found, losses = run(
        FixedDraws(family, eps, gaussian(mean, precision)), family.initial(np.zeros(d), np.full(d, 0.1))
    )
    assert found.converged
    assert len(losses) <= (20 if scale == 1.0 else 30)  # the region of trust grows by a factor of 2 in each
    np.testing.assert_allclose(family.mean(found.point.theta), mean, atol=1e-4 * scale)
    np.testing.assert_allclose(family.std(found.point.theta), np.exp(solved.x), rtol=1e-5)


def test_full_rank_minimum_of_a_gaussian_is_the_gaussian() -> None:
    mean, precision, family = np.arange(4.0), spd(4, 1), FullRankFamily(4)
    objective = FixedDraws(family, fixed_noise(5, 8, 4), gaussian(mean, precision))
    found, _ = run(objective, family.initial(np.zeros(4), np.full(4, 0.1)))
    assert found.converged
    np.testing.assert_allclose(family.mean(found.point.theta), mean, atol=1e-4)
    np.testing.assert_allclose(family.cov(found.point.theta), np.linalg.inv(precision), rtol=1e-4, atol=1e-4)


def test_without_matrices_the_minimum_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    family = MeanFieldFamily(5)
    objective = FixedDraws(family, fixed_noise(5, 8, 5), gaussian(np.arange(5.0), spd(5, 2)))
    start = family.initial(np.zeros(5), np.full(5, 0.1))
    dense, _ = run(objective, start)
    monkeypatch.setattr(newton, "MOST_DENSE", 0)
    products, _ = run(objective, start)
    assert products.converged
    np.testing.assert_allclose(products.point.theta, dense.point.theta, atol=1e-4)


def test_places_that_are_not_finite_are_left_out() -> None:
    """From far on the flat side, the first steps land where the density overflows."""
    family = MeanFieldFamily(2)
    objective = FixedDraws(family, fixed_noise(1, 16, 2), poisson)
    found, losses = run(objective, family.initial(np.full(2, -30.0), np.full(2, 0.1)))
    assert found.converged
    assert np.isfinite(losses).all()
    assert (np.diff(losses) <= 1e-9).all()


def test_the_reason_is_that_for_which_it_ended() -> None:
    family = MeanFieldFamily(2)
    objective = FixedDraws(family, fixed_noise(1, 16, 2), poisson)
    start = family.initial(np.full(2, -3.0), np.full(2, 0.1))
    found, losses = run(objective, start, n=1)
    assert (found.converged, found.reason, len(losses)) == (False, "the number of steps is used up", 1)
    found = minimise(objective, start, 9, lambda point: True)
    assert (found.converged, found.reason) == (False, "stopped by a callback")
    done, _ = run(objective, start)
    again, losses = run(objective, done.point.theta)
    assert again.converged
    assert losses == []
