"""A polynomial in place of log p(y, theta), where a point of theta is dear and one fits.

A posterior of parameters that much data have settled is a normal bent a little: a cubic in whitened
coordinates has its log density to a hundredth of a nat, or a quartic where they are so few that it
has not many more coefficients. That is then integrated over in place of it, by as many points as it
takes; moments given theta by quadratics, whose residuals at the points themselves are added back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb

import numpy as np
from jaxtyping import Float, Int
from scipy.special import chdtri, softmax

RESIDUAL = 0.01
"""Nats by which a polynomial may miss log p(y, theta), as an sd over the posterior. A mean is off
by at most as many posterior sds, by Cauchy and Schwarz."""

NUM_POINTS = 2**14
"""Points at which a polynomial is integrated over."""

MOST_QUARTIC = 3
"""Coordinates up to which it is a quartic."""

OUTSIDE = 1e-4
"""Of a normal posterior, what lies so far below the highest point that points are not fitted. The
polynomial is not followed further out than those that are."""

SPARE = 1.5
"""Points for each coefficient, at least."""


@dataclass(frozen=True)
class Surrogate:
    """What a polynomial in place of the log density makes of some points of theta.

    Parameters
    ----------
    residual
        Nats by which the polynomial misses points that were left out of its fit; sd over the
        posterior.
    log_evidence
        Log of the polynomial's integral.
    weights
        Of the points, shape (points,): with them the mean of every quadratic is its own,
        and what is left of any other function is averaged over the points. They sum to 1, and some
        may be a little below 0.
    """

    residual: float
    log_evidence: float
    weights: Float[np.ndarray, " points"]


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
    points: Float[np.ndarray, "many G"],
    log_q: Float[np.ndarray, " many"],
    lots: Int[np.ndarray, " points"] | None = None,
) -> Surrogate | None:
    """Return the surrogate of log p(y, theta); ``None`` where there are too few points for one.

    Parameters
    ----------
    theta, log_p, weights
        Points, the log density there, and their posterior weights, which sum to 1.
    points, log_q
        Points to integrate the polynomial with, and the log density that they come from.
    lots
        Of the points, each lot with a constant of its own in ``log_p``, by which its mean weight is
        off: without bias over lots.

    References
    ----------
    Deville, J.-C. and Sarndal, C.-E. (1992). Calibration estimators in survey sampling. JASA
    87(418). doi:10.1080/01621459.1992.10475217
    """
    dim, degree = theta.shape[1], degree_of(theta.shape[1])
    used = log_p > log_p.max() - chdtri(dim, OUTSIDE) / 2
    apart = _indicators(lots[used]) if lots is not None else np.zeros((used.sum(), 0))
    if used.sum() < SPARE * (num_coefficients(dim) + apart.shape[1]):
        return None
    x, y, w = theta[used], log_p[used], weights[used] / weights[used].sum()
    loc = w @ x
    away = x - loc
    cov = (away * w[:, None]).T @ away
    try:
        whiten = np.linalg.inv(np.linalg.cholesky(cov)).T
    except np.linalg.LinAlgError:
        return None
    e = away @ whiten
    # a point that is unlikely says little; it keeps the fit from running up where it lies
    importance = np.sqrt(w + 0.1 / len(w))
    table = np.concatenate([_monomials(e, degree), apart], axis=1) * importance[:, None]
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

    at = (points - loc) @ whiten
    inside = np.square(at).sum(1) <= np.square(e).sum(1).max()
    at = at[inside]
    log_ratios = _monomials(at, degree) @ fitted - log_q[inside]
    top = log_ratios.max()
    log_evidence = float(top + np.log(np.exp(log_ratios - top).sum() / len(points)))
    few, many = _monomials(e, 2), softmax(log_ratios) @ _monomials(at, 2)
    root = importance[:, None]
    calibrated = w + (np.linalg.pinv(few * root) * importance).T @ (many - w @ few)
    all_weights = np.zeros(len(theta))
    all_weights[used] = calibrated
    return Surrogate(residual, log_evidence, all_weights)


def _indicators(lots: Int[np.ndarray, " points"]) -> Float[np.ndarray, "points others"]:
    """Return columns of constants of the lots that sum to 0."""
    numbers = np.unique(lots, return_inverse=True)[1]
    table = np.eye(numbers.max() + 1)
    return np.asarray((table[:, :-1] - table[:, -1:])[numbers])


def _monomials(x: Float[np.ndarray, "points G"], degree: int) -> Float[np.ndarray, "points terms"]:
    """Return all products of up to so many coordinates."""
    columns = [np.ones(len(x))]
    for d in range(1, degree + 1):
        for chosen in combinations_with_replacement(range(x.shape[1]), d):
            columns.append(np.prod(x[:, chosen], axis=1))
    return np.stack(columns, axis=1)
