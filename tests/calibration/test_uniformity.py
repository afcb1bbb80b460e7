"""Bands and tests of ranks, against enumeration, simulation and SciPy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from vi_recipes.calibration.uniformity import (
    EcdfBand,
    centres,
    holm,
    shift,
    spread,
    spread_about_mean,
    symmetry_p_value,
)


@pytest.mark.parametrize(("n", "num_draws"), [(3, 2), (4, 3), (6, 1)])
def test_p_values_of_all_samples_are_their_exact_tail_probabilities(n: int, num_draws: int) -> None:
    band = EcdfBand(n, num_draws)
    samples = [np.array(s) for s in product(range(num_draws + 1), repeat=n)]
    p = np.array([band.p_value(s) for s in samples])
    # by definition: the share of samples whose worst point is as far out
    cuts = np.arange(1, num_draws + 1)
    counts = np.array([[(s < c).sum() for c in cuts] for s in samples])
    law = stats.binom(n, cuts / (num_draws + 1))
    worst = np.minimum(1, 2 * np.minimum(law.cdf(counts), law.sf(counts - 1))).min(axis=1)
    np.testing.assert_allclose(p, [(worst <= w + 1e-9).mean() for w in worst], atol=1e-9)


@pytest.mark.parametrize(("n", "num_draws"), [(40, 19), (150, 99), (60, 499)])
def test_a_band_holds_95_percent_of_uniform_samples(n: int, num_draws: int) -> None:
    band = EcdfBand(n, num_draws)
    lower, upper = band.limits
    rng = np.random.default_rng(5)
    ranks = rng.integers(0, num_draws + 1, (1500, n))
    found = np.array([band.difference(r) for r in ranks])
    outside = ((found < lower - 1e-12) | (found > upper + 1e-12)).any(axis=1)
    # discrete, so below 0.05; within 4 standard errors, and not far below
    assert 0.035 - 4 * 0.005 < outside.mean() < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 1500)
    p = np.array([band.p_value(r) for r in ranks[:300]])
    np.testing.assert_array_equal(p < 0.05, outside[:300])
    assert band.half_width == pytest.approx((upper - lower).max() / 2)


def test_bands_refuse_ranks_that_are_not_theirs() -> None:
    band = EcdfBand(5, 9)
    with pytest.raises(ValueError, match=r"shape \(4,\), expected \(5,\)"):
        band.p_value(np.zeros(4, int))
    with pytest.raises(ValueError, match="got 0 to 10, expected 0 to 9"):
        band.p_value(np.array([0, 1, 2, 3, 10]))


def test_symmetry_is_judged_by_an_exact_random_walk() -> None:
    sizes = np.array([9, 7, 5, 3, 1])  # distances from the middle, in half ranks
    signs = np.array(list(product([-1, 1], repeat=5)))
    ranks = (9 + signs * sizes) // 2
    p = np.array([symmetry_p_value(r, 9) for r in ranks])
    reach = np.abs(np.cumsum(signs, axis=1)).max(axis=1)
    np.testing.assert_allclose(p, [(reach >= r).mean() for r in reach])


def test_symmetry_is_blind_to_spread_and_sees_shifts() -> None:
    rng = np.random.default_rng(1)
    narrow = rng.binomial(99, rng.beta(0.3, 0.3, (400, 100)))
    assert 0.01 < np.mean([symmetry_p_value(r, 99) < 0.05 for r in narrow]) < 0.08
    low = rng.binomial(99, rng.beta(2.0, 1.0, (50, 100)))
    assert np.mean([symmetry_p_value(r, 99) < 0.05 for r in low]) > 0.9
    assert symmetry_p_value(np.full(7, 2), 4) == 1.0  # all in the middle


@pytest.mark.parametrize("statistic", [shift, spread, spread_about_mean])
def test_z_scores_of_uniform_ranks_are_standard(statistic) -> None:
    rng = np.random.default_rng(2)
    z = np.array([statistic(r, 9) for r in rng.integers(0, 10, (4000, 80))])
    assert abs(z.mean()) < 0.2  # about the sample's own mean there is a bias of order n ** -1/2
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * 4000)


def test_z_scores_have_the_signs_that_they_are_read_by() -> None:
    rng = np.random.default_rng(3)
    u = rng.normal(size=300)
    ranks = {
        name: np.floor(stats.norm.cdf(v) * 100).astype(int)
        for name, v in {"narrow": 1.5 * u, "wide": 0.6 * u, "low": u + 1, "high": u - 1}.items()
    }
    assert spread(ranks["narrow"], 99) > 4
    assert spread(ranks["wide"], 99) < -4
    assert shift(ranks["low"], 99) > 4
    assert shift(ranks["high"], 99) < -4
    assert spread(ranks["low"], 99) > 4 > spread_about_mean(ranks["low"], 99)


def test_holm_and_centres() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.9])), [0.04, 0.09, 0.09, 0.9])
    np.testing.assert_allclose(centres(np.array([0, 1, 2, 3]), 3), [0.125, 0.375, 0.625, 0.875])
