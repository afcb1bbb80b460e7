"""Whether ranks are uniform: simultaneous bands of their ECDF, and tests of symmetry and spread."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from scipy.special import gammaln, ndtri

LEVEL = 0.95
"""Share of uniform samples whose ECDF stays within its band everywhere."""

MAX_POINTS = 100
"""Points at which the ECDF is compared."""

BISECTIONS = 40


@dataclass(frozen=True)
class EcdfBand:
    """A simultaneous band for the ECDF of ranks of independent simulations.

    Ranks 0 to ``num_draws`` are equally likely where a method is calibrated. Their counts up to
    each of some points are binomial; the band takes the central interval of the same small tail
    probability gamma at every point. That a uniform sample stays within it everywhere has a
    probability that a recursion over the points gives exactly, and gamma is the largest with at
    least 0.95.

    Parameters
    ----------
    num_simulations
        Number of ranks.
    num_draws
        The largest rank.

    References
    ----------
    Säilynoja, T., Bürkner, P.-C. and Vehtari, A. (2022). Graphical test for discrete uniformity
    and its applications in goodness-of-fit evaluation and multiple sample comparison. Statistics
    and Computing 32, 32, doi:10.1007/s11222-022-10090-6.
    """

    num_simulations: int
    num_draws: int

    @cached_property
    def cuts(self) -> np.ndarray:
        """Numbers of lowest ranks that are counted together, increasing."""
        inner = np.arange(1, self.num_draws + 1)
        if len(inner) > MAX_POINTS:
            inner = np.unique(np.linspace(1, self.num_draws, MAX_POINTS).round().astype(int))
        return inner

    @property
    def points(self) -> np.ndarray:
        """Probability of a rank below each of :attr:`cuts`, were the ranks uniform."""
        return np.asarray(self.cuts / (self.num_draws + 1))

    @cached_property
    def gamma(self) -> float:
        """Tail probability at every point, both sides together."""
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._stays(middle) >= LEVEL else (low, middle)
        return low

    @property
    def half_width(self) -> float:
        """Largest deviation of the ECDF from uniformity that goes unnoticed."""
        lower, upper = self.limits
        return float((upper - lower).max() / 2)

    @cached_property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper edges of ECDF minus uniform CDF, at :attr:`points`."""
        allowed = self._tails > self.gamma
        first = allowed.argmax(axis=1)
        last = allowed.shape[1] - 1 - allowed[:, ::-1].argmax(axis=1)
        n = self.num_simulations
        return first / n - self.points, last / n - self.points

    def difference(self, ranks: np.ndarray) -> np.ndarray:
        """Return the ECDF of ranks minus the uniform CDF, at :attr:`points`."""
        return self._counts(ranks) / self.num_simulations - self.points

    def p_value(self, ranks: np.ndarray) -> float:
        """Return the probability that uniform ranks stray as far, in their worst point, as these.

        Below 0.05 where the ECDF leaves the band.
        """
        counts = self._counts(ranks)
        worst = float(self._tails[np.arange(len(counts)), counts].min())
        return float(np.clip(1 - self._stays(worst), 0.0, 1.0))

    def _counts(self, ranks: np.ndarray) -> np.ndarray:
        ranks = np.asarray(ranks)
        if ranks.shape != (self.num_simulations,):
            raise ValueError(
                f"ranks: got shape {ranks.shape}, expected ({self.num_simulations},), one rank a "
                "simulation"
            )
        if ranks.min() < 0 or ranks.max() > self.num_draws:
            raise ValueError(
                f"ranks: got {ranks.min()} to {ranks.max()}, expected 0 to {self.num_draws}"
            )
        return np.searchsorted(np.sort(ranks), self.cuts, side="left")

    @cached_property
    def _tails(self) -> np.ndarray:
        """Two-sided binomial tail probability of every count at every point."""
        from scipy.stats import binom  # a third of a second, which no cell needs

        counts = np.arange(self.num_simulations + 1)
        law = binom(self.num_simulations, self.points[:, None])
        tails = np.minimum(1.0, 2 * np.minimum(law.cdf(counts), law.sf(counts - 1)))
        with np.errstate(divide="ignore"):  # tails that are equal but for rounding are equal
            return np.asarray(np.exp(np.round(np.log(tails), 9)))

    def _stays(self, gamma: float) -> float:
        """Return the probability that a uniform sample's tails are above gamma at every point."""
        n = self.num_simulations
        factorial = gammaln(np.arange(n + 1) + 1.0)
        where, mass, before = np.zeros(1, int), np.ones(1), 0.0
        for point, tails in zip(self.points, self._tails, strict=True):
            goes = np.flatnonzero(tails > gamma)
            if goes.size == 0:
                return 0.0
            step = (point - before) / (1 - before)
            gained = goes[None, :] - where[:, None]
            k, left = np.maximum(gained, 0), n - where[:, None]
            log_mass = (
                factorial[left] - factorial[k] - factorial[np.maximum(left - k, 0)]
                + k * np.log(step) + (left - k) * np.log1p(-step)
            )  # fmt: skip
            mass = mass @ np.where(gained >= 0, np.exp(log_mass), 0.0)
            where, before = goes, point
        return float(mass.sum())


