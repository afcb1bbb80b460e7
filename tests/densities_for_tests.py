"""Log densities of theta whose moments are known: skewed, bent or heavy-tailed.

Nothing is compiled. Of the first ten a lattice has the moments; those of the heavy-tailed ones,
with what their scales come to, have a formula or a sum over one coordinate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import approx_fprime, minimize
from scipy.special import digamma, log_expit, log_ndtr, polygamma

from vi_recipes.importance import khat_limit
from vi_recipes.methods.nested.integrate import integrate
from vi_recipes.methods.nested.mode import ThetaMode
from vi_recipes.methods.nested.records import ThetaRows
from vi_recipes.methods.nested.rounds import Integral

CHEAP, DEAR = 1_000, 1_000_000
"""Numbers that a point reads: with the second, polynomials are tried."""

Moments = tuple[np.ndarray, np.ndarray]
"""Means and sds."""


class Posterior(NamedTuple):
    """A log density of theta, and what is known of it."""

    log_p: Callable[[np.ndarray], np.ndarray]
    leads: tuple[bool, ...]
    moments: Callable[[], Moments] | None = None
    """Of theta's coordinates, then of the exponentials of some."""
    scales: tuple[int, ...] = ()
    """Coordinates whose exponentials are reported too."""


def by_lattice(
    log_p: Callable[[np.ndarray], np.ndarray], box: tuple[tuple[float, float], ...], steps: int
) -> Moments:
    """Return means and sds by a lattice, a slice at a time."""
    first, *others = (np.linspace(*b, steps) for b in box)
    sums, top = [0.0, 0.0, 0.0], -np.inf
    rest = np.zeros((1, 0))
    if others:
        rest = np.stack(np.meshgrid(*others, indexing="ij"), -1).reshape(-1, len(others))
    for a in first:
        theta = np.column_stack([np.full(len(rest), a), rest])
        with np.errstate(all="ignore"):
            at = log_p(theta)
        at = np.where(np.isfinite(at), at, -np.inf)
        new = max(top, at.max())
        w, fade = np.exp(at - new), np.exp(top - new)
        parts = w.sum(), w @ theta, w @ theta**2
        sums, top = [fade * s + p for s, p in zip(sums, parts, strict=True)], new
    mean = np.asarray(sums[1] / sums[0])
    return mean, np.sqrt(sums[2] / sums[0] - mean**2)


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
    f.__name__: Posterior(f, leads, partial(by_lattice, f, box, steps))
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


def of_law(log_w: np.ndarray, *values: np.ndarray) -> tuple[list[float], list[float]]:
    """Return means and sds of values by the log weights of points."""
    w = np.exp(log_w - log_w.max())
    w = w / w.sum()
    means = [float(w @ v) for v in values]
    return means, [float(np.sqrt(w @ (v - m) ** 2)) for v, m in zip(values, means, strict=True)]


