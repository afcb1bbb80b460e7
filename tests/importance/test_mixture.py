"""Mixtures of proposals, and parts where all others leave a density short."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vi_recipes.importance import (
    Mixture,
    aimed,
    around,
    defended,
    filled,
    scrambled_sobol,
)

STILL = np.zeros(1, bool)


def at(place: float, sd: float) -> Mixture:
    """Return t's around a place, as a mixture of one."""
    return Mixture((around(np.array([place]), np.array([[sd**2]]), STILL),), (1.0,))


def test_points_of_a_mixture_follow_its_density() -> None:
    q = Mixture((at(-4.0, 1.0), at(5.0, 0.5)), (0.3, 0.7))
    side = np.linspace(-300.0, 300.0, 60_001)[:, None]
    density = np.exp(q.log_prob(side))
    assert density.sum() * 0.01 == pytest.approx(1.0, abs=1e-3)
    points = q.points(scrambled_sobol(2, 4_096, [0]))
    assert points.shape == (4_096, 1)
    for cut in (-4.0, 0.0, 5.2):
        assert (points < cut).mean() == pytest.approx(
            density[side[:, 0] < cut].sum() * 0.01, abs=5e-3
        )
    assert defended(at(0.0, 1.0), at(0.0, 9.0)).shares == (0.1, 0.9)
    shares = aimed(q, at(20.0, 2.0)).shares
    assert shares == pytest.approx((0.225, 0.525, 0.25))


def test_a_part_is_put_where_a_density_is_left_short_and_none_where_it_is_not() -> None:
    q = at(0.0, 1.0)
    x = q.points(scrambled_sobol(2, 512, [1]))
    log_q = q.log_prob(x)
    level = stats.norm.logpdf(x[:, 0])
    assert filled(q, x, level + 7.0, log_q, STILL).shares == (1.0,)
    # a third of the mass is 9 sds away, where few points are
    shoulder = np.logaddexp(level, stats.norm(9.0, 2.0).logpdf(x[:, 0]) + np.log(0.5))
    more = filled(q, x, shoulder, log_q, STILL)
    assert len(more.parts) > 1
    assert sum(more.shares) == pytest.approx(1.0)
    there = np.array([[9.0]])
    assert more.log_prob(there)[0] > q.log_prob(there)[0] + np.log(10.0)
