"""Tails of theta that bend, or are longer than a normal law's: what is told of them is true.

Densities of one to three coordinates, whose moments a lattice gives; nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import approx_fprime, minimize
from scipy.special import log_expit, log_ndtr

from vi_recipes.importance import khat_limit
from vi_recipes.methods.nested.integrate import integrate
from vi_recipes.methods.nested.mode import ThetaMode
from vi_recipes.methods.nested.profile import first_proposals
from vi_recipes.methods.nested.records import Swept
from vi_recipes.methods.nested.rounds import Integral, _shapes

CHEAP, DEAR = 1_000, 1_000_000
"""Numbers that a point reads: with the second, polynomials are tried."""


class Posterior(NamedTuple):
    """A log density of theta, and a box beyond which there is nothing of it."""

    log_p: Callable[[np.ndarray], np.ndarray]
    box: tuple[tuple[float, float], ...]
    leads: tuple[bool, ...]
    steps: int


def cut_off(theta: np.ndarray) -> np.ndarray:
    """Of a normal law of which half is cut off: its mean from -3 to 3, and log sd."""
    y = np.abs(np.random.default_rng(11).normal(0.2, 1.0, size=60))
    m, s = -3 + 6 / (1 + np.exp(-theta[:, 0])), np.exp(theta[:, 1])
    log_p = -60 * np.log(s) - (y @ y - 2 * m * y.sum() + 60 * m * m) / (2 * s * s)
    log_p -= 60 * log_ndtr(m / s) + m * m / 8 + (s - 1) ** 2 / 2
    return log_p + theta[:, 1] + log_expit(theta[:, 0]) + log_expit(-theta[:, 0])


def schools(theta: np.ndarray) -> np.ndarray:
    """Eight schools: their mean, and the log of their sd, whose left tail falls 1 nat a unit."""
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    v = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]) ** 2
    v = v + np.exp(2 * theta[:, 1:])
    prior = stats.norm.logpdf(theta[:, 0], 0, 10) - np.exp(2 * theta[:, 1]) / 800 + theta[:, 1]
    return prior - (np.log(v) + (y - theta[:, :1]) ** 2 / v).sum(1) / 2


def banana(theta: np.ndarray) -> np.ndarray:
    a, b = theta.T
    return stats.norm.logpdf(a) + stats.norm.logpdf(b, (a**2 - 1) / 2, 0.4)


def funnel(theta: np.ndarray) -> np.ndarray:
    a, b = theta.T
    return stats.norm.logpdf(a) + stats.norm.logpdf(b, 0, np.exp(a / 2))


def shoulder(theta: np.ndarray) -> np.ndarray:
    return np.logaddexp(
        np.log(0.85) + stats.norm.logpdf(theta[:, 0]),
        np.log(0.15) + stats.norm.logpdf(theta[:, 0], 3.5, 1.5),
    )


def two_sided(theta: np.ndarray) -> np.ndarray:
    return -4 * np.log1p((theta[:, 0] ** 2 + (theta[:, 1] - 0.8 * theta[:, 0]) ** 2 / 0.36) / 6)


def logs_of_gammas(theta: np.ndarray) -> np.ndarray:
    return np.asarray((np.array([0.7, 3.0]) * theta - np.array([1.0, 2.0]) * np.exp(theta)).sum(1))


def skewed(theta: np.ndarray) -> np.ndarray:
    a, b = theta[:, 0], theta[:, 1] - 0.9 * theta[:, 0]
    return stats.norm.logpdf(a) + log_ndtr(8 * a) + stats.norm.logpdf(b, 0, 0.5) + log_ndtr(-6 * b)


def bent_twice(theta: np.ndarray) -> np.ndarray:
    a, b, c = theta.T
    return (
        stats.norm.logpdf(a)
        + stats.norm.logpdf(b, 0.35 * a**2, 0.6)
        + stats.norm.logpdf(c, 0.3 * a * b, 1.0)
    )


def variances(theta: np.ndarray) -> np.ndarray:
    """Crossed effects of 9 rows and 3 columns, one outcome each: logs of three sds."""
    rng = np.random.default_rng(6)
    y = 0.5 + 0.5 * rng.normal(size=(9, 1)) + rng.normal(size=(1, 3)) + rng.normal(size=(9, 3))
    rows, columns = y.mean(1) - y.mean(), y.mean(0) - y.mean()
    of = 3 * (rows**2).sum(), 9 * (columns**2).sum()
    rest = ((y - y.mean()) ** 2).sum() - sum(of)
    a, b, e = np.exp(2 * theta).T
    by = e + 3 * a, e + 9 * b, e + 3 * a + 9 * b + 675.0
    log_p = -8 * np.log(by[0]) - of[0] / by[0] - 2 * np.log(by[1]) - of[1] / by[1]
    log_p += -np.log(by[2]) - 27 * y.mean() ** 2 / by[2] - 16 * np.log(e) - rest / e
    return np.asarray(log_p / 2 - (a / 2.25 + b / 2.25 + e / 2.25) / 2 + theta.sum(1))


POSTERIORS = {
    f.__name__: Posterior(f, box, leads, steps)
    for f, box, leads, steps in (
        (cut_off, ((-16, 8), (-3.5, 2.2)), (True, True), 500),
        (schools, ((-40, 55), (-16, 6)), (False, True), 500),
        (banana, ((-6.5, 6.5), (-4, 23)), (False, False), 700),
        (funnel, ((-7, 7), (-60, 60)), (False, False), 900),
        (shoulder, ((-8, 16),), (False,), 4_001),
        (two_sided, ((-150, 150), (-150, 150)), (False, False), 2_001),
        (logs_of_gammas, ((-40, 6), (-14, 8)), (True, True), 900),
        (skewed, ((-9, 12), (-9, 14)), (False, False), 700),
        (bent_twice, ((-5.5, 5.5), (-4, 14), (-24, 24)), (False, False, False), 150),
        (variances, ((-12, 3), (-12, 4), (-1.5, 1.2)), (True, True, True), 130),
    )
}


class Density:
    """As much of a density of theta as :func:`integrate` and its proposals ask for."""

    def __init__(self, of: Posterior, work: int = CHEAP) -> None:
        self.of, self.work, self.is_noisy = of, work, False
        self.bounded, self.dim = np.array(of.leads), len(of.leads)
        self.owner = np.full(self.dim, -1)

    def log_p(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            value = self.of.log_p(theta)
        return np.where(np.isfinite(value), value, -np.inf)

    def sweep(self, theta: np.ndarray) -> Swept:
        log_p = self.log_p(theta)
        return Swept(log_p, theta, 0 * theta, log_p)

    def given(self, theta: np.ndarray, *, gradient: bool = False) -> tuple[np.ndarray, Any]:
        slopes = np.zeros(theta.shape)
        for k in range(self.dim if gradient else 0):
            step = 1e-5 * np.eye(self.dim)[k]
            with np.errstate(invalid="ignore"):
                slopes[:, k] = self.log_p(theta + step) - self.log_p(theta - step)
        return self.log_p(theta), SimpleNamespace(gradient=slopes / 2e-5)

    def mode(self) -> ThetaMode:
        def fall(x: np.ndarray) -> float:
            return -float(self.log_p(x[None])[0])

        start = minimize(fall, np.full(self.dim, 0.1), method="BFGS").x
        theta = minimize(fall, start, method="Nelder-Mead", options={"xatol": 1e-6}).x

        def slope(x: np.ndarray) -> np.ndarray:
            return approx_fprime(x, fall, 1e-4)

        hessian = approx_fprime(theta, slope, 1e-3).reshape(self.dim, self.dim)
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        values = np.maximum(np.abs(values), 1e-8)
        return ThetaMode(theta, (vectors / values) @ vectors.T, 0.0)


@cache
def moments_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds by a lattice, a slice at a time."""
    of = POSTERIORS[name]
    first, *others = (np.linspace(*b, of.steps) for b in of.box)
    density, sums, top = Density(of), [0.0, 0.0, 0.0], -np.inf
    rest = np.zeros((1, 0))
    if others:
        rest = np.stack(np.meshgrid(*others, indexing="ij"), -1).reshape(-1, len(others))
    for a in first:
        theta = np.column_stack([np.full(len(rest), a), rest])
        log_p = density.log_p(theta)
        new = max(top, log_p.max())
        w, fade = np.exp(log_p - new), np.exp(top - new)
        parts = w.sum(), w @ theta, w @ theta**2
        sums, top = [fade * s + p for s, p in zip(sums, parts, strict=True)], new
    mean = np.asarray(sums[1] / sums[0])
    return mean, np.sqrt(sums[2] / sums[0] - mean**2)


