"""Alpha-divergences of normals from a density of one variable: where they are finite; the least.

D_a is log(integral of q^a p^(1 - a)) / (a (a - 1)), in the limit KL(q || p) at a = 1 and KL(p || q)
at 0. Its lowest point is that of Renyi's divergence D_a(q || p) where a is above 0, and of
D_(1 - a)(p || q) where it is below 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, ndtri

REACH, NUM_POINTS = 30.0, 3_001
"""Where the densities are evaluated: far out, as q's tails and the tails of powers of p are."""

FAR_OUT = 1_000.0 * np.arange(1, 7)
"""Where tails are read: six points, for the four numbers of a tail and a check of them."""

MAX_ERROR = 1e-9
"""Nats that a wider and finer grid may change log(integral of p) by."""

LogDensity = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ScalarNormal:
    """A normal approximation."""

    mean: float
    sd: float

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Return its log density."""
        z = (x - self.mean) / self.sd
        return np.asarray(-0.5 * z**2 - np.log(self.sd) - 0.5 * np.log(2 * np.pi))


@dataclass(frozen=True)
class Tail:
    """How a density ends: log p = constant - precision (x - centre)^2 / 2 - power log |x|.

    Parameters
    ----------
    side
        1 as x goes to infinity, -1 as it goes to minus infinity.
    precision, centre, power
        Of the normal that the tail is that of, but for a power of x.
    """

    side: int
    precision: float
    centre: float
    power: float

    def limit(self, order: float) -> float:
        """Return the sd of q at which q^a p^(1 - a) ceases to fall as a normal does."""
        if 0 <= order <= 1:
            return np.inf
        return float(np.sqrt(order / ((order - 1) * self.precision)))

    def holds(self, q: ScalarNormal, order: float) -> bool:
        """Whether the integral of q^a p^(1 - a) is finite on this side."""
        fall = order / q.sd**2 + (1 - order) * self.precision
        if 0 <= order <= 1 or abs(fall) > 1e-9 * self.precision:
            return 0 <= order <= 1 or fall > 0
        # at the limit: exp(slope |x|) times a power of |x|
        slope = self.side * order / q.sd**2 * (q.mean - self.centre)
        if abs(slope) > 1e-6:
            return slope < 0
        return (1 - order) * self.power > 1


def read_tail(log_p: LogDensity, side: int) -> Tail:
    """Return a tail by its values far out, where it is that of a normal times a power.

    Raises
    ------
    ValueError
        If it is not.
    """
    x = side * FAR_OUT
    terms = np.stack([np.ones_like(x), x, x**2, np.log(FAR_OUT)], axis=1)
    size, values = np.abs(terms).max(axis=0), log_p(x)
    found = np.linalg.lstsq(terms / size, values, rcond=None)[0] / size
    wrong = np.abs(terms @ found - values).max()
    _, linear, square, power = found.tolist()
    if not (wrong < 1e-6 and square < 0):
        raise ValueError(
            f"log_p: its tail at {x[0]:g} to {x[-1]:g} is {wrong:.1g} off that of a normal times a "
            "power of x, which is what limits of sd are worked out for"
        )
    return Tail(side, -2 * square, -linear / (2 * square), -power)


class GridValues:
    """A density at the points of a grid, for the trapezoid rule.

    Parameters
    ----------
    log_p
        Its logarithm, up to a constant.
    reach, num_points
        Of the grid.

    Attributes
    ----------
    log_total
        Log of the integral of ``exp(log_p)``.
    """

    def __init__(self, log_p: LogDensity, reach: float, num_points: int) -> None:
        self.x = np.linspace(-reach, reach, num_points)
        self.step = self.x[1] - self.x[0]
        log_values = log_p(self.x)
        self.log_total = float(logsumexp(log_values) + np.log(self.step))
        self.log_p = log_values - self.log_total
        self.mass = np.exp(self.log_p) * self.step

    def divergence(self, q: ScalarNormal, order: float) -> tuple[float, np.ndarray]:
        """Return a normal's divergence, and its slopes in the mean and the log sd."""
        log_q = q.log_density(self.x)
        z = (self.x - q.mean) / q.sd
        score = np.stack([z / q.sd, z**2 - 1])
        if order == 1:
            apart, mass = log_q - self.log_p, np.exp(log_q) * self.step
            return float(mass @ apart), np.asarray(score @ (mass * apart))
        if order == 0:
            return float(self.mass @ (self.log_p - log_q)), -score @ self.mass
        terms = order * log_q + (1 - order) * self.log_p + np.log(self.step)
        total = float(logsumexp(terms))
        return total / (order * (order - 1)), score @ np.exp(terms - total) / (order - 1)


