"""A polynomial near log p(y, theta), where a point of theta is dear and one fits.

A posterior of parameters that data have settled is a normal bent a little: a cubic in whitened
coordinates has its log density to some hundredths of a nat, or a quartic where they are so few that
it has not many more coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import chdtri

MOST_QUARTIC = 3
"""Coordinates up to which it is a quartic."""

OUTSIDE = 1e-4
"""Of a normal posterior, what lies so far below the highest point that points are not fitted."""

STEP = 1e-3
"""Of the reach, over which its slope at the edge is differenced."""

SPARE = 1.5
"""Points for each coefficient, at least."""


@dataclass(frozen=True)
class Surrogate:
    """A polynomial near the log density.

    Parameters
    ----------
    residual
        Nats by which it misses points that were left out of its fit; sd over the posterior.
    loc, whiten
        Its coordinates are whiten' (theta - loc), shapes (G,) and (G, G).
    reach
        Largest squared length of those at which it was fitted: along every line from their origin
        it falls on from there as it falls there.
    coefficients
        Of :func:`monomials`.
    used
        Which points it was fitted to.
    """

    residual: float
    loc: Float[np.ndarray, " G"]
    whiten: Float[np.ndarray, "G G"]
    reach: float
    coefficients: Float[np.ndarray, " terms"]
    used: Bool[np.ndarray, " points"]

    def log_prob(self, theta: Float[np.ndarray, "points G"]) -> Float[np.ndarray, " points"]:
        """Return it at points."""
        return self.and_beyond(theta)[0]

    def and_beyond(
        self, theta: Float[np.ndarray, "points G"]
    ) -> tuple[Float[np.ndarray, " points"], Bool[np.ndarray, " points"]]:
        """Return it at points, and which of them lie beyond its reach."""
        e = (theta - self.loc) @ self.whiten
        times = np.sqrt(np.square(e).sum(1) / self.reach)
        far = times > 1
        e[far] /= times[far, None]
        log_p = self._at(e)
        slope = (log_p[far] - self._at((1 - STEP) * e[far])) / STEP
        log_p[far] += slope * (times[far] - 1)
        return log_p, far

    def _at(self, e: Float[np.ndarray, "points G"]) -> Float[np.ndarray, " points"]:
        return np.asarray(monomials(e, degree_of(len(self.loc))) @ self.coefficients)


def degree_of(dim: int) -> int:
    """Return the degree of the polynomial in so many coordinates."""
    return 4 if dim <= MOST_QUARTIC else 3


def num_coefficients(dim: int) -> int:
    """Return how many coefficients it has."""
    return comb(dim + degree_of(dim), dim)


def fit_surrogate(
    theta: Float[np.ndarray, "points G"],
    log_p: Float[np.ndarray, " points"],
    weights: Float[np.ndarray, " points"],
    lots: Int[np.ndarray, " points"] | None = None,
) -> Surrogate | None:
    """Return the surrogate of log p(y, theta); ``None`` where there are too few points for one.

    Parameters
    ----------
    theta, log_p, weights
        Points, the log density there, and their posterior weights, which sum to 1.
    lots
        Of the points, each lot with a constant of its own in ``log_p``, by which its mean weight is
        off: without bias over lots.
    """
    dim, degree = theta.shape[1], degree_of(theta.shape[1])
    used = log_p > log_p.max() - chdtri(dim, OUTSIDE) / 2
    apart = _indicators(lots[used]) if lots is not None else np.zeros((used.sum(), 0))
    if used.sum() < SPARE * (num_coefficients(dim) + apart.shape[1]):
        return None
    x, y, w = theta[used], log_p[used], weights[used] / weights[used].sum()
    try:
        loc, whiten = whitened(x, w)
    except np.linalg.LinAlgError:
        return None
    e = (x - loc) @ whiten
    # a point that is unlikely says little; it keeps the fit from running up where it lies
    importance = np.sqrt(w + 0.1 / len(w))
    table = np.concatenate([monomials(e, degree), apart], axis=1) * importance[:, None]
    basis, tail = np.linalg.qr(table)
    target = y * importance
    left = (target - basis @ (basis.T @ target)) / importance
    leverage = np.minimum(np.square(basis).sum(1), 1 - 1e-6)
    missed = left / (1 - leverage)
    missed = missed - w @ missed
    residual = float(np.sqrt(w @ missed**2))
    every = np.linalg.solve(tail, basis.T @ target)
    fitted, own = every[: -apart.shape[1] or None], every[len(every) - apart.shape[1] :]
    if own.size:  # of all lots, which sum to 0: what their weights have in the mean
        fitted[0] += np.log(np.exp(np.append(own, -own.sum())).mean())
    return Surrogate(residual, loc, whiten, float(np.square(e).sum(1).max()), fitted, used)


def whitened(
    theta: Float[np.ndarray, "points G"], weights: Float[np.ndarray, " points"]
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, "G G"]]:
    """Return the mean of points, and a matrix that whitens what they are away from it.

    Raises
    ------
    numpy.linalg.LinAlgError
        Where they have no spread in some direction.
    """
    loc = weights @ theta
    away = theta - loc
    cov = (away * weights[:, None]).T @ away
    return loc, np.linalg.inv(np.linalg.cholesky(cov)).T


def _indicators(lots: Int[np.ndarray, " points"]) -> Float[np.ndarray, "points others"]:
    """Return columns of constants of the lots that sum to 0."""
    numbers = np.unique(lots, return_inverse=True)[1]
    table = np.eye(numbers.max() + 1)
    return np.asarray((table[:, :-1] - table[:, -1:])[numbers])


def monomials(x: Float[np.ndarray, "points G"], degree: int) -> Float[np.ndarray, "points terms"]:
    """Return all products of up to so many coordinates."""
    columns = [np.ones(len(x))]
    for d in range(1, degree + 1):
        for chosen in combinations_with_replacement(range(x.shape[1]), d):
            columns.append(np.prod(x[:, chosen], axis=1))
    return np.stack(columns, axis=1)