def integral_of(density: Any, seed: int, scalars: int) -> Integral:
    """Integrate a density of the tests' own, of which so many scalars are to be known."""
    return integrate(
        density,
        density.mode(),
        tolerance=0.01,
        max_points=65_536,
        seed=seed,
        known=np.ones(scalars, bool),
        progress=lambda *_: None,
    )


def integrated(name: str, work: int, seed: int) -> Integral:
    density = Density(POSTERIORS[name], work)
    return integral_of(density, seed, density.dim)


def off_and_told(name: str, found: Integral) -> tuple[np.ndarray, np.ndarray]:
    """Return how far means and sds are off, and their errors, in posterior sds."""
    mean, sd = moments_of(name)
    off = np.concatenate([(found.mean - mean) / sd, found.sd / sd - 1])
    return off, np.concatenate([found.mean_error / sd, found.sd_error / sd])


def is_ok(found: Integral) -> bool:
    known = np.ones(len(found.mean), bool)
    small = found.worst_error(known) <= 0.01 and found.share >= 0.2
    return bool(small and found.khat < khat_limit(len(found.theta)))


def test_proposals_are_put_along_a_tail_that_bends() -> None:
    density = Density(POSTERIORS["cut_off"])
    mode = density.mode()
    wide, first = first_proposals(density, mode)  # type: ignore[arg-type]
    # 20 sds of the mode out the density has fallen by 6 nats, of 200 on a straight line
    far = np.array([[-2.8, 0.48]])
    assert density.log_p(mode.theta[None])[0] - density.log_p(far)[0] < 6.5
    assert (far[0, 0] - mode.theta[0]) / np.sqrt(mode.cov[0, 0]) < -18
    assert first.log_prob(far)[0] > wide.log_prob(far)[0] + 5
    assert (first.log_prob(mode.theta[None]) > wide.log_prob(mode.theta[None]) - 0.4).all()


