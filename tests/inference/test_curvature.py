"""The curvature that pairs of draws tell of, and steps in directions that it makes alike."""

from __future__ import annotations

import numpy as np
import pytest

from dvi.inference.curvature import Whitened, empty_sums, whitening, with_pairs
from dvi.inference.optimizers import adam, sgd
from dvi.inference.units import InUnits


def pairs(hessian: np.ndarray, n: int, offset: float = 0.0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Sums over pairs of draws about a mode, with scores that share an offset and have a relative error."""
    rng = np.random.default_rng(0)
    step = rng.normal(size=(n, len(hessian)))
    errors = 1 + noise * rng.normal(size=(n, 1))
    sums = empty_sums(len(hessian))
    for delta, error in zip(step, errors, strict=True):
        Z = np.array([7.0 + delta, 7.0 - delta])
        sums = with_pairs(sums, Z, offset + np.array([delta, -delta]) @ hessian * error)
    return sums


def ridge(d: int) -> np.ndarray:
    """Minus a matrix of condition 1e6."""
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    return -(q * np.logspace(0, 6, d)) @ q.T


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_curvature_is_exact_whatever_the_rows_add_to_both_of_a_pair(offset: float) -> None:
    hessian = ridge(6)
    basis = whitening(pairs(hessian, 40, offset), 40, np.full(6, 1e-2), np.zeros(6))
    assert basis is not None
    np.testing.assert_allclose(basis.T @ -hessian @ basis, np.eye(6), atol=1e-3)


def test_noise_that_is_a_part_of_each_product_does_not_hide_a_flat_direction() -> None:
    hessian = ridge(4)
    basis = whitening(pairs(hessian, 4000, noise=0.05), 4000, np.ones(4), np.zeros(4))
    assert basis is not None
    assert np.linalg.cond(basis.T @ -hessian @ basis) < 1.5


def flat_valley(n: int) -> tuple[np.ndarray, ...]:
    """Sums over pairs whose Hessians differ from each other, but not along the first direction, which is all but flat.

    Noise is as that of minibatches, a Hessian of other rows for each pair. No direction is that of an element.
    """
    rng = np.random.default_rng(2)
    sums = empty_sums(20)
    for delta in rng.normal(size=(n, 20)) @ ROTATED.T:
        noise = np.zeros((20, 20))
        noise[1:, 1:] = 0.3 * rng.normal(size=(19, 19))
        hessian = ROTATED @ (-np.diag([1e-3, *np.ones(19)]) + noise + noise.T) @ ROTATED.T
        sums = with_pairs(sums, np.array([delta, -delta]), np.array([delta, -delta]) @ hessian)
    return sums


ROTATED = np.linalg.qr(np.random.default_rng(3).normal(size=(20, 20)))[0]


def test_a_flat_direction_is_found_in_the_noise_of_the_others() -> None:
    sums = flat_valley(200)
    plain = np.linalg.solve(sums[0], sums[1].T)
    assert np.linalg.eigvalsh(-0.5 * (plain + plain.T))[0] < -5e-3  # hidden, were it not for the weights
    basis = whitening(sums, 200, np.ones(20), np.zeros(20))
    assert basis is not None
    length = np.linalg.norm(basis, axis=0)
    flat = basis[:, length.argmax()] / length.max()
    assert abs(flat @ ROTATED[:, 0]) > 0.999
    assert length.max() == pytest.approx(1e-3**-0.5, rel=0.1)


def test_no_direction_is_longer_than_noise_lets_one_tell() -> None:
    rng = np.random.default_rng(4)
    longest = []
    for _ in range(50):
        sums = empty_sums(2)
        for delta in rng.normal(size=(100, 2)):
            change = -np.diag([1.0, 0.0]) @ delta + rng.normal(size=2)
            sums = with_pairs(sums, np.array([delta, -delta]), np.array([change, -change]))
        basis = whitening(sums, 100, np.ones(2), np.zeros(2))
        assert basis is not None
        longest.append(np.linalg.norm(basis, axis=0).max())
    assert max(longest) < 1.25 * 0.1**-0.5  # 0.1 is the standard error of 100 products


def test_too_few_pairs_and_what_is_not_concave_give_no_directions() -> None:
    assert whitening(pairs(ridge(6), 8), 8, np.ones(6), np.zeros(6)) is None
    assert whitening(pairs(np.eye(3), 40), 40, np.ones(3), np.zeros(3)) is None
    assert whitening((np.full((2, 2), np.nan), np.eye(2), np.eye(2)), 40, np.ones(2), np.zeros(2)) is None


def test_directions_with_far_to_go_are_as_long_as_that() -> None:
    basis = whitening(pairs(-np.diag([1.0, 4.0]), 40), 40, np.ones(2), np.array([50.0, 0.0]))
    assert basis is not None
    assert np.linalg.norm(basis, axis=0).round(6).tolist() == [50.0, 0.5]


def test_a_whitened_step_is_newtons_where_the_curvature_is_known() -> None:
    hessian = ridge(5)
    basis = whitening(pairs(hessian, 40), 40, np.ones(5), np.zeros(5))
    assert basis is not None
    optimizer = Whitened(sgd(1.0), basis)
    mean = np.arange(5.0)
    theta = np.append(mean + 3.0, 2.0)  # one more parameter, which is not of the mean
    gradient = np.append(-hessian @ (theta[:5] - mean), 0.5)
    after, _ = optimizer.update(0, theta, gradient, optimizer.init(theta))
    np.testing.assert_allclose(after, np.append(mean, 1.5), atol=1e-6)


def test_units_make_equal_steps_of_adam_unequal() -> None:
    optimizer = InUnits(adam(0.1), np.array([1e-3, 1.0, 1e3]))
    theta = np.array([5.0, 5.0, 5.0])
    after, _ = optimizer.update(0, theta, np.ones(3), optimizer.init(theta))
    np.testing.assert_allclose(after - theta, [-1e-4, -0.1, -100.0], rtol=1e-3)
