"""Entropic transport against the closed form between normals, an assignment and its derivative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from vi_recipes.algebra import transport


def between_normals(mean: float, sd: float, other: float, other_sd: float, penalty: float) -> float:
    """Return the least cost of moving one normal to another, squared distances, with the penalty.

    The plan is a normal whose covariance c maximises c + penalty log(1 - (c / (s t))^2) / 4, so
    that penalty KL is -penalty log(1 - (c / (s t))^2) / 2.
    """
    product = sd * other_sd
    cov = (np.sqrt(16 * product**2 + penalty**2) - penalty) / 4
    divergence = -0.5 * np.log1p(-((cov / product) ** 2))
    moved = (mean - other) ** 2 + sd**2 + other_sd**2 - 2 * cov
    return float(moved + penalty * divergence)


@pytest.mark.parametrize(
    ("mean", "sd", "other_sd", "penalty"),
    [(0.0, 1.0, 1.0, 0.2), (1.0, 1.0, 0.5, 0.5), (0.3, 0.7, 1.5, 2.0)],
)
def test_it_is_the_closed_form_between_normals(
    mean: float, sd: float, other_sd: float, penalty: float
) -> None:
    """On a grid whose sums are those of the integrals to rounding."""
    grid = np.linspace(-12, 12, 601)

    def masses(m: float, s: float) -> np.ndarray:
        logs = -0.5 * ((grid - m) / s) ** 2
        return logs - np.log(np.exp(logs).sum())

    with jax.enable_x64(True):
        found = transport(
            jnp.asarray((grid[:, None] - grid) ** 2),
            jnp.asarray(masses(mean, sd)),
            jnp.asarray(masses(0.0, other_sd)),
            penalty,
            tolerance=1e-11,
            max_iterations=3_000,
        )
    assert float(found) == pytest.approx(
        between_normals(mean, sd, 0.0, other_sd, penalty), rel=1e-8
    )


def test_a_small_penalty_leaves_an_assignment_whose_plan_is_the_derivative() -> None:
    rng = np.random.default_rng(3)
    cost = rng.uniform(size=(8, 8))
    with jax.enable_x64(True):
        even = jnp.full(8, -np.log(8.0))

        def least(c: jax.Array) -> jax.Array:
            return transport(c, even, even, 2e-3, tolerance=1e-9, max_iterations=20_000)

        least = jax.jit(least)
        value, plan = jax.jit(jax.value_and_grad(least))(jnp.asarray(cost))
        bump = np.zeros((8, 8))
        bump[2, linear_sum_assignment(cost)[1][2]] = 1e-5
        slope = (least(jnp.asarray(cost + bump)) - least(jnp.asarray(cost - bump))) / 2e-5
    rows, columns = linear_sum_assignment(cost)
    # KL of an assignment from the product of its marginals is log 8
    assert float(value) == pytest.approx(cost[rows, columns].mean() + 2e-3 * np.log(8), abs=1e-3)
    np.testing.assert_allclose(np.asarray(plan).sum(0), 1 / 8, atol=1e-6)
    assert np.asarray(plan)[rows, columns].sum() > 0.9
    assert float(slope) == pytest.approx(float(plan[2, columns[2]]), rel=1e-4)
