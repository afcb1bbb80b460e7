"""Proposals of few coordinates: triangular maps of two-sided t's, fitted to weighted points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import digamma, gammaln, ndtri, stdtrit

DEGREES = 4.0
"""Of freedom of both tails, before anything is fitted."""

LEADING_DEGREES, OTHER_DEGREES = (2.5, 5.0), (2.5, 15.0)
"""Between which they are fitted. The left tail of a log scale falls by 1 nat a unit: an axis that
leads keeps tails as heavy."""

CLIP = (-1.5, 2.5)
"""Between which a leading axis moves and stretches those after it."""

FLAT, MAX_STEPS = 1e-6, 60
"""Relative gain, and steps, at which the fit of an axis ends: no better points come of more."""

NEGLIGIBLE = 1e-7
"""Weight, relative to the largest, below which a point says nothing."""


class Proposed(Protocol):
    """A density that points can be had from."""

    def points(self, u: Float[np.ndarray, "points axes"]) -> Float[np.ndarray, "points dim"]:
        """Return points from uniform numbers, at least as many a point as it has coordinates."""

    def log_prob(self, x: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """Return its log density."""


@dataclass(frozen=True)
class Triangular:
    """x[order] = loc + root e, axis after axis e_i = shift.(E^2 - 1) + exp(stretch.E) t_i.

    E are the leading axes before i, clipped; t_i has a scale and a tail of its own on each side of
    its mode. Axes of scale parameters lead: in a funnel the others move and stretch with them.

    Parameters
    ----------
    loc, root
        Shape (dim,), and a lower triangular matrix.
    order
        The coordinate that each axis stands for.
    num_leading
        Axes that move and stretch others.
    axes
        Of every axis its mode and the logs of left scale, right scale, left and right degrees of
        freedom; shape (dim, 5).
    shift, stretch
        Shape (dim, num_leading).
    """

    loc: Float[np.ndarray, " dim"]
    root: Float[np.ndarray, "dim dim"]
    order: Int[np.ndarray, " dim"]
    num_leading: int
    axes: Float[np.ndarray, "dim 5"]
    shift: Float[np.ndarray, "dim leading"]
    stretch: Float[np.ndarray, "dim leading"]

    def points(self, u: Float[np.ndarray, "points axes"]) -> Float[np.ndarray, "points dim"]:
        """Return points from uniform numbers."""
        dim = len(self.loc)
        u = np.clip(u[:, :dim], 1e-12, 1 - 1e-12)
        e = np.empty_like(u)
        for i in range(dim):
            move, log_scale, _ = self._bend(e, i)
            e[:, i] = move + np.exp(log_scale) * _quantile(u[:, i], self.axes[i])
        x = np.empty_like(e)
        x[:, self.order] = self.loc + e @ self.root.T
        return x

    def log_prob(self, x: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """Return the log density."""
        e = np.linalg.solve(self.root, (x[:, self.order] - self.loc).T).T
        total = np.full(len(x), -np.log(np.abs(np.diag(self.root))).sum())
        for i in range(e.shape[1]):
            move, log_scale, _ = self._bend(e, i)
            total += _log_axis((e[:, i] - move) * np.exp(-log_scale), self.axes[i]) - log_scale
        return total

    def _bend(self, e: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return by how much axis i is moved and (log) stretched, and the clipped axes before."""
        leading = np.clip(e[:, : min(i, self.num_leading)], *CLIP)
        n = leading.shape[1]
        return (leading**2 - 1) @ self.shift[i, :n], leading @ self.stretch[i, :n], leading


def around(
    loc: Float[np.ndarray, " dim"],
    cov: Float[np.ndarray, "dim dim"],
    leads: Bool[np.ndarray, " dim"],
) -> Triangular:
    """Return t's around a point, with the covariance's shape, that move and stretch nothing.

    Parameters
    ----------
    loc, cov
        The point, and a positive definite matrix.
    leads
        Which coordinates lead.
    """
    order = np.argsort(~leads, kind="stable")
    dim, leading = len(loc), int(leads.sum())
    axes = np.tile([0.0, 0.0, 0.0, np.log(DEGREES), np.log(DEGREES)], (dim, 1))
    still = np.zeros((dim, leading))
    root = np.linalg.cholesky(cov[np.ix_(order, order)])
    return Triangular(loc[order], root, order, leading, axes, still, still)


