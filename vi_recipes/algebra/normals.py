"""Draws of an approximation with the density they were drawn from: what weights are made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from numpyro.distributions import LowRankMultivariateNormal, MultivariateNormal

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
    with jax.enable_x64(True):
        away = jnp.asarray(z - loc)
        zero = jnp.zeros(loc.size)
        if root is None or not root.any():
            if not (diagonal > 0).all():
                return None
            terms = -((z - loc) ** 2) / (2 * diagonal**2) - np.log(diagonal)
            return np.asarray(terms.sum(axis=1) - loc.size * np.log(2 * np.pi) / 2)
        if (diagonal > 0).all() and root.shape[1] < loc.size:
            law = LowRankMultivariateNormal(zero, jnp.asarray(root), jnp.asarray(diagonal**2))
            return np.asarray(law.log_prob(away))
        if loc.size > MAX_DENSE:
            return None
        cov = root @ root.T + np.diag(diagonal**2)
        return log_dense_normal(z - loc, cov)


def log_dense_normal(
    away: Float[np.ndarray, "draws dim"], cov: Float[np.ndarray, "dim dim"]
) -> Float[np.ndarray, " draws"] | None:
    """Return the log density of rows under a centred normal; ``None`` if ``cov`` is singular."""
    try:
        tril = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        return None
    with jax.enable_x64(True):
        law = MultivariateNormal(jnp.zeros(len(cov)), scale_tril=jnp.asarray(tril))
        return np.asarray(law.log_prob(jnp.asarray(away)))


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