def regression(rows: int, columns: int, seed: int) -> Posterior:
    """Few rows, flat priors: coefficients are t's, and the scale has a tail that is a power."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(rows)] + [rng.normal(size=rows) for _ in range(columns - 1)])
    y = rng.normal(size=rows) + x @ np.arange(columns)
    gram = x.T @ x
    best = np.linalg.solve(gram, x.T @ y)
    rest = float(((y - x @ best) ** 2).sum())

    def log_p(theta: np.ndarray) -> np.ndarray:
        off, a = theta[:, :columns] - best, theta[:, columns]
        square = rest + np.einsum("ij,jk,ik->i", off, gram, off)
        return np.asarray(-rows * a - square / 2 * np.exp(-2 * a))

    def moments() -> Moments:
        a = np.linspace(-8, 25, 400_001) + np.log(rest) / 2
        log_w = -(rows - columns) * a - rest / 2 * np.exp(-2 * a)
        mean, sd = of_law(log_w, a, np.exp(a))
        of_best = np.sqrt(np.diag(np.linalg.inv(gram)) * (mean[1] ** 2 + sd[1] ** 2))
        return np.array([*best, *mean]), np.array([*of_best, *sd])

    return Posterior(log_p, (*[False] * columns, True), moments, (columns,))


def few_members(y: list[float], variance: float, scale: float, degrees: float) -> Posterior:
    """Means of few members, whose sd has half a t as its prior."""
    values, mean_sd = np.array(y), 5.0

    def prior(a: np.ndarray) -> np.ndarray:
        return np.asarray(a - (degrees + 1) / 2 * np.log1p(np.exp(2 * a) / scale**2 / degrees))

    def log_p(theta: np.ndarray) -> np.ndarray:
        m, a = theta[:, :1], theta[:, 1]
        v = variance + np.exp(2 * a)
        log_p = stats.norm.logpdf(m[:, 0], 0, mean_sd) + prior(a) - len(values) / 2 * np.log(v)
        return np.asarray(log_p - ((values - m) ** 2).sum(1) / v / 2)

    def moments() -> Moments:
        a = np.linspace(-25, 25, 100_001)
        v, n = variance + np.exp(2 * a), len(values)
        precision = n / v + mean_sd**-2
        m = values.sum() / v / precision
        log_w = prior(a) - n / 2 * np.log(v) - (values @ values) / v / 2
        log_w += precision * m**2 / 2 - np.log(precision) / 2
        mean, sd = of_law(log_w, a, np.exp(a), m)
        w = np.exp(log_w - log_w.max())
        of_mean = np.sqrt(sd[2] ** 2 + w @ (1 / precision) / w.sum())
        return np.array([mean[2], *mean[:2]]), np.array([of_mean, *sd[:2]])

    return Posterior(log_p, (False, True), moments, (1,))


def gammas(shapes: list[float], rates: list[float], sign: int) -> Posterior:
    """Logs of gamma variables, or of their inverses, and these themselves."""
    a, b = np.array(shapes), np.array(rates)

    def log_p(theta: np.ndarray) -> np.ndarray:
        return np.asarray((a * sign * theta - b * np.exp(sign * theta)).sum(1))

    def moments() -> Moments:
        mean, sd = sign * (digamma(a) - np.log(b)), np.sqrt(polygamma(1, a))
        of = (a / b, np.sqrt(a) / b) if sign > 0 else (b / (a - 1), b / (a - 1) / np.sqrt(a - 2))
        return np.concatenate([mean, of[0]]), np.concatenate([sd, of[1]])

    return Posterior(log_p, (True,) * len(a), moments, tuple(range(len(a))))


def far_shoulder(share: float, place: list[float], sds: list[float]) -> Posterior:
    """A normal law, and a small part of another one far out."""
    at, wide = np.array(place), np.array(sds)

    def log_p(theta: np.ndarray) -> np.ndarray:
        far = np.log(share) - np.log(wide).sum() - (((theta - at) / wide) ** 2).sum(1) / 2
        return np.logaddexp(np.log1p(-share) - (theta**2).sum(1) / 2, far)

    def moments() -> Moments:
        mean = share * at
        return mean, np.sqrt(1 - share + share * (wide**2 + at**2) - mean**2)

    return Posterior(log_p, (False,) * len(at), moments)


def student(dim: int, degrees: float, correlation: float) -> Posterior:
    """A t of several coordinates at once."""
    precision = np.linalg.inv((1 - correlation) * np.eye(dim) + correlation)

    def log_p(theta: np.ndarray) -> np.ndarray:
        square = np.einsum("ij,jk,ik->i", theta, precision, theta)
        return np.asarray(-(degrees + dim) / 2 * np.log1p(square / degrees))

    def moments() -> Moments:
        return np.zeros(dim), np.full(dim, np.sqrt(degrees / (degrees - 2)))

    return Posterior(log_p, (False,) * dim, moments)


def funnel_of(others: int, rate: float) -> Posterior:
    """A normal scale's log, and normals that it scales."""

    def log_p(theta: np.ndarray) -> np.ndarray:
        a, b = theta[:, 0], theta[:, 1:]
        square = (b**2).sum(1) * np.exp(-2 * rate * a)
        return np.asarray(-(a**2) / 2 - square / 2 - others * rate * a)

    def moments() -> Moments:
        mean = np.array([*np.zeros(1 + others), np.exp(0.5)])
        return mean, np.array([1, *[np.exp(rate**2)] * others, np.sqrt(np.exp(2) - np.exp(1))])

    return Posterior(log_p, (True, *[False] * others), moments, (0,))


