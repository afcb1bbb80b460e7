"""Triangular proposals: densities that integrate to one, gradients, and what is fitted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vi_recipes.importance import around, defended, fit_triangular, num_parameters, scrambled_sobol
from vi_recipes.importance.triangular import axis_loss

LEADS = np.array([False, True])


def funnel(size: int) -> np.ndarray:
    """Return draws of a funnel: the second coordinate is the log scale of the first."""
    rng = np.random.default_rng(0)
    log_scale = 0.7 * rng.standard_normal(size)
    return np.stack([np.exp(log_scale) * rng.standard_normal(size), log_scale], axis=1)


def test_gradient_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(1)
    e, before, w = rng.standard_normal(40), rng.uniform(-1, 2, (40, 2)), rng.uniform(size=40)
    p = np.array([0.2, -0.3, 0.1, 1.2, 1.5, 0.1, -0.2, 0.05, 0.3])
    steps = 1e-6 * np.eye(p.size)
    numeric = [
        (axis_loss(p + s, e, before, w)[0] - axis_loss(p - s, e, before, w)[0]) / 2e-6
        for s in steps
    ]
    assert axis_loss(p, e, before, w)[1] == pytest.approx(numeric, abs=1e-7)


def test_fitted_density_is_one_and_its_points_follow_it() -> None:
    x = funnel(3_000)
    q = fit_triangular(x, np.full(len(x), 1 / len(x)), LEADS)
    assert q.stretch[1, 0] > 0.3  # the other axis stretches with the log scale
    side = np.linspace(-60, 60, 2_401)
    grid = np.stack(np.meshgrid(side, side[np.abs(side) < 20], indexing="ij"), -1).reshape(-1, 2)
    cell = (side[1] - side[0]) ** 2
    density = np.exp(q.log_prob(grid))
    assert density.sum() * cell == pytest.approx(1.0, abs=5e-3)
    points = q.points(scrambled_sobol(2, 4_096, [0, 1]))
    for low, high in ((-1.0, 0.0), (0.0, 1.0)):
        inside = (points > low).all(1) & (points < high).all(1)
        cells = (grid > low).all(1) & (grid < high).all(1)
        edge = (((grid == low) | (grid == high)) & (grid >= low) & (grid <= high)).any(1)
        edge &= ((grid >= low) & (grid <= high)).all(1)
        mass = (density[cells].sum() + density[edge].sum() / 2) * cell
        assert inside.mean() == pytest.approx(mass, rel=0.05)


def test_fitting_raises_the_effective_share_of_a_funnel() -> None:
    def share(q: object) -> float:
        points = q.points(scrambled_sobol(3, 2_048, [3]))
        scale = np.exp(points[:, 1])
        log_p = stats.norm(0, scale).logpdf(points[:, 0]) + stats.norm(0, 0.7).logpdf(points[:, 1])
        w = np.exp(log_p - q.log_prob(points))
        return float(w.sum() ** 2 / (w**2).sum() / len(w))

    x = funnel(3_000)
    wide = around(x.mean(0), np.cov(x.T), LEADS)
    narrow = fit_triangular(x, np.full(len(x), 1 / len(x)), LEADS)
    assert share(defended(narrow, wide)) > 0.85
    assert share(defended(narrow, wide)) > share(wide) + 0.1


def test_parameters_are_counted() -> None:
    # two coordinates: five numbers each, and the second moves and stretches with the first
    assert num_parameters(LEADS) == 12
