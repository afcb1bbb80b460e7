"""The kernel Stein discrepancy, against its definition by autodiff and what theory says of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_for_tests import case, target
from scipy import stats

import vi_recipes as vr
from vi_recipes.importance.stein import kernel_stein, stein_kernel


def normal(num_draws: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_draws, dim))


def test_the_kernel_is_its_definition() -> None:
    """s(x)'s(y) k + s(x)' d_y k + s(y)' d_x k + tr d_x d_y k, pair by pair."""
    x = normal(6, 3)
    scores = -x + 0.3 * x**2

    def k(a: jax.Array, b: jax.Array) -> jax.Array:
        return 1 / jnp.sqrt(1 + ((a - b) ** 2).sum())

    def pair(x: jax.Array, y: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
        by_x, by_y = jax.grad(k)(x, y), jax.grad(k, argnums=1)(x, y)
        both = jax.jacfwd(jax.grad(k), argnums=1)(x, y)
        return s @ t * k(x, y) + s @ by_y + t @ by_x + jnp.trace(both)

    with jax.enable_x64(True):
        rows = jax.jit(jax.vmap(jax.vmap(pair, (None, 0, None, 0)), (0, None, 0, None)))
        expected = rows(jnp.asarray(x), jnp.asarray(x), jnp.asarray(scores), jnp.asarray(scores))
    np.testing.assert_allclose(stein_kernel(x, scores), expected, rtol=1e-9, atol=1e-12)


def test_the_value_is_the_mean_over_pairs() -> None:
    z, unit = normal(40, 2) * [1.0, 10.0] + 1.0, np.array([1.0, 10.0])
    scores = -z / unit**2
    found = kernel_stein(z, scores, unit)
    total = 0.0
    for i in range(40):
        for j in range(40):
            pair = stein_kernel(z[[i, j]] / unit, scores[[i, j]] * unit)
            total += 0.0 if i == j else pair[0, 1]
    assert found.value == pytest.approx(np.sqrt(total / (40 * 39)))
    assert found.num_draws == 40
    assert not found.reason
    assert found.value > found.limit
    assert found.p_value < 0.05


def test_p_values_of_the_right_draws_are_uniform() -> None:
    found = [kernel_stein(z, -z, np.ones(2), 5) for z in (normal(60, 2, s) for s in range(150))]
    p = np.array([f.p_value for f in found])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p < 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
    # the two ways to reject are one, but for the quantile's interpolation
    assert all(
        (f.value > f.limit) == (f.p_value < 0.05) for f in found if abs(f.p_value - 0.05) > 0.01
    )


@pytest.mark.parametrize(("shift", "factor"), [(0.3, 1.0), (0.0, 0.75), (0.0, 1.35)])
def test_wrong_draws_are_rejected(shift: float, factor: float) -> None:
    for seed in range(5):
        z = normal(500, 2, seed)
        z[:, 0] = shift + factor * z[:, 0]
        assert kernel_stein(z, -z, np.ones(2), seed).p_value < 0.05


def test_power_fades_with_the_dimension() -> None:
    """As the docstring says of one coordinate that is too narrow."""
    rejected = {}
    for dim in (1, 20):
        p = []
        for seed in range(10):
            z = normal(500, dim, seed)
            z[:, 0] *= 0.8
            p.append(kernel_stein(z, -z, np.ones(dim), seed).p_value)
        rejected[dim] = np.mean(np.array(p) < 0.05)
    assert rejected[1] >= 0.9
    assert rejected[20] <= 0.3


def test_scores_are_gradients() -> None:
    this = target("linear_regression")
    known = case("linear_regression")
    assert known.cov is not None
    z = normal(300, this.dim)
    expected = -np.linalg.solve(known.cov, (z - known.mean["beta"]).T).T
    np.testing.assert_allclose(this.scores(z), expected, rtol=1e-8)
    assert this.scores(z).dtype == np.float64


def test_of_fits() -> None:
    """Laplace is the posterior here; mean field is too narrow along and across the ridge."""
    this, p_values = target("linear_regression"), {}
    for method in (vr.Laplace(), vr.MeanField()):
        fit = method.fit(this, throw=True)
        assert fit.posterior is not None
        drawn = fit.posterior.weighed_draws(500, jax.random.key(3))
        assert drawn is not None
        found = kernel_stein(drawn.z, this.scores(drawn.z), drawn.z.std(axis=0))
        p_values[method.name] = found.p_value
    assert p_values["laplace"] > 0.01
    assert p_values["meanfield"] < 0.01


def test_many_draws_are_thinned() -> None:
    z = normal(2_000, 1)
    found = kernel_stein(z, -z, np.ones(1))
    assert found.num_draws == 500
    assert found == kernel_stein(z, -z, np.ones(1))
    assert found.p_value != kernel_stein(z, -z, np.ones(1), 1).p_value


def test_what_cannot_be_had_is_said() -> None:
    z = normal(30, 2)
    few = kernel_stein(z[:19], -z[:19], np.ones(2))
    nowhere = kernel_stein(z, np.where(z > 1.5, np.nan, -z), np.ones(2))
    assert few.reason == "19 draws are too few, it takes 20"
    assert "no finite gradient at " in nowhere.reason
    for found in (few, nowhere):
        assert np.isnan([found.value, found.limit, found.p_value]).all()


@pytest.mark.parametrize(
    ("z", "scores", "scale", "match"),
    [
        (np.zeros(30), np.zeros(30), np.ones(1), r"got shapes \(30,\), \(30,\) and \(1,\)"),
        (np.zeros((30, 2)), np.zeros((29, 2)), np.ones(2), r"\(30, 2\), \(29, 2\) and \(2,\)"),
        (np.zeros((30, 2)), np.zeros((30, 2)), np.ones(3), r"and \(3,\)"),
        (np.full((30, 2), np.inf), np.zeros((30, 2)), np.ones(2), "z: some draws"),
        (np.zeros((30, 2)), np.zeros((30, 2)), np.array([1.0, 0.0]), "scale: some units"),
    ],
)
def test_bad_input(z: np.ndarray, scores: np.ndarray, scale: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        kernel_stein(z, scores, scale)