def num_parameters(leads: Bool[np.ndarray, " dim"]) -> int:
    """Return how many numbers a proposal has to have fitted, but for location and covariance."""
    before = np.minimum(np.arange(leads.size), leads.sum())
    return int(5 * leads.size + 2 * before.sum())


def fit_triangular(
    x: Float[np.ndarray, "points dim"],
    weights: Float[np.ndarray, " points"],
    leads: Bool[np.ndarray, " dim"],
) -> Triangular:
    """Return the proposal of largest weighted likelihood at weighted points, axis by axis.

    Parameters
    ----------
    x, weights
        The points; weights that sum to 1.
    leads
        Which coordinates lead.

    References
    ----------
    Cappé, O., Douc, R., Guillin, A., Marin, J.-M. and Robert, C. P. (2008). Adaptive importance
    sampling in general mixture classes. Statistics and Computing 18. doi:10.1007/s11222-008-9059-x
    """
    order, leading = np.argsort(~leads, kind="stable"), int(leads.sum())
    x = x[:, order]
    loc = weights @ x
    away = x - loc
    cov = (away * weights[:, None]).T @ away
    root = np.linalg.cholesky(cov + 1e-10 * np.diag(np.diag(cov)))
    used = weights > NEGLIGIBLE * weights.max()
    e, w = np.linalg.solve(root, away[used].T).T, weights[used] / weights[used].sum()
    dim = len(loc)
    axes, shift, stretch = np.zeros((dim, 5)), np.zeros((dim, leading)), np.zeros((dim, leading))
    for i in range(dim):
        n = min(i, leading)
        before = np.clip(e[:, :n], *CLIP)
        p = _fit_axis(e[:, i], before, w, LEADING_DEGREES if i < leading else OTHER_DEGREES)
        axes[i], shift[i, :n], stretch[i, :n] = p[:5], p[5 : 5 + n], p[5 + n :]
    return Triangular(loc, root, order, leading, axes, shift, stretch)


def _fit_axis(
    e: Float[np.ndarray, " points"],
    before: Float[np.ndarray, "points leading"],
    w: Float[np.ndarray, " points"],
    degrees: tuple[float, float],
) -> Float[np.ndarray, " parameters"]:
    """Return the parameters of an axis, then its shifts and stretches."""
    n, low, high = before.shape[1], *np.log(degrees)

    def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
        return axis_loss(p, e, before, w)

    start = np.concatenate([[0.0, -0.1, -0.1, np.log(DEGREES), np.log(DEGREES)], np.zeros(2 * n)])
    bounds = [(-2, 2), (-3, 2), (-3, 2), (low, high), (low, high), *[(-0.5, 0.5)] * (2 * n)]
    options = {"ftol": FLAT, "maxiter": MAX_STEPS}
    end = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(end.x)


def axis_loss(
    p: Float[np.ndarray, " parameters"],
    e: Float[np.ndarray, " points"],
    before: Float[np.ndarray, "points leading"],
    w: Float[np.ndarray, " points"],
) -> tuple[float, Float[np.ndarray, " parameters"]]:
    """Return minus the weighted log-likelihood of an axis, lightly penalised, and its gradient."""
    n = before.shape[1]
    bend = before**2 - 1
    move, log_scale = bend @ p[5 : 5 + n], before @ p[5 + n :]
    t = (e - move) * np.exp(-log_scale)
    value, slopes, along = _log_axis_slopes(t, p[:5])
    gradient = np.concatenate(
        [
            slopes @ w,
            (w * along * -np.exp(-log_scale)) @ bend,
            (w * (-along * t - 1)) @ before,
        ]
    )
    penalty = p[5:] / len(w)
    gradient[5:] -= penalty
    return -float(w @ (value - log_scale) - 0.5 * penalty @ p[5:]), -gradient