class ScalarDensity:
    """A density of one variable.

    Parameters
    ----------
    log_p
        Its logarithm, up to a constant.

    Raises
    ------
    ValueError
        If it has mass out of the grid's reach, or is too rough for its steps, or where its tails
        are not those of a normal.
    """

    def __init__(self, log_p: LogDensity) -> None:
        self.at = GridValues(log_p, REACH, NUM_POINTS)
        self.check = GridValues(log_p, 2 * REACH, 4 * NUM_POINTS - 3)
        off = abs(self.check.log_total - self.at.log_total)
        if not off < MAX_ERROR:
            raise ValueError(
                f"log_p: its integral over -{REACH:g} to {REACH:g} in steps of {self.at.step:g} is "
                f"off by {off:.1g} in the logarithm, expected below {MAX_ERROR:g}: change its unit"
            )
        self.tails = (read_tail(log_p, -1), read_tail(log_p, 1))

    def moments(self) -> ScalarNormal:
        """Return the normal with its mean and sd."""
        mean = float(self.at.mass @ self.at.x)
        return ScalarNormal(mean, float(np.sqrt(self.at.mass @ (self.at.x - mean) ** 2)))

    def nearest(self) -> ScalarNormal:
        """Return the normal of least 2-Wasserstein distance from p.

        It has p's mean, and the sd that is the mean of F^-1(u) Phi^-1(u) over u from 0 to 1, F
        being p's distribution function: in one dimension mass is moved in its order. The sum has
        an error of the square of the step.
        """
        share = np.cumsum(self.at.mass) - 0.5 * self.at.mass
        inside = (share > 0) & (share < 1)
        moved = ndtri(share[inside]) * self.at.x[inside]
        return ScalarNormal(self.moments().mean, float(self.at.mass[inside] @ moved))

    def covered(self, q: ScalarNormal, width: float) -> float:
        """Return the mass within so many sds of a normal's mean."""
        return float(self.at.mass[np.abs(self.at.x - q.mean) <= width * q.sd].sum())

    def sds(self, order: float) -> tuple[float, float]:
        """Return the sds of a normal between which its divergence is finite, from p's tails.

        q^a p^(1 - a) falls in a tail of precision t while a / sd^2 + (1 - a) t is positive: for a
        above 1 up to some sd, for a below 0 from some sd on. At the limit itself it is the means
        that decide.
        """
        limits = [tail.limit(order) for tail in self.tails]
        return (max(limits), np.inf) if order < 0 else (0.0, min(limits))

    def divergence(self, q: ScalarNormal, order: float) -> float:
        """Return the divergence of a normal, infinite where it is."""
        if not all(tail.holds(q, order) for tail in self.tails):
            return np.inf
        return self.at.divergence(q, order)[0]

    def error(self, q: ScalarNormal, order: float) -> float:
        """Return by how much twice the range and half the step change a finite divergence."""
        return abs(self.check.divergence(q, order)[0] - self.at.divergence(q, order)[0])

    def best(self, order: float) -> ScalarNormal:
        """Return the normal of least divergence; its sd may be a limit of :meth:`sds`."""
        return self._least(order, *np.clip(self.sds(order), self.at.step, REACH))

    def profile(self, order: float, sds: np.ndarray) -> np.ndarray:
        """Return the least divergence of normals with each of the ``sds``."""
        return np.array([self.divergence(self._least(order, sd, sd), order) for sd in sds])

    def at_limit(self, q: ScalarNormal, order: float) -> bool:
        """Whether a normal's sd is a limit of those whose divergence is finite."""
        return q.sd in self.sds(order)

    def _least(self, order: float, low: float, high: float) -> ScalarNormal:
        """Return the best normal with an sd of ``low`` to ``high``.

        There may be a local one on every mode of p.
        """
        x, log_p = self.at.x, self.at.log_p
        top = np.flatnonzero(np.diff(np.sign(np.diff(log_p))) < 0) + 1
        bend = -np.diff(log_p, 2)[top - 1] / self.at.step**2
        found = [
            minimize(
                lambda eta: self.at.divergence(ScalarNormal(eta[0], np.exp(eta[1])), order),
                (start.mean, np.log(np.clip(start.sd, low, high))),
                jac=True,
                method="L-BFGS-B",
                bounds=[(-REACH, REACH), (np.log(low), np.log(high))],
                options={"ftol": 1e-15, "gtol": 1e-10},
            )
            for start in [self.moments(), *map(ScalarNormal, x[top], bend**-0.5)]
        ]
        mean, log_sd = min(found, key=lambda result: result.fun).x
        ends = [end for end in (low, high) if abs(np.log(end) - log_sd) < 1e-9]
        return ScalarNormal(float(mean), float(ends[0] if ends else np.exp(log_sd)))
