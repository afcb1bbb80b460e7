"""A polynomial in place of log p(y, theta), where a point of theta is dear and one fits.

A posterior of parameters that much data have settled is a normal bent a little: a cubic in whitened
coordinates has its log density to a hundredth of a nat. The cubic is then integrated over in place
of it, by as many points as it takes; moments given theta by quadratics, whose residuals at the
points themselves are added back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from jaxtyping import Float
from scipy.special import softmax
from scipy.stats import chi2

RESIDUAL = 0.01
"""Nats by which a cubic may miss log p(y, theta), as an sd over the posterior. A mean is off by at
most as many posterior sds, by Cauchy and Schwarz."""

NUM_POINTS = 2**14
"""Points at which a cubic is integrated over."""

OUTSIDE = 1e-4
"""Of a normal posterior, what lies so far below the highest point that points are not fitted. The
cubic is not followed further out than those that are."""

SPARE = 1.5
"""Points for each coefficient, at least."""


@dataclass(frozen=True)
class Surrogate:
    """What a cubic in place of the log density makes of some points of theta.

    Parameters
    ----------
    residual
        Nats by which the cubic misses points that were left out of its fit; sd over the posterior.
    log_evidence
        Log of the cubic's integral.
    weights
        Of the points, shape (points,): with them the mean of every quadratic is the cubic's own,
        and what is left of any other function is averaged over the points. They sum to 1, and some
        may be a little below 0.
    """

    residual: float
    log_evidence: float
    weights: Float[np.ndarray, " points"]


def num_coefficients(dim: int) -> int:
    """Return how many coefficients a cubic in so many coordinates has."""
    return (dim + 3) * (dim + 2) * (dim + 1) // 6


def fit_surrogate(
    theta: Float[np.ndarray, "points G"],
    log_p: Float[np.ndarray, " points"],
    weights: Float[np.ndarray, " points"],
    points: Float[np.ndarray, "many G"],
    log_q: Float[np.ndarray, " many"],
) -> Surrogate | None:
    """Return the surrogate of log p(y, theta); ``None`` where there are too few points for one.

    Parameters
    ----------
    theta, log_p, weights
        Points, the log density there, and their posterior weights, which sum to 1.
    points, log_q
        Points to integrate the cubic with, and the log density that they come from.

    References
    ----------
    Deville, J.-C. and Sarndal, C.-E. (1992). Calibration estimators in survey sampling. JASA
    87(418). doi:10.1080/01621459.1992.10475217
    """
    dim = theta.shape[1]
    used = log_p > log_p.max() - chi2.isf(OUTSIDE, dim) / 2
    if used.sum() < SPARE * num_coefficients(dim):
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
    # a point that is unlikely says little; it keeps the cubic from running up where it lies
    importance = np.sqrt(w + 0.1 / len(w))
    table = _monomials(e, 3) * importance[:, None]
    basis, tail = np.linalg.qr(table)
    target = y * importance
    left = (target - basis @ (basis.T @ target)) / importance
    leverage = np.minimum(np.square(basis).sum(1), 1 - 1e-6)
    missed = left / (1 - leverage)
    missed = missed - w @ missed
    residual = float(np.sqrt(w @ missed**2))
    cubic = np.linalg.solve(tail, basis.T @ target)

    at = (points - loc) @ whiten
    inside = np.square(at).sum(1) <= np.square(e).sum(1).max()
    at = at[inside]
    log_ratios = _monomials(at, 3) @ cubic - log_q[inside]
    top = log_ratios.max()
    log_evidence = float(top + np.log(np.exp(log_ratios - top).sum() / len(points)))
    few, many = _monomials(e, 2), softmax(log_ratios) @ _monomials(at, 2)
    root = importance[:, None]
    calibrated = w + (np.linalg.pinv(few * root) * importance).T @ (many - w @ few)
    all_weights = np.zeros(len(theta))
    all_weights[used] = calibrated
    return Surrogate(residual, log_evidence, all_weights)


def _monomials(x: Float[np.ndarray, "points G"], degree: int) -> Float[np.ndarray, "points terms"]:
    """Return all products of up to so many coordinates."""
    columns = [np.ones(len(x))]
    for d in range(1, degree + 1):
        for chosen in combinations_with_replacement(range(x.shape[1]), d):
            columns.append(np.prod(x[:, chosen], axis=1))
    return np.stack(columns, axis=1)
