"""A t of several coordinates at once, as a proposal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vi_recipes.importance import (
    Elliptical,
    Mixture,
    around,
    reaching,
    scrambled_sobol,
)

LOC, ROOT = np.array([1.0, -2.0, 0.5]), np.array([[2.0, 0, 0], [0.5, 1.0, 0], [-1.0, 0.3, 0.7]])


def test_its_density_is_that_of_a_t_and_its_points_follow_it() -> None:
    q = Elliptical(LOC, ROOT)
    law = stats.multivariate_t(LOC, ROOT @ ROOT.T, df=3)
    x = q.points(scrambled_sobol(4, 8_192, [0, 1]))
    assert q.log_prob(x) == pytest.approx(law.logpdf(x), rel=1e-10)
    for k in range(3):
        scale = np.sqrt((ROOT @ ROOT.T)[k, k])
        away = np.sort(stats.t.cdf((x[:, k] - LOC[k]) / scale, 3))
        assert np.abs(away - (np.arange(away.size) + 0.5) / away.size).max() < 0.005
    # squared distances over the dimension follow an F law, whatever the direction
    square = np.square(np.linalg.solve(ROOT, (x - LOC).T)).sum(0) / 3
    for level in (0.5, 0.9, 0.99):
        assert (square < stats.f.ppf(level, 3, 3)).mean() == pytest.approx(level, abs=0.004)


def test_a_tenth_of_the_points_reaches_far_in_all_directions() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4_000, 5)) @ np.diag([1.0, 2.0, 3.0, 4.0, 5.0]) + 7.0
    weights = np.full(4_000, 1 / 4_000)
    near = around(x.mean(0), np.cov(x.T), np.zeros(5, bool))
    q = reaching(near, x, weights)
    assert q.shares == pytest.approx((0.9, 0.1))
    corner = (7.0 + 12.0 * np.arange(1.0, 6.0))[None]  # 12 sds along every axis
    assert q.log_prob(corner)[0] > near.log_prob(corner)[0] + 2.0
    twice = reaching(Mixture((near, near), (0.3, 0.7)), x, weights)
    assert twice.shares == pytest.approx((0.27, 0.63, 0.1))
    assert twice.log_prob(corner) == pytest.approx(q.log_prob(corner))
