"""Sparse symmetric matrices laid out as a border and blocks, against dense ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vi_recipes.algebra import (
    Layout,
    backward_many,
    factorise,
    find_layout,
    half_log_det,
    inverse_diagonal,
    product,
    solve,
)

RNG = np.random.default_rng(8)


def positive(pattern: np.ndarray) -> np.ndarray:
    values = RNG.standard_normal(pattern.shape)
    made = np.where(pattern, values + values.T, 0.0)
    return made + (np.abs(made).sum(1).max() + 1.0) * np.eye(len(made))


def near(dim: int, width: int) -> np.ndarray:
    place = RNG.permutation(dim)
    return np.abs(place[:, None] - place) <= width


def with_border(pattern: np.ndarray, border: int) -> np.ndarray:
    pattern = pattern.copy()
    pattern[-border:] = pattern[:, -border:] = True
    return pattern


def lots(sizes: list[int]) -> np.ndarray:
    lot = RNG.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return lot[:, None] == lot


PATTERNS = {
    "chain": (near(150, 1), (150, 1, 0, True)),
    "wider chain and a border": (with_border(near(401, 2), 3), (199, 2, 3, True)),
    "lots of several sizes and a border": (with_border(lots([1, 3, 2, 3, 1, 4, 30]), 2), None),
    "diagonal": (np.eye(30, dtype=bool), (30, 1, 0, False)),
    "dense": (np.ones((12, 12), bool), None),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_factors_are_those_of_the_dense_matrix(name: str) -> None:
    pattern, shape = PATTERNS[name]
    matrix = positive(pattern)
    layout: Layout = find_layout(pattern)
    found = (*layout.local.shape, layout.border.size, layout.chained)
    assert shape in (None, found)
    with jax.enable_x64(True):
        bordered = layout.assemble(jnp.asarray(layout.directions @ matrix))
        factor = factorise(bordered)
        vector = RNG.standard_normal(len(matrix))
        parts = layout.split(jnp.asarray(vector))
        times = layout.join(product(bordered, parts))
        solved = layout.join(solve(factor, parts))
        diagonal = layout.join(inverse_diagonal(factor))
        half = half_log_det(factor)
    inverse = np.linalg.inv(matrix)
    assert np.allclose(times, matrix @ vector, rtol=1e-10, atol=1e-10)
    assert np.allclose(solved, inverse @ vector, rtol=1e-9, atol=1e-11)
    assert np.allclose(diagonal, np.diag(inverse), rtol=1e-10)
    assert float(half) == pytest.approx(np.linalg.slogdet(matrix)[1] / 2, rel=1e-12)
    # every unit vector as noise gives a column of W, and W W' is the inverse
    units = np.eye(layout.places)
    two = jax.tree.map(lambda v: np.stack([np.zeros_like(v), np.asarray(v)]), factor)
    w = backward_many(two, np.ones(len(units), int), units)[:, layout.order]
    assert np.abs(w.T @ w - inverse).max() < 1e-12


def test_products_are_few_where_the_matrix_is_sparse() -> None:
    assert len(find_layout(near(500, 1)).directions) <= 3
    pattern = np.eye(120, dtype=bool)
    pattern[:90, 90:] = pattern[90:, :90] = True
    assert len(find_layout(pattern, [np.arange(90), np.arange(90, 120)]).directions) == 31


def test_no_factor_is_nan() -> None:
    layout = find_layout(np.eye(9, dtype=bool))
    with jax.enable_x64(True):
        factor = factorise(layout.assemble(jnp.asarray(layout.directions @ np.diag([-1.0] * 9))))
        assert np.isnan(half_log_det(factor))