def nearly_separated(rows: int, seed: int, degrees: float) -> Posterior:
    """Few binary outcomes that one covariate all but tells, and t's as priors."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    sign = np.where(x + 0.3 * rng.normal(size=rows) > 0, 1.0, -1.0)

    def log_p(theta: np.ndarray) -> np.ndarray:
        likelihood = log_expit(sign * (theta[:, :1] + theta[:, 1:] * x)).sum(1)
        return np.asarray(likelihood + stats.t.logpdf(theta / 2.5, degrees).sum(1))

    def moments() -> Moments:
        u = np.linspace(-8, 8, 1_201)  # of the inverse hyperbolic sine
        log_w, parts = [], []
        for v in u:
            theta = np.sinh(np.column_stack([np.full(len(u), v), u]))
            log_w.append(log_p(theta) + np.log(np.cosh(v) * np.cosh(u)))
            parts.append(theta)
        mean, sd = of_law(np.concatenate(log_w), *np.concatenate(parts).T)
        return np.array(mean), np.array(sd)

    return Posterior(log_p, (False, False), moments)


HEAVY = {
    "regression of 5": regression(5, 1, 1),
    "regression of 9": regression(9, 3, 2),
    "four members": few_members([1.2, -0.4, 0.8, 2.9], 0.3, 5.0, 1.0),
    "gammas": gammas([0.5, 1.0, 2.0, 5.0], [1.0, 2.0, 1.0, 3.0], 1),
    "shoulder in three": far_shoulder(0.002, [5.0, 3.0, 0.0], [1.5, 1.0, 0.5]),
    "t of three": student(3, 5.0, 0.5),
    "funnel of three": funnel_of(2, 0.4),
    "nine outcomes": nearly_separated(9, 5, 4.0),
    "regression of 7": regression(7, 2, 3),
    "regression of 12": regression(12, 6, 4),
    "six members": few_members([3.0, -1.0, 0.5, 0.2, 1.7, -0.6], 0.5, 1.0, 3.0),
    "inverse gammas": gammas([3.5, 5.0, 8.0], [1.0, 2.0, 3.0], -1),
    "shoulder in four": far_shoulder(0.001, [-6.0, 3.0, 2.0, 0.0], [1.5, 1.5, 1.0, 0.6]),
    "t of five": student(5, 6.0, -0.1),
    "funnel of five": funnel_of(4, 0.5),
    "twelve outcomes": nearly_separated(12, 8, 5.0),
}
"""Heavy-tailed: rules were fixed on the first eight, and judged on the others."""


class Density:
    """As much of a density of theta as :func:`integrate` and its proposals ask for."""

    def __init__(self, of: Posterior, work: int = CHEAP) -> None:
        self.of, self.work, self.is_noisy = of, work, False
        self.bounded, self.dim = np.array(of.leads), len(of.leads)
        self.scalars = self.dim + len(of.scales)
        self.owner = np.full(self.scalars, -1)

    def log_p(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            value = self.of.log_p(theta)
        return np.where(np.isfinite(value), value, -np.inf)

    def sweep(self, theta: np.ndarray) -> ThetaRows:
        log_p = self.log_p(theta)
        scales = np.exp(np.clip(theta[:, list(self.of.scales)], -300.0, 300.0))
        values = np.column_stack([theta, scales])
        return ThetaRows(log_p, values, 0 * values, log_p)

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
def moments_of(name: str) -> Moments:
    moments = (POSTERIORS | HEAVY)[name].moments
    assert moments is not None
    return moments()


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
    density = Density((POSTERIORS | HEAVY)[name], work)
    return integral_of(density, seed, density.scalars)


def off_and_told(name: str, found: Integral) -> tuple[np.ndarray, np.ndarray]:
    """Return how far means and sds are off, and their errors, in posterior sds.

    But those of scalars that are said to have no sd.
    """
    mean, sd = moments_of(name)
    off = np.concatenate([(found.mean - mean) / sd, found.sd / sd - 1])
    told = np.concatenate([found.mean_error / sd, found.sd_error / sd])
    known = np.ones(off.size, bool) if found.tails is None else np.isnan(np.tile(found.tails, 2))
    return off[known], told[known]


def is_ok(found: Integral) -> bool:
    known = np.ones(len(found.mean), bool)
    small = found.worst_error(known) <= 0.01 and found.share >= 0.2
    return bool(small and found.khat < khat_limit(len(found.theta)))
