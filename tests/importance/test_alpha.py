"""Alpha-divergences of one variable: closed forms of normals, tails, and densities without them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vi_recipes.importance import ScalarDensity, ScalarNormal


def test_divergences_of_normals_have_their_closed_form() -> None:
    p, q = ScalarNormal(0.3, 0.9), ScalarNormal(-0.2, 0.8)
    density = ScalarDensity(p.log_density)

    def closed(a: float) -> float:
        """Return log(integral q^a p^(1 - a)) / (a (a - 1)) of two normals."""
        mixed = a * p.sd**2 + (1 - a) * q.sd**2
        apart = a * (a - 1) * (p.mean - q.mean) ** 2 / (2 * mixed)
        log = (1 - a) * np.log(q.sd) + a * np.log(p.sd) - 0.5 * np.log(mixed)
        return float((apart + log) / (a * (a - 1)))

    for order in (2.0, 0.5, -1.0):
        assert density.divergence(q, order) == pytest.approx(closed(order), rel=1e-9)
    for limit in (1.0, 0.0):
        assert density.divergence(q, limit) == pytest.approx(closed(limit + 1e-6), rel=1e-4)
    for order in (2.0, 1.0, 0.5, 0.0, -1.0):
        best = density.best(order)
        np.testing.assert_allclose((best.mean, best.sd), (0.3, 0.9), atol=1e-7)
        for measure in (density.at.divergence, density.check.divergence):
            assert measure(best, order)[0] == pytest.approx(0, abs=1e-9)
            slopes = measure(q, order)[1]
            for k, step in enumerate(1e-5 * np.eye(2)):
                up, down = (
                    measure(ScalarNormal(q.mean + h[0], q.sd * np.exp(h[1])), order)[0]
                    for h in (step, -step)
                )
                assert slopes[k] == pytest.approx((up - down) / 2e-5, rel=1e-6)


@pytest.mark.parametrize(("order", "finite"), [(2.0, "narrow"), (-1.0, "wide")])
def test_the_sds_of_finite_divergences_are_those_of_normals(order: float, finite: str) -> None:
    """Of p with sd 0.5: a / sd^2 + (1 - a) / 0.25 is positive for sds below 0.707, above 0.354."""
    density = ScalarDensity(lambda x: stats.norm.logpdf(x, 1.0, 0.5) + 7.0)
    limit = 0.5 * np.sqrt(2) ** (1 if order > 1 else -1)
    within = density.sds(order)
    assert within == pytest.approx((0, limit) if finite == "narrow" else (limit, np.inf))
    for sd in (0.99 * limit, 1.01 * limit):
        value = density.divergence(ScalarNormal(0.8, sd), order)
        assert np.isfinite(value) == ((sd < limit) == (finite == "narrow"))
    # at the limit one tail rises, or with q's mean at p's neither falls
    for mean in (0.8, 1.2, 1.0):
        assert density.divergence(ScalarNormal(mean, within[order > 1]), order) == np.inf
    assert density.sds(0.5) == density.sds(1.0) == density.sds(0.0) == (0, np.inf)


def test_densities_that_the_grid_or_the_tails_do_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match="its integral over -30 to 30"):
        ScalarDensity(stats.norm(28, 1).logpdf)
    with pytest.raises(ValueError, match="its integral over -30 to 30"):
        ScalarDensity(stats.norm(0, 0.002).logpdf)
    with pytest.raises(ValueError, match="its tail at -1000 to -6000"):
        ScalarDensity(lambda x: -(x**4))
