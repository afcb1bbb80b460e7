"""Weighed points in pairs on both sides of a mode, and what averages over them come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float

WIDER = 0.3
"""Over the root of d: share by which points are farther out than the normal at the mode."""

NUM_PICKED = 4
"""Draws of the member that are kept of each point of theta."""


class Lattice(NamedTuple):
    """Points of the unit cube, shifted at random."""

    points: Float[Array, "most d"]
    moved: Float[Array, ""]
    """1 where every theta has a shift of its own: what is left of the error is then noise that
    averages out over theta. 0 where all have the lattice as it is: the noise is then much the same
    for all, and hardly tilts log p(y, theta)."""
    taken: jax.Array
    """How many of the points are taken."""

    def normal(self, k: jax.Array, shift: jax.Array) -> jax.Array:
        """Return a point as normal numbers."""
        return ndtri(jnp.clip(jnp.mod(self.points[k] + shift, 1.0), 1e-12, 1 - 1e-12))


class Pair(NamedTuple):
    """Two points on both sides of a mode, weighed."""

    logs: Float[Array, " 2"]
    """Of their weights."""
    points: Float[Array, "2 d"]
    values: Float[Array, "2 scalars"]
    squares: Float[Array, "2 scalars"]
    """Means of the scalars and of their squares there."""
    plain: Float[Array, "2 scalars"]
    plain_squares: Float[Array, "2 scalars"]
    """The same at the two points that the normal at the mode has in their place."""


class Weighed(NamedTuple):
    """What weighed points come to; sums while they are being added."""

    log_p: jax.Array
    """Log of the mean weight; the largest logarithm of a weight so far."""
    mass: jax.Array
    mean: jax.Array
    """Of scalars."""
    square: jax.Array
    """Of their squares."""
    plain: jax.Array
    plain_square: jax.Array
    """The same by the normal at the mode, as the points have it."""
    picked: jax.Array
    """Points drawn by weight, shape (picked, d)."""
    best: jax.Array
    """How they were drawn: the largest of logarithms of weights and Gumbel noise."""


def shift_of(theta: Float[Array, " G"], lattice: Lattice) -> tuple[jax.Array, jax.Array]:
    """Return a random key of this theta, and the shift of the lattice there."""
    bits = jax.lax.bitcast_convert_type(theta, jnp.uint32).ravel()
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    key = jax.random.fold_in(jax.random.key(17), jnp.sum(bits * odd, dtype=jnp.uint32))
    return key, lattice.moved * jax.random.uniform(key, lattice.points.shape[1:])


def averaged_over(pair: Callable[[jax.Array], Pair], count: jax.Array, key: jax.Array) -> Weighed:
    """Return averages over so many pairs, and some points drawn by weight.

    The mean weight has no bias, so weighing theta by it gives the right posterior however large its
    noise (Tran et al. 2013).
    """
    shapes = jax.eval_shape(pair, jnp.zeros((), int))

    def add(k: jax.Array, sums: Weighed) -> Weighed:
        new = pair(k)
        logs = jnp.where(jnp.isnan(new.logs), -jnp.inf, new.logs)
        top = jnp.maximum(sums.log_p, logs.max())
        fade, weights = jnp.exp(sums.log_p - top), jnp.exp(logs - top)
        chances = jax.random.gumbel(jax.random.fold_in(key, k + 1), (NUM_PICKED, 2)) + logs
        side, best = chances.argmax(1), chances.max(1)
        return Weighed(
            top,
            fade * sums.mass + weights.sum(),
            fade * sums.mean + weights @ new.values,
            fade * sums.square + weights @ new.squares,
            sums.plain + new.plain.sum(0),
            sums.plain_square + new.plain_squares.sum(0),
            jnp.where((best > sums.best)[:, None], new.points[side], sums.picked),
            jnp.maximum(best, sums.best),
        )

    none = jnp.zeros(shapes.values.shape[1:])
    picked = jnp.zeros((NUM_PICKED, shapes.points.shape[1]))
    low = jnp.full(NUM_PICKED, -jnp.inf)
    start = Weighed(jnp.full((), -1e300), jnp.zeros(()), none, none, none, none, picked, low)
    end = jax.lax.fori_loop(0, count, add, start)
    log_p = end.log_p + jnp.log(end.mass / (2 * count))
    return end._replace(
        log_p=log_p,
        mean=end.mean / end.mass,
        square=end.square / end.mass,
        plain=end.plain / (2 * count),
        plain_square=end.plain_square / (2 * count),
    )


def corrected(
    found: Weighed, known: tuple[jax.Array, jax.Array], single: Bool[np.ndarray, " scalars"]
) -> Weighed:
    """Return averages with what the points miss of the normal at the mode added.

    Parameters
    ----------
    found
        What the points come to.
    known
        Means of scalars, and of their squares, by that normal.
    single
        Scalars for which these are right.
    """
    mean = found.mean + jnp.where(single, known[0] - found.plain, 0.0)
    square = found.square + jnp.where(single, known[1] - found.plain_square, 0.0)
    return found._replace(mean=mean, square=square)