def _sides(p: np.ndarray) -> tuple[float, float, float, float, float]:
    left, right, left_degrees, right_degrees = (float(v) for v in np.exp(p[1:]))
    return float(p[0]), left, right, left_degrees, right_degrees


def _half_mass(degrees: float) -> float:
    """Return half the normalising constant of a t of unit scale: one side's mass at scale 1."""
    return 0.5 * float(
        np.exp(0.5 * np.log(degrees * np.pi) + gammaln(degrees / 2) - gammaln((degrees + 1) / 2))
    )


def _log_axis(t: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the log density of a two-sided t."""
    mode, left, right, left_degrees, right_degrees = _sides(p)
    s = (t - mode) / np.where(t < mode, left, right)
    degrees = np.where(t < mode, left_degrees, right_degrees)
    mass = left * _half_mass(left_degrees) + right * _half_mass(right_degrees)
    return -0.5 * (degrees + 1) * np.log1p(s * s / degrees) - np.log(mass)


def _log_axis_slopes(t: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the log density, its slopes in the 5 parameters, and its slope in t."""
    mode, left, right, *both = _sides(p)
    is_left = t < mode
    scale = np.where(is_left, left, right)
    degrees = np.where(is_left, *both)
    s = (t - mode) / scale
    q = s * s / degrees
    masses = [left * _half_mass(both[0]), right * _half_mass(both[1])]
    total = sum(masses)
    value = -0.5 * (degrees + 1) * np.log1p(q) - np.log(total)
    by_s = -(degrees + 1) * s / (degrees * (1 + q))
    by_log_degrees = -0.5 * degrees * np.log1p(q) + 0.5 * (degrees + 1) * q / (1 + q)
    rows = [-by_s / scale]
    for side, mass in zip((is_left, ~is_left), masses, strict=True):
        rows.append(np.where(side, -by_s * s, 0.0) - mass / total)
    for side, mass, nu in zip((is_left, ~is_left), masses, both, strict=True):
        own = 0.5 + 0.5 * nu * (digamma(nu / 2) - digamma((nu + 1) / 2))
        rows.append(np.where(side, by_log_degrees, 0.0) - own * mass / total)
    return value, np.stack(rows), by_s / scale


def _quantile(u: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the quantiles of a two-sided t."""
    mode, left, right, left_degrees, right_degrees = _sides(p)
    mass = left * _half_mass(left_degrees)
    share = mass / (mass + right * _half_mass(right_degrees))
    is_left = u < share
    t = np.empty_like(u)
    t[is_left] = left * stdtrit(left_degrees, u[is_left] / share / 2)
    t[~is_left] = right * stdtrit(right_degrees, 0.5 + (u[~is_left] - share) / (1 - share) / 2)
    return mode + t


def scrambled_sobol(dim: int, size: int, seeds: Sequence[int]) -> Float[np.ndarray, "points dim"]:
    """Return independent scrambles of a Sobol sequence, one after the other, in the unit cube.

    Parameters
    ----------
    dim
        Coordinates of a point.
    size
        Points of each scramble, a power of 2.
    seeds
        One for every scramble.

    References
    ----------
    Owen, A. B. (1997). Scrambled net variance for integrals of smooth functions. Annals of
    Statistics 25(4). doi:10.1214/aos/1031594731
    """
    from scipy.stats import qmc  # which takes a third of a second to import

    scrambles = [qmc.Sobol(dim, scramble=True, rng=np.random.default_rng(s)) for s in seeds]
    return np.concatenate([s.random(size) for s in scrambles])


def sobol_normals(dim: int, size: int, seeds: Sequence[int]) -> Float[np.ndarray, "points dim"]:
    """Return :func:`scrambled_sobol` as standard normals."""
    cube = scrambled_sobol(dim, size, seeds)
    return np.asarray(ndtri(np.clip(cube, 1e-12, 1 - 1e-12)))
