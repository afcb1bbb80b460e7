"""Nodes of the normal integral of every member, and the small linear algebra that places them."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)

SINGULAR = 1e-11
"""Share of a coordinate's precision that is left given those before it, down to which it is more
than rounding: its logarithm, and so a member's integral, is known to 2e-5."""


def hermite(
    num_nodes: int, d: int
) -> tuple[Float[np.ndarray, "nodes {d}"], Float[np.ndarray, " nodes"]]:
    """Return the nodes of Gauss-Hermite quadrature and log(weight / kernel).

    Parameters
    ----------
    num_nodes
        Nodes a dimension.
    d
        Dimensions of the standard normal; the grid is a tensor product.
    """
    x, w = np.polynomial.hermite_e.hermegauss(num_nodes)
    grid = np.array(list(product(x, repeat=d)))
    log_weights = np.array([sum(c) for c in product(np.log(w) + x**2 / 2, repeat=d)])
    return grid, log_weights


def cubature(d: int) -> tuple[Float[np.ndarray, "nodes {d}"], Float[np.ndarray, " nodes"]]:
    """Return the 2 d nodes and weights that average a quadratic over a standard normal exactly."""
    points = np.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)])
    return points, np.full(2 * d, 0.5 / d)


def cholesky(precision: Float[Array, "members d d"]) -> Float[Array, "members d d"]:
    """Return the lower factors; NaN where a matrix is not positive definite beyond rounding."""
    if precision.shape[-1] == 1:
        return jnp.sqrt(precision)
    root = jnp.linalg.cholesky(precision)
    left = jnp.diagonal(root, axis1=-2, axis2=-1) ** 2
    whole = jnp.diagonal(precision, axis1=-2, axis2=-1)
    known = (left > SINGULAR * whole).all(-1)[..., None, None]
    return jnp.where(known, root, jnp.nan)


def solve(
    root: Float[Array, "members d d"], vector: Float[Array, "members d"]
) -> Float[Array, "members d"]:
    """Return (L L')^-1 v by member, with L the lower factor ``root``."""
    if root.shape[-1] == 1:
        return vector / root[..., 0] ** 2
    half = jax.lax.linalg.triangular_solve(root, vector[..., None], left_side=True, lower=True)
    whole = jax.lax.linalg.triangular_solve(
        root, half, left_side=True, lower=True, transpose_a=True
    )
    return whole[..., 0]


def place(
    z: Float[Array, "members d"],
    root: Float[Array, "members d d"],
    points: Float[Array | np.ndarray, "nodes d"],
) -> Float[Array, "nodes members d"]:
    """Return z + L^-T x for every node x, with L the lower factor of the precision."""
    if root.shape[-1] == 1:
        return z + jnp.asarray(points)[:, None, :] / root[..., 0]
    columns = jnp.broadcast_to(jnp.asarray(points).T, (len(root), *points.T.shape))
    away = jax.lax.linalg.triangular_solve(
        root, columns, left_side=True, lower=True, transpose_a=True
    )
    return z + jnp.moveaxis(away, -1, 0)