def test_a_normal_law_has_points_around_its_mode_alone() -> None:
    cov = np.array([[2.0, 0.9], [0.9, 0.5]])
    law = stats.multivariate_normal([1.0, -2.0], cov)

    def log_p(theta: np.ndarray) -> np.ndarray:
        return np.atleast_1d(law.logpdf(theta))

    density = Density(Posterior(log_p, ((-9, 9), (-9, 9)), (False, False), 3))
    wide, first = first_proposals(density, ThetaMode(law.mean, cov, 0.0))  # type: ignore[arg-type]
    assert first is wide


@pytest.mark.parametrize("work", [CHEAP, DEAR])
@pytest.mark.parametrize("name", ["cut_off", "banana", "funnel"])
def test_a_tail_that_bends_is_found(name: str, work: int) -> None:
    found = integrated(name, work, 7)
    off, told = off_and_told(name, found)
    assert is_ok(found)
    assert len(found.theta) <= 16_384
    assert np.abs(off).max() < 0.03
    assert (np.abs(off) < 5 * told + 1e-4).all()


def test_an_sd_that_is_made_far_out_has_points_there() -> None:
    """A scale whose tail is a power of it, and others along a ridge that it moves."""
    degrees = 8
    a = np.linspace(-4.0, 10.0, 100_001)
    w = np.exp(Ridge.of_scale(a) - Ridge.of_scale(a).max())
    w, scale = w / w.sum(), np.exp(a)
    mean = w @ scale
    sd = np.sqrt(w @ (scale - mean) ** 2)
    assert mean**2 + sd**2 == pytest.approx(degrees / (degrees - 2), rel=1e-6)
    missed = []
    for key in range(8):
        found = integral_of(Ridge(), 91 * key + 3, 5)
        assert is_ok(found)
        assert len(found.theta) <= 16_384
        missed.append([(found.mean[4] - mean) / sd, found.sd[4] / sd - 1])
    # 0.029 and a bias of -0.012 without points for it and errors that know of the last change
    assert np.abs(missed).max() < 0.03
    assert np.abs(np.mean(missed, axis=0)).max() < 0.01