@cache
def ecdf_band(num_simulations: int, num_draws: int) -> EcdfBand:
    """Return the band for so many ranks from 0 to ``num_draws``; computed once."""
    return EcdfBand(num_simulations, num_draws)


def centres(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """Return ranks as numbers between 0 and 1, symmetric about 1/2."""
    return (np.asarray(ranks) + 0.5) / (num_draws + 1)


def shift(ranks: np.ndarray, num_draws: int) -> float:
    """Return the mean rank as a z-score: positive where the truth lies above the draws."""
    scale = np.sqrt((1 - (num_draws + 1.0) ** -2) / 12 / len(ranks))
    return float((centres(ranks, num_draws).mean() - 0.5) / scale)


def spread(ranks: np.ndarray, num_draws: int) -> float:
    """Return the mean squared distance of ranks from their middle as a z-score.

    Positive where the truth lies in the draws' tails too often: their spread is too small.
    """
    support = (2 * centres(np.arange(num_draws + 1), num_draws) - 1) ** 2
    squares = (2 * centres(ranks, num_draws) - 1) ** 2
    return float((squares.mean() - support.mean()) / np.sqrt(support.var() / len(squares)))


def spread_about_mean(ranks: np.ndarray, num_draws: int) -> float:
    """Return the variance of ranks' normal scores about their own mean as a z-score.

    A shift alone takes ranks from their middle too, and so raises :func:`spread`, but not this.
    """
    support = ndtri(centres(np.arange(num_draws + 1), num_draws)) ** 2
    scores = ndtri(centres(ranks, num_draws))
    return float((scores.var() - support.mean()) / np.sqrt(support.var() / len(scores)))


def symmetry_p_value(ranks: np.ndarray, num_draws: int) -> float:
    """Test whether ranks are as often so far below their middle as above it.

    The largest difference between the ECDFs of p = P_q(theta < truth) and of 1 - p, whose
    asymmetry shows a biased mean (Yao et al. 2018), whatever the spread. Taken from the edges
    inwards it is a simple random walk if p is symmetric, so its distribution is known exactly; ties
    make the test conservative.

    Parameters
    ----------
    ranks
        Of the truth among the draws, 0 to ``num_draws``.
    num_draws
        The largest rank.

    References
    ----------
    Yao, Y., Vehtari, A., Simpson, D. and Gelman, A. (2018). Yes, but did it work? Evaluating
    variational inference. ICML, arXiv:1802.02538.
    """
    away = 2 * np.asarray(ranks, int) - num_draws  # from the middle, in half ranks
    away = away[away != 0]
    if away.size == 0:
        return 1.0
    steps = np.bincount(num_draws - np.abs(away), np.sign(away), minlength=num_draws + 1)
    return _walk_reaches(away.size, int(np.abs(np.cumsum(steps)).max()))


def _walk_reaches(num_steps: int, height: int) -> float:
    """Return the probability that a simple random walk gets to +height or -height."""
    if height == 0:
        return 1.0
    inside = np.zeros(2 * height + 1)  # its ends are where the walk stops
    inside[height] = 1.0
    for _ in range(num_steps):
        moved = np.zeros_like(inside)
        moved[1:-1] = (inside[:-2] + inside[2:]) / 2
        moved[[0, -1]] = 0.0
        inside = moved
    return float(max(1 - inside.sum(), 0.0))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values that account for how many there are, by Holm's (1979) step-down rule."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
