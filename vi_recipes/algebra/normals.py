"""Draws of an approximation with the density they were drawn from: what weights are made of."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import gammaln

from vi_recipes.core import generator

MAX_DENSE = 1_000
"""Coordinates up to which a covariance without usable structure is factorised."""


def log_normal(
    z: Float[np.ndarray, "draws dim"],
    loc: Float[np.ndarray, " dim"],
    root: Float[np.ndarray, "dim rank"] | None,
    diagonal: Float[np.ndarray, " dim"],
) -> Float[np.ndarray, " draws"] | None:
    """Return the log density of rows of ``z`` under a normal, shape (num_draws,).

    Its covariance is ``root @ root.T + diag(diagonal ** 2)``. ``None`` where it is singular, or
    too large to factorise.
    """
    if root is None or not root.any():
        if not (diagonal > 0).all():
            return None
        terms = -((z - loc) ** 2) / (2 * diagonal**2) - np.log(diagonal)
        return np.asarray(terms.sum(axis=1) - loc.size * np.log(2 * np.pi) / 2)
    if (diagonal > 0).all() and root.shape[1] < loc.size:
        return _log_low_rank((z - loc) / diagonal, root / diagonal[:, None], diagonal)
    if loc.size > MAX_DENSE:
        return None
    return log_dense_normal(z - loc, root @ root.T + np.diag(diagonal**2))


def _log_low_rank(
    away: Float[np.ndarray, "draws dim"],
    root: Float[np.ndarray, "dim rank"],
    diagonal: Float[np.ndarray, " dim"],
) -> Float[np.ndarray, " draws"]:
    """Return the log density where the covariance is ``root @ root.T`` and 1 in each coordinate.

    Coordinates are in units of ``diagonal``. Woodbury's identity: a matrix of the rank alone is
    factorised.
    """
    tril = np.linalg.cholesky(np.eye(root.shape[1]) + root.T @ root)
    # a' C^-1 a = |a - root x|^2 + |x|^2, which does not cancel where the root is long
    x = cho_solve((tril, True), root.T @ away.T)
    rest = away.T - root @ x
    square = np.einsum("ij,ij->j", rest, rest) + (x**2).sum(axis=0)
    log_det = 2 * (np.log(np.diag(tril)).sum() + np.log(diagonal).sum())
    return np.asarray(-(square + log_det + len(diagonal) * np.log(2 * np.pi)) / 2)


def log_dense_normal(
    away: Float[np.ndarray, "draws dim"], cov: Float[np.ndarray, "dim dim"]
) -> Float[np.ndarray, " draws"] | None:
    """Return the log density of rows under a centred normal; ``None`` if ``cov`` is singular."""
    try:
        tril = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        return None
    white = solve_triangular(tril, away.T, lower=True)
    log_q = -(white**2).sum(axis=0) / 2 - np.log(np.diag(tril)).sum()
    return np.asarray(log_q - len(cov) * np.log(2 * np.pi) / 2)


def block_normal(
    loc: Float[np.ndarray, " dim"],
    rows: Int[np.ndarray, " rows"],
    precision: Float[np.ndarray, "rows rows"],
    num_draws: int,
    key: jax.Array,
) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, " draws"]] | None:
    """Return draws of some coordinates of a normal given the others at their means.

    Parameters
    ----------
    loc
        Its means, shape (dim,).
    rows
        The coordinates.
    precision
        Their block of its precision matrix: the precision that they have given the others.
    num_draws, key
        How many, and their seed.

    Returns
    -------
    tuple or None
        Flat vectors, shape (num_draws, dim), and log densities, shape (num_draws,); ``None`` for a
        precision that is not positive definite.
    """
    try:
        tril = np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        return None
    noise = generator(key).standard_normal((num_draws, rows.size))
    z = np.tile(loc, (num_draws, 1))
    z[:, rows] += np.linalg.solve(tril.T, noise.T).T
    log_q = -(noise**2).sum(axis=1) / 2 + np.log(np.diag(tril)).sum()
    return z, log_q - rows.size * np.log(2 * np.pi) / 2


def dense_normal(
    loc: Float[np.ndarray, " dim"],
    cov: Float[np.ndarray, "dim dim"],
    num_draws: int,
    key: jax.Array,
) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, " draws"]] | None:
    """Return draws of a normal and their log densities; ``None`` for a singular covariance."""
    try:
        tril = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        return None
    noise = generator(key).standard_normal((num_draws, loc.size))
    log_q = -(noise**2).sum(axis=1) / 2 - np.log(np.diag(tril)).sum()
    return loc + noise @ tril.T, log_q - loc.size * np.log(2 * np.pi) / 2


def dense_student(
    degrees: float,
    loc: Float[np.ndarray, " dim"],
    root: Float[np.ndarray, "dim dim"],
    num_draws: int,
    key: jax.Array,
    *,
    half_normal: bool = False,
) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, " draws"]]:
    """Return draws of a multivariate t and their log densities, shape (num_draws,).

    Parameters
    ----------
    degrees, loc, root
        Its degrees of freedom, its mean and a lower triangular root of its scale matrix.
    num_draws, key
        How many, and their seed.
    half_normal
        Whether half of them are of a normal with that scale matrix for its covariance. Densities
        are those of the mixture, whose tails are the t's, and which is never below a half of the
        normal's.

    References
    ----------
    Hesterberg, T. (1995). Weighted average importance sampling and defensive mixture distributions.
    Technometrics 37(2). doi:10.1080/00401706.1995.10484303
    """
    rng, dim = generator(key), loc.size
    noise = rng.standard_normal((num_draws, dim))
    count = num_draws // 2 if half_normal else num_draws
    noise[:count] /= np.sqrt(rng.chisquare(degrees, count) / degrees)[:, None]
    square = (noise**2).sum(axis=1)
    constant = (
        gammaln((degrees + dim) / 2) - gammaln(degrees / 2) - dim * np.log(degrees * np.pi) / 2
    )
    log_q = constant - np.log1p(square / degrees) * (degrees + dim) / 2
    if half_normal:
        log_q = np.logaddexp(log_q, -square / 2 - dim * np.log(2 * np.pi) / 2) - np.log(2)
    return loc + noise @ root.T, log_q - np.log(np.diag(root)).sum()
