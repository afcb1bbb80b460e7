"""Symmetric matrices of a border and blocks that touch at most their neighbours, and their factors.

Crossed effects are blocks of one family bordered by the others; random walks are blocks in a chain;
what has no structure is all border. All is pure, to be compiled and differentiated.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Bordered(NamedTuple):
    """A symmetric matrix, the local blocks before the border.

    Parameters
    ----------
    blocks
        On the diagonal.
    below
        Block t + 1 with block t; none where blocks are not coupled.
    edge
        Blocks with the border.
    corner
        The border with itself.
    """

    blocks: Float[Array, "blocks w w"]
    below: Float[Array, "couplings w w"]
    edge: Float[Array, "blocks w border"]
    corner: Float[Array, "border border"]


class Factor(NamedTuple):
    """The lower factor L of a matrix of :class:`Bordered`'s shape; NaN where there is none.

    Parameters
    ----------
    inverse
        The inverses of L's diagonal blocks.
    below
        L's blocks under them, the first of zeros; none where blocks are not coupled.
    carried
        The transpose of L's border rows.
    corner
        The inverse of L's corner.
    """

    inverse: Float[Array, "blocks w w"]
    below: Float[Array, "couplings w w"]
    carried: Float[Array, "blocks w border"]
    corner: Float[Array, "border border"]


class Parts(NamedTuple):
    """A vector, as the matrix has its rows."""

    local: Float[Array, "blocks w"]
    border: Float[Array, " border"]


def factorise(matrix: Bordered) -> Factor:
    """Return the lower factor by one pass along the blocks and a Schur complement."""
    blocks, below, edge, corner = matrix
    if not below.shape[0]:
        inverse = _inverse_root(blocks)
        carried = inverse * edge if inverse.shape[-1] == 1 else inverse @ edge
        chain = below
    else:
        chain = jnp.concatenate([jnp.zeros_like(below[:1]), below])

        def step(last: tuple[jax.Array, jax.Array], at: tuple[jax.Array, ...]) -> tuple:  # type: ignore[type-arg]
            block, under, sides = at
            left = under @ last[0].T
            inverse = _inverse_root(block - left @ left.T)
            carried = inverse @ (sides - left @ last[1])
            return (inverse, carried), (inverse, left, carried)

        start = jnp.zeros_like(blocks[0]), jnp.zeros_like(edge[0])
        _, (inverse, chain, carried) = jax.lax.scan(step, start, (blocks, chain, edge))
    rows = carried.reshape(
        carried.shape[0] * carried.shape[1], carried.shape[2]
    )  # one product of matrices, which is quick
    rest = corner - rows.T @ rows
    return Factor(inverse, chain, carried, _inverse_root(rest))


def half_log_det(factor: Factor) -> Float[Array, ""]:
    """Return half the logarithm of the matrix's determinant."""
    local = jnp.log(jnp.diagonal(factor.inverse, axis1=-2, axis2=-1)).sum()
    return -local - jnp.log(jnp.diagonal(factor.corner)).sum()


def product(matrix: Bordered, vector: Parts) -> Parts:
    """Return the matrix times a vector."""
    blocks, below, edge, corner = matrix
    local = jnp.einsum("tij,tj->ti", blocks, vector.local) + edge @ vector.border
    if below.shape[0]:
        local = local.at[1:].add(jnp.einsum("tij,tj->ti", below, vector.local[:-1]))
        local = local.at[:-1].add(jnp.einsum("tji,tj->ti", below, vector.local[1:]))
    return Parts(local, jnp.einsum("tig,ti->g", edge, vector.local) + corner @ vector.border)