class Ridge(Density):
    """Its scale is reported too, as the fifth scalar."""

    def __init__(self) -> None:
        leads = (True, False, False, False)
        super().__init__(Posterior(self.log_density, ((-4, 10),) * 4, leads, 3))
        self.owner = np.full(5, -1)

    @staticmethod
    def of_scale(a: np.ndarray) -> np.ndarray:
        """Log density of the log of a scale whose square is an inverse gamma variable."""
        return np.asarray(-8 * a - 4 * np.exp(-2 * a))

    def log_density(self, theta: np.ndarray) -> np.ndarray:
        a, b, c, d = theta.T
        log_p = self.of_scale(a) + stats.norm.logpdf(b, np.log1p(np.exp(a)), 0.1)
        log_p += stats.norm.logpdf(c, 1.5 * b, 0.5) + stats.norm.logpdf(d, -np.exp(a), 1.0)
        return np.asarray(log_p)

    def sweep(self, theta: np.ndarray) -> Swept:
        log_p = self.log_p(theta)
        values = np.column_stack([theta, np.exp(np.minimum(theta[:, 0], 40.0))])
        return Swept(log_p, values, 0 * values, log_p)


def test_what_points_count_is_for_the_figure_that_is_known_least() -> None:
    """Quantiles of a normal law, and their exponentials, whose sd few of them make."""
    z = stats.norm.ppf((np.arange(1_024) + 0.5) / 1_024)
    values = np.column_stack([z, np.exp(z)])
    sd = values.std(axis=0)
    u = (values[:, 1] - values[:, 1].mean()) / sd[1]
    found = replace(
        integrated("skewed", CHEAP, 3),
        theta=values,
        weights=np.full(1_024, 1 / 1_024),
        swept=Swept(0 * z, values, 0 * values, 0 * z),
        mean=values.mean(axis=0),
        sd=sd,
        mean_error=0 * sd,
        sd_error=sd * [0.003, 0.005],
    )
    every = np.ones(2, bool)
    assert found.counted(every) == pytest.approx(np.abs(u**2 - 1))
    # many make a mean, and the sd of the normal law, which is known least where the other scalar
    # has no moments from the points, or no sd
    assert replace(found, mean_error=0.01 * sd).counted(every) is None
    assert found.counted(np.array([True, False])) is None
    assert replace(found, tails=np.array([np.nan, 0.8])).counted(every) is None


def test_an_error_is_no_less_than_half_of_what_the_last_round_changed() -> None:
    found = integrated("skewed", CHEAP, 3)
    assert found.settled_since(None) is found
    mean_error, sd_error = 0.02 * found.sd, 0.03 * found.sd
    now = replace(found, mean_error=mean_error, sd_error=sd_error, log_evidence_error=0.01)
    near = replace(found, mean=found.mean + mean_error, sd=found.sd - sd_error)
    same = now.settled_since(near)
    assert same.mean_error == pytest.approx(mean_error)
    assert same.sd_error == pytest.approx(sd_error)
    assert same.log_evidence_error == 0.01
    away = replace(found, mean=found.mean - 6 * mean_error, sd=found.sd + 6 * sd_error)
    away = replace(away, log_evidence=found.log_evidence + 0.1)
    moved = now.settled_since(away)
    assert moved.mean_error == pytest.approx(3 * mean_error)
    assert moved.sd_error == pytest.approx(3 * sd_error)
    assert moved.log_evidence_error == pytest.approx(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("work", [CHEAP, DEAR])
def test_errors_told_are_true(work: int) -> None:
    """Of eight scrambles' spread twice is exceeded by one in twelve (Student's t)."""
    beyond, count = 0, 0
    for name in POSTERIORS:
        for key in range(8):
            found = integrated(name, work, 1_000_003 * key + 1)
            off, told = off_and_told(name, found)
            assert is_ok(found), (name, key)
            assert np.abs(off).max() < 0.05, (name, key)
            beyond += int((np.abs(off) > 2 * told).sum())
            count += off.size
    assert beyond / count < 0.14


def test_points_without_a_density_are_no_points_too_few() -> None:
    rng = np.random.default_rng(0)
    log_ratios = np.where(np.arange(128) < 60, 0.1 * rng.normal(size=128), -np.inf)
    weights = np.exp(log_ratios) / np.exp(log_ratios).sum()
    values = rng.normal(size=(128, 1))
    values[7] = 50.0  # one that holds most of the variance
    swept = Swept(log_ratios, values, np.zeros((128, 1)), log_ratios)
    shapes = _shapes(log_ratios, weights, swept, weights @ values)
    assert not np.isnan(shapes).any()
    assert (shapes > -np.inf).all()
