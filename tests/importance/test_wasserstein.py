"""Bounds on Wasserstein distances and moments, against the closed forms of normals."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from models_for_tests import case, target
from scipy import stats
from scipy.linalg import sqrtm

import vi_recipes as vr
from vi_recipes.importance.wasserstein import WassersteinBounds, wasserstein_bounds

NUM_DRAWS = 20_000
LOG_Z = -4.0


def normals(mean: Any, cov: Any, num_draws: int = NUM_DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """Return draws of q = N(0, I) and log ratios of exp(LOG_Z) N(mean, cov) to it."""
    dim = len(mean)
    z = np.random.default_rng(0).standard_normal((num_draws, dim))
    log_p = stats.multivariate_normal(mean, cov).logpdf(z) + LOG_Z
    return z, log_p - stats.norm.logpdf(z).sum(axis=1)


def closed_forms(mean: np.ndarray, cov: np.ndarray) -> tuple[float, float, float]:
    """Return D_2(p | q), KL(q | p) and W_2 of p = N(mean, cov) and q = N(0, I)."""
    precision = np.linalg.inv(cov)
    A, b = 2 * precision - np.eye(len(mean)), 2 * precision @ mean  # p^2 / q is a normal
    square = (b @ np.linalg.solve(A, b) / 2 - mean @ precision @ mean) - np.log(
        np.linalg.det(cov)
    ) - np.log(np.linalg.det(A)) / 2  # fmt: skip
    kl = 0.5 * (np.trace(precision) + mean @ precision @ mean - len(mean))
    kl += 0.5 * np.log(np.linalg.det(cov))
    transport = mean @ mean + np.trace(cov + np.eye(len(mean)) - 2 * np.real(sqrtm(cov)))
    return float(square), float(kl), float(np.sqrt(transport))


PAIRS = {
    "same": (np.zeros(2), np.eye(2)),
    "shifted": (np.array([0.3, -0.1]), np.eye(2)),
    "narrower": (np.zeros(3), np.diag([0.8, 0.9, 1.0])),
    "correlated": (np.array([0.1, 0.0]), np.array([[1.0, 0.3], [0.3, 1.0]])),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_bounds_hold_for_normals(name: str) -> None:
    mean, cov = PAIRS[name]
    square, kl, distance = closed_forms(mean, cov)
    z, ratios = normals(mean, cov)
    found = wasserstein_bounds(z, ratios)
    assert not found.reason
    # D_2 + 2 KL(q | p): the ELBO is that much below log Z
    assert abs(found.d2 - (square + 2 * kl)) <= 4 * found.d2_se + 1e-9
    known = wasserstein_bounds(z, ratios, log_evidence=LOG_Z)
    assert abs(known.d2 - square) <= 4 * known.d2_se + 1e-9
    for bounds in (found, known):
        slack = 4 / NUM_DRAWS**0.5  # q's own moments, by which the units are, are of these draws
        assert bounds.w2 >= distance - slack
        assert bounds.w1 >= np.linalg.norm(mean) - slack
        assert bounds.mean_error >= np.abs(mean).max() - slack
        assert bounds.sd_error >= np.abs(np.sqrt(np.diag(cov)) - 1).max() - slack
        assert bounds.cov_error >= np.linalg.norm(cov - np.eye(len(mean)), 2) - slack
        assert bounds.mean_error <= bounds.w1
        assert bounds.sd_error <= bounds.w2
    assert known.w2 <= found.w2


def test_the_bounds_are_the_theorems() -> None:
    """Of a shift by m of a normal: D_2 = m^2, with weights exp(m z - m^2 / 2)."""
    m = 0.2
    z, ratios = normals(np.array([m]), np.eye(1))
    found = wasserstein_bounds(z, ratios, log_evidence=LOG_Z)
    c = np.sqrt(np.expm1(found.d2 + 2 * found.d2_se))
    assert found.d2 == pytest.approx(m**2, abs=4 * found.d2_se)
    assert found.w1 == pytest.approx(c)
    assert found.mean_error == pytest.approx(c)  # 0.202 against an error of 0.2
    assert found.mean_error < 1.2 * m
    fourth = float(((z - z.mean()) ** 4).mean() / z.var() ** 2)
    assert found.w2 == pytest.approx(np.sqrt(2) * fourth**0.25 * np.sqrt(c))
    assert found.cov_error == pytest.approx(found.w2 * (2 + found.w2))
    spread = c * np.sqrt(fourth - 1)
    assert found.sd_error == pytest.approx(1 - np.sqrt(1 - spread - c**2))


def test_units_do_not_matter() -> None:
    z, ratios = normals(*PAIRS["correlated"])
    found, scaled = (wasserstein_bounds(z * s + 3, ratios) for s in (1.0, np.array([1e4, 1e-3])))
    for name in ("w1", "w2", "mean_error", "sd_error", "cov_error"):
        assert getattr(scaled, name) == pytest.approx(getattr(found, name))


def test_the_same_distribution_has_no_error() -> None:
    z, ratios = normals(*PAIRS["same"])
    found = wasserstein_bounds(z, ratios)
    assert (found.d2, found.w1, found.w2, found.sd_error) == pytest.approx((0, 0, 0, 0), abs=1e-3)


def test_units_of_coordinates_do_not_count() -> None:
    z, ratios = normals(*PAIRS["shifted"])
    tiny = wasserstein_bounds(1e-20 * z, ratios)
    found = wasserstein_bounds(z, ratios)
    assert (tiny.w1, tiny.w2) == pytest.approx((found.w1, found.w2))


def test_where_they_do_not_apply_they_say_why() -> None:
    z, ratios = normals(np.zeros(2), 4 * np.eye(2))  # k is 1 - 1/4
    cases = {
        "no finite variance: khat is 0.": wasserstein_bounds(z, ratios),
        "99 draws are too few": wasserstein_bounds(z[:99], ratios[:99]),
        "no density at any draw": wasserstein_bounds(z, np.full(NUM_DRAWS, -np.inf)),
        "a coordinate does not vary": wasserstein_bounds(z * [1, 0], 0.1 * z[:, 0]),
        "the ELBO is minus infinity": wasserstein_bounds(z, np.where(z[:, 0] > 0, 0.0, -np.inf)),
    }
    for reason, found in cases.items():
        assert reason in found.reason
        assert np.isnan([found.d2, found.w1, found.w2, found.mean_error, found.cov_error]).all()
    half = np.where(z[:, 0] > 0, np.log(2), -np.inf)  # p is q on a half-space
    found = wasserstein_bounds(z, half, log_evidence=0.0)
    assert found.d2 == pytest.approx(np.log(2), abs=4 * found.d2_se)


def test_a_bound_that_no_number_holds_is_infinite() -> None:
    """One draw where the posterior is all but 0 takes the ELBO, and all bounds with it, far off."""
    z, ratios = normals(*PAIRS["shifted"])
    found = wasserstein_bounds(z, np.append(ratios[:-1], -1e7))
    assert found.d2 > np.log(np.finfo(float).max)
    assert not found.reason
    bounds = [found.w1, found.w2, found.mean_error, found.sd_error, found.cov_error]
    assert np.isposinf(bounds).all()


@pytest.mark.parametrize(
    ("z", "ratios", "match"),
    [
        (np.zeros(200), np.zeros(200), r"got shapes \(200,\) and \(200,\)"),
        (np.zeros((200, 2)), np.zeros(199), r"got shapes \(200, 2\) and \(199,\)"),
        (np.full((200, 2), np.nan), np.zeros(200), "z: some draws are not finite"),
        (np.zeros((200, 2)), np.full(200, np.nan), "log_ratios: 200 of 200 are NaN"),
    ],
)
def test_bad_input(z: np.ndarray, ratios: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        wasserstein_bounds(z, ratios)
    with pytest.raises(ValueError, match=match):
        wasserstein_bounds(z, ratios, log_evidence=0.0)


def test_bad_evidence() -> None:
    with pytest.raises(ValueError, match="log_evidence: got nan"):
        wasserstein_bounds(np.ones((200, 2)), np.zeros(200), log_evidence=np.nan)


def test_a_fit_with_known_errors() -> None:
    """Laplace is off on a skewed posterior; on the constrained scale, by what is known exactly."""
    known, this = case("normal_precision"), target("normal_precision")
    fit = vr.Laplace().fit(this, throw=True)
    assert fit.posterior is not None
    drawn = fit.posterior.weighed_draws(8_000, jax.random.key(1))
    assert drawn is not None
    ratios = this.log_densities(drawn.z) - drawn.log_q
    values = np.column_stack([drawn.values["mu"], drawn.values["tau"]])
    found = wasserstein_bounds(values, ratios)
    assert isinstance(found, WassersteinBounds)
    assert not found.reason
    for site in ("mu", "tau"):
        mean, sd = fit.mean()[site], fit.sd()[site]
        assert abs(known.mean[site] - mean) / sd <= found.mean_error
        assert abs(known.sd[site] - sd) / sd <= found.sd_error
    assert found.mean_error < 1
