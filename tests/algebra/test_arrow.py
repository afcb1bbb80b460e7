"""Matrices of blocks that touch a border in a few places, against dense ones."""

from __future__ import annotations

import numpy as np
import pytest

from vi_recipes.algebra import Arrow


def example(w: int) -> tuple[Arrow, np.ndarray, np.ndarray]:
    """Return a layout, entries in no order, several of one place, and the dense matrix."""
    rng = np.random.default_rng(w)
    blocks, g = 7, 4
    dim = blocks * w + g
    mixed = rng.permutation(dim)
    local, border = mixed[: blocks * w].reshape(blocks, w), mixed[blocks * w :]
    places = [(i, i, 5.0 + rng.random()) for i in range(dim)] + [(3, 3, 1.0)]
    if w == 2:
        places += [(b, a, 0.3) for a, b in local]
    for block in local:
        for j in rng.choice(border, 2, replace=False):
            places += [(j, i, 0.4 * rng.standard_normal()) for i in block if rng.random() < 0.7]
    places.append((border[2], border[0], 0.5))
    dense = np.zeros((dim, dim))
    for i, j, value in places:
        dense[i, j] += value
        dense[j, i] = dense[i, j]
    rows, cols, entries = (np.array(v) for v in zip(*places, strict=True))
    arrow = Arrow(local, border, np.append(rows, -1), np.append(cols, 2))  # the last is nowhere
    return arrow, np.append(entries, 9.0), dense


@pytest.mark.parametrize("w", [1, 2])
def test_factors_are_those_of_the_dense_matrix(w: int) -> None:
    arrow, entries, dense = example(w)
    factor = arrow.factorise(entries)
    assert factor is not None
    inverse = np.linalg.inv(dense)
    assert factor.half_log_det == pytest.approx(np.linalg.slogdet(dense)[1] / 2, abs=1e-12)
    assert np.abs(factor.solve(np.eye(arrow.dim)) - inverse).max() < 1e-13
    assert np.abs(factor.solve(dense[0]) - np.eye(arrow.dim)[0]).max() < 1e-13
    assert np.abs(factor.variances() - np.diag(inverse)).max() < 1e-13
    assert np.abs(factor.times(inverse[1]) - np.eye(arrow.dim)[1]).max() < 1e-13
    unit, size = np.eye(arrow.dim), arrow.local.size
    root = factor.join(*factor.backward(unit[:size], unit[size:]))
    assert np.abs(root @ root.T - inverse).max() < 1e-13
    more = arrow.factorise(entries, more=0.2, scale=0.1)
    assert more is not None
    changed = dense + np.diag(0.1 * np.diag(dense) + 0.2)
    assert np.abs(more.solve(changed) - unit).max() < 1e-13


@pytest.mark.parametrize("w", [1, 2])
def test_slopes_of_the_determinant_are_its_differences(w: int) -> None:
    arrow, entries, _ = example(w)
    factor = arrow.factorise(entries)
    assert factor is not None
    step = 1e-5
    for k, slope in enumerate(factor.slopes_of_log_det()):
        away = step * (np.arange(len(entries)) == k)
        up, down = arrow.factorise(entries + away), arrow.factorise(entries - away)
        assert up is not None
        assert down is not None
        assert slope == pytest.approx((up.half_log_det - down.half_log_det) / step, abs=1e-8)


def test_what_is_not_positive_definite_has_no_factor() -> None:
    arrow, entries, dense = example(1)
    assert arrow.factorise(entries, more=-5.5) is None
    assert np.linalg.eigvalsh(dense - 5.5 * np.eye(len(dense))).min() < 0
    low = np.linalg.eigvalsh(dense).min()
    assert arrow.factorise(entries, more=-low + 1e-6) is not None
    assert arrow.factorise(entries, more=-low - 1e-6) is None
    assert arrow.factorise(np.where(entries == 9.0, entries, np.nan)) is None
