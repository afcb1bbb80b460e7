"""The trust-region Newton method against functions whose minima are known."""

from __future__ import annotations

import numpy as np
import pytest

from vi_recipes.algebra.newton import Dense, trust_region_newton


def run(function, gradient, hessian, start, max_steps=200):
    visited = [function(np.asarray(start, float))]

    def callback(z: np.ndarray) -> bool:
        visited.append(function(z))
        return False

    z, why, _ = trust_region_newton(
        lambda z: (function(z), gradient(z)),
        lambda z: Dense(hessian(z)) if np.isfinite(hessian(z)).all() else None,
        np.asarray(start, float),
        max_steps=max_steps,
        tolerance=1e-10,
        callback=callback,
    )
    return z, why, np.array(visited)


def test_quadratic_takes_the_newton_step() -> None:
    a = np.array([[3.0, 1.0], [1.0, 2.0]])
    b = np.array([0.3, -0.2])
    z, why, visited = run(
        lambda z: z @ a @ z / 2 - b @ z, lambda z: a @ z - b, lambda z: a, [0.1, 0.1]
    )
    np.testing.assert_allclose(z, np.linalg.solve(a, b), rtol=1e-12)
    assert why == "converged"
    assert len(visited) == 2  # inside the first trust region: one step


@pytest.mark.parametrize("along", [0.0, *10.0 ** np.arange(-20, -7)])
def test_a_step_ends_at_the_boundary_where_the_gradient_has_nothing_along_it(along: float) -> None:
    """Along the most negative curvature; steps were up to 1.41 times the radius long."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        values = np.sort(rng.standard_normal(4)) * 10 ** rng.uniform(-3, 3)
        values[0] = -abs(values[0]) - 2 * abs(values[1])
        gradient = np.array([along, *rng.standard_normal(3)])
        step = Dense(np.diag(values)).step(gradient, 1.0)
        assert np.sqrt(0.9) <= np.linalg.norm(step) <= 1 + 1e-9


def test_rosenbrock_goes_down_every_step() -> None:
    z, why, visited = run(
        lambda z: 100 * (z[1] - z[0] ** 2) ** 2 + (1 - z[0]) ** 2,
        lambda z: np.array(
            [-400 * z[0] * (z[1] - z[0] ** 2) - 2 * (1 - z[0]), 200 * (z[1] - z[0] ** 2)]
        ),
        lambda z: np.array(
            [[1200 * z[0] ** 2 - 400 * z[1] + 2, -400 * z[0]], [-400 * z[0], 200.0]]
        ),
        [-1.2, 1.0],
    )
    np.testing.assert_allclose(z, [1.0, 1.0], atol=1e-8)
    assert why == "converged"
    assert (np.diff(visited) <= 1e-12).all()


def test_leaves_a_saddle_point_that_the_gradient_cannot_see() -> None:
    z, why, _ = run(
        lambda z: z[0] ** 2 - z[1] ** 2 + z[1] ** 4 / 4,
        lambda z: np.array([2 * z[0], -2 * z[1] + z[1] ** 3]),
        lambda z: np.array([[2.0, 0.0], [0.0, -2 + 3 * z[1] ** 2]]),
        [1.0, 0.0],
    )
    assert why == "converged"
    np.testing.assert_allclose([z[0], abs(z[1])], [0.0, np.sqrt(2)], atol=1e-6)


def test_ends_on_a_function_without_a_minimum() -> None:
    _, why, visited = run(
        lambda z: -z[0] + z[1] ** 2 * np.exp(z[0]),
        lambda z: np.array([-1 + z[1] ** 2 * np.exp(z[0]), 2 * z[1] * np.exp(z[0])]),
        lambda z: np.array(
            [
                [z[1] ** 2 * np.exp(z[0]), 2 * z[1] * np.exp(z[0])],
                [2 * z[1] * np.exp(z[0]), 2 * np.exp(z[0])],
            ]
        ),
        [0.0, 1.0],
        max_steps=60,
    )
    assert why != "converged"
    assert visited[-1] < visited[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_steps_around_values_that_are_not_finite(bad: float) -> None:
    """-log z + z has its minimum at 1; left of 0 there is nothing."""
    z, why, _ = run(
        lambda z: float(z[0] - np.log(z[0])) if z[0] > 0 else bad,
        lambda z: np.array([1 - 1 / z[0]]),
        lambda z: np.array([[1 / z[0] ** 2]]),
        [1.9],  # the first Newton step overshoots to the left of 0
    )
    assert why == "converged"
    np.testing.assert_allclose(z, [1.0], atol=1e-8)


def test_a_hessian_of_coordinates_in_far_units_keeps_the_digits_of_the_least() -> None:
    """The oracle is the matrix in units: eigenvalues of this one are 18 orders apart."""
    unit = np.array([1e-6, 1.0, 1e4])
    plain = np.array([[2.0, 0.5, 0.3], [0.5, 1.0, 0.2], [0.3, 0.2, 3.0]])
    hessian = Dense(plain / np.outer(unit, unit), unit)
    cov = hessian.root() @ hessian.root().T
    np.testing.assert_allclose(cov / np.outer(unit, unit), np.linalg.inv(plain), rtol=1e-12)
    vector = np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(unit * hessian.dot(unit * vector), plain @ vector, rtol=1e-12)
    right = np.linalg.solve(plain, vector)
    np.testing.assert_allclose(hessian.solve(vector / unit) / unit, right, rtol=1e-12)
    assert hessian.log_det == pytest.approx(np.linalg.slogdet(plain)[1] - 2 * np.log(unit).sum())
    assert hessian.positive
    assert not Dense(np.diag([1.0, -1e-12]) / np.outer(unit, unit)[:2, :2], unit[:2]).positive