def forward(factor: Factor, vector: Parts) -> Parts:
    """Return L^-1 times a vector."""
    inverse, below, carried, corner = factor
    if not below.shape[0]:
        local = jnp.einsum("tij,tj->ti", inverse, vector.local)
    else:

        def step(last: jax.Array, at: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            new = at[0] @ (at[2] - at[1] @ last)
            return new, new

        start = jnp.zeros_like(vector.local[0])
        _, local = jax.lax.scan(step, start, (inverse, below, vector.local))
    return Parts(local, corner @ (vector.border - jnp.einsum("tig,ti->g", carried, local)))


def backward(factor: Factor, vector: Parts) -> Parts:
    """Return L'^-1 times a vector: of a standard normal, a draw with the inverse as covariance."""
    inverse, below, carried, corner = factor
    border = corner.T @ vector.border
    local = vector.local - carried @ border
    if not below.shape[0]:
        return Parts(jnp.einsum("tji,tj->ti", inverse, local), border)

    def step(after: jax.Array, at: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        new = at[0].T @ (at[2] - after)
        return at[1].T @ new, new

    start = jnp.zeros_like(local[0])
    _, local = jax.lax.scan(step, start, (inverse, below, local), reverse=True)
    return Parts(local, border)


def solve(factor: Factor, vector: Parts) -> Parts:
    """Return the matrix's inverse times a vector."""
    return backward(factor, forward(factor, vector))


def inverse_diagonal(factor: Factor) -> Parts:
    """Return the diagonal of the matrix's inverse, without the rest of it."""
    inverse, below, carried, corner = factor
    if not below.shape[0]:
        own = (inverse**2).sum(-2)
        through = jnp.einsum("tji,tjg->tig", inverse, carried)
    else:

        def step(
            after: tuple[jax.Array, jax.Array], at: tuple[jax.Array, ...]
        ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
            turned, left, sides = at
            cov = turned.T @ (turned + after[0] @ turned)
            through = turned.T @ (sides - after[1])
            return (left.T @ cov @ left, left.T @ through), (jnp.diagonal(cov), through)

        start = jnp.zeros_like(inverse[0]), jnp.zeros_like(carried[0])
        _, (own, through) = jax.lax.scan(step, start, (inverse, below, carried), reverse=True)
    rows = through.reshape(own.size, through.shape[2])
    own = own + ((rows @ corner.T) ** 2).sum(-1).reshape(own.shape)
    return Parts(own, (corner**2).sum(0))


def shifted(matrix: Bordered, by: Float[Array, ""]) -> Bordered:
    """Return the matrix with a number added to its diagonal."""
    blocks, _, _, corner = matrix
    local = blocks + by * jnp.eye(blocks.shape[-1])
    return matrix._replace(blocks=local, corner=corner + by * jnp.eye(corner.shape[-1]))


def backward_many(
    factor: Factor, rows: Int[np.ndarray, " draws"], noise: Float[np.ndarray, "draws dim"]
) -> Float[np.ndarray, "draws dim"]:
    """Return draws with inverses of several matrices as covariances, outside compiled code.

    Parameters
    ----------
    factor
        Those of all the matrices, along a leading axis.
    rows
        Which of them each draw is of, shape (draws,).
    noise
        Standard normal, the local blocks before the border.
    """
    inverse, below, carried, corner = factor
    blocks, w = inverse.shape[1:3]
    size = blocks * w
    border = np.empty((len(rows), corner.shape[-1]))
    local = np.array(noise[:, :size]).reshape(len(rows), blocks, w)
    for row in np.unique(rows):
        own = rows == row
        border[own] = noise[own, size:] @ corner[row]
        local[own] -= np.einsum("tig,ng->nti", carried[row], border[own])
    after = np.zeros((len(rows), w))
    for t in range(blocks)[::-1]:
        local[:, t] = np.einsum("nji,nj->ni", inverse[rows, t], local[:, t] - after)
        if below.shape[1]:
            after = np.einsum("nji,nj->ni", below[rows, t], local[:, t])
    return np.concatenate([local.reshape(len(rows), size), border], axis=1)


def _inverse_root(matrix: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
    """Return the inverse of the lower Cholesky factor."""
    if matrix.shape[-1] == 1:
        return 1 / jnp.sqrt(matrix)
    if not matrix.shape[-1]:
        return matrix
    root = jnp.linalg.cholesky(matrix)
    unit = jnp.broadcast_to(jnp.eye(matrix.shape[-1]), matrix.shape)
    return jax.lax.linalg.triangular_solve(root, unit, left_side=True, lower=True)
