"""The integral over latent variables that are one member of many scalars, at a point of theta.

Its precision is assembled from a few products with the Hessian, laid out as a border and blocks,
and factorised once a point: crossed effects cost what their smaller families do, a random walk what
its length does. Where the member is not normal the same factor is at its mode, and points around
that are weighed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from vi_recipes.algebra import (
    Bordered,
    Factor,
    Layout,
    backward,
    factorise,
    half_log_det,
    inverse_diagonal,
    product,
    shifted,
    solve,
)
from vi_recipes.latent import HALF_LOG_2PI, Split
from vi_recipes.model import Arrays

WIDE = 8
"""Scalars of a single member from which zeros of its precision are made use of."""

PRODUCTS = 16
"""Products with the Hessian that are made side by side."""

NUM_STEPS = 2
"""Newton steps to the mode of a quadratic: the second loses no digits to distance."""

LOST = 1e-6
"""Share of a product with the Hessian that entries taken for zero may hold."""


NUM_SEARCHED = 60
"""Newton steps to the mode of what is no quadratic, accepted or not."""

MODE = 1e-10
"""Squared Newton decrement there at which it is found."""

WIDER = 0.3
"""Over the root of d: share by which points are farther out than the normal at the mode."""

NUM_PICKED = 4
"""Draws of the member that are kept of each point of theta."""


class _Search(NamedTuple):
    """A damped Newton search, and what is known where it is."""

    z: jax.Array
    damping: jax.Array
    missed: jax.Array
    """Squared Newton decrement."""
    lost: jax.Array
    terms: tuple[jax.Array, jax.Array]
    """The member's log density, and all other terms."""
    factor: Factor
    taken: jax.Array


class Weighed(NamedTuple):
    """What weighed points come to; sums while they are being added."""

    log_p: jax.Array
    """log p(y, theta); the largest logarithm of a weight so far."""
    mass: jax.Array
    mean: jax.Array
    """Of scalars."""
    square: jax.Array
    """Of their squares."""
    picked: jax.Array
    """Points drawn by weight, shape (picked, d)."""
    best: jax.Array
    """How they were drawn: the largest of logarithms of weights and Gumbel noise."""


class WideMember:
    """One member of many scalars; all that take arrays are pure.

    Parameters
    ----------
    split
        Parameters, and the one member.
    layout
        Of its precision.
    """

    def __init__(self, split: Split, layout: Layout) -> None:
        self.split, self.layout = split, layout
        self._probe = np.random.default_rng(11).standard_normal(layout.dim)

    @property
    def size(self) -> int:
        """Numbers that a point of theta holds, about."""
        return int(self.layout.directions.size)

    def joint(
        self, theta: jax.Array, z: jax.Array, arrays: Arrays
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the log density of the member; that and all other terms."""
        joint = self.split.log_joint(theta, z[None], arrays)
        value = joint.members.sum()
        return value, (value, joint.shared + joint.prior)

    def precision(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> tuple[Bordered, Any]:
        """Return minus the Hessian, and the share of a product with it that the pattern misses."""
        layout = self.layout
        slope = jax.grad(self.joint, 1, has_aux=True)
        _, push = jax.linearize(lambda z: slope(theta, z, arrays)[0], z)

        def bend(direction: jax.Array) -> jax.Array:
            bent: jax.Array = -push(direction)
            return bent

        probe = jnp.asarray(self._probe)
        directions = jnp.concatenate([jnp.asarray(layout.directions), probe[None]])
        bent = jax.lax.map(bend, directions, batch_size=min(PRODUCTS, len(directions)))
        matrix = layout.assemble(bent[:-1])
        known = layout.join(product(matrix, layout.split(probe)))
        lost = jnp.abs(bent[-1] - known).max() / jnp.maximum(jnp.abs(bent[-1]).max(), 1e-300)
        return matrix, lost

    def step(self, factor: Factor, gradient: jax.Array) -> jax.Array:
        """Return the Newton step."""
        return self.layout.join(solve(factor, self.layout.split(gradient)))

    def at(
        self, theta: jax.Array, z: jax.Array, arrays: Arrays
    ) -> tuple[jax.Array, jax.Array, jax.Array, Factor]:
        """Return log p(y, theta), what is missed, the mode, and the factor of the precision.

        The precision is the same everywhere, so one serves for all steps; seen from afar a
        quadratic is the difference of two large numbers, so steps come before values.
        """
        precision, lost = self.precision(theta, z, arrays)
        factor = factorise(precision)

        def step(k: jax.Array, at: Any) -> Any:
            z = at[0]
            gradient, terms = jax.grad(self.joint, 1, has_aux=True)(theta, z, arrays)
            move = self.step(factor, gradient)
            return z + jnp.where(k < NUM_STEPS, move, 0.0), terms, gradient @ move

        none = jnp.zeros(())
        start = z, (none, none), none
        z, (value, rest), short = jax.lax.fori_loop(0, NUM_STEPS + 1, step, start)
        rest = rest + self.split.log_jacobian(theta, z[None], arrays)
        log_p = value - half_log_det(factor) + self.layout.dim * HALF_LOG_2PI + rest
        return log_p, jnp.where(lost < LOST, short, jnp.inf), z, factor

    def at_mode(
        self, theta: jax.Array, z: jax.Array, arrays: Arrays
    ) -> tuple[jax.Array, jax.Array, jax.Array, Factor]:
        """Return the same of a member that is not normal, by Laplace's approximation.

        Newton's method, damped where a step goes down or the precision is not positive definite.
        """
        slope = jax.grad(self.joint, 1, has_aux=True)

        def step(at: _Search) -> _Search:
            precision, lost = self.precision(theta, at.z, arrays)
            factor = factorise(shifted(precision, at.damping))
            gradient, terms = slope(theta, at.z, arrays)
            move = self.step(factor, gradient)
            missed = jnp.where(at.damping > 0, jnp.inf, gradient @ move)
            moved = at.z + jnp.where(missed > MODE, move, 0.0)
            value = self.joint(theta, moved, arrays)[0]
            better = value >= terms[0] - 1e-13 * (1.0 + jnp.abs(terms[0]))
            size = jnp.abs(jnp.diagonal(precision.corner)).sum()
            size = (size + jnp.abs(jnp.diagonal(precision.blocks, axis1=1, axis2=2)).sum()) / len(z)
            damping = jnp.where(better, at.damping / 10, jnp.maximum(10 * at.damping, size / 30))
            damping = jnp.where(damping < 1e-3 * size, 0.0, damping)
            moved = jnp.where(better, moved, at.z)
            return _Search(moved, damping, missed, lost, terms, factor, at.taken + 1)

        def unfinished(at: _Search) -> jax.Array:
            return ~(at.missed <= MODE) & (at.taken < NUM_SEARCHED)

        none, far = jnp.zeros(()), jnp.full((), jnp.inf)
        shape = jax.eval_shape(lambda: factorise(self.precision(theta, z, arrays)[0]))
        factor = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shape)
        start = _Search(z, none, far, none, (none, none), factor, jnp.zeros((), int))
        end: _Search = jax.lax.while_loop(unfinished, step, start)
        rest = end.terms[1] + self.split.log_jacobian(theta, end.z[None], arrays)
        log_p = end.terms[0] - half_log_det(end.factor) + self.layout.dim * HALF_LOG_2PI + rest
        missed = jnp.where(end.lost < LOST, jnp.where(end.missed <= MODE, 0.0, jnp.inf), jnp.inf)
        return log_p, missed, end.z, end.factor

    def weighed(
        self,
        theta: jax.Array,
        found: tuple[jax.Array, jax.Array, Factor],
        scalars: Callable[[jax.Array], jax.Array],
        table: tuple[jax.Array, jax.Array],
        arrays: Arrays,
    ) -> Weighed:
        """Return the integral over z by importance sampling around its mode.

        Points come in pairs on both sides of the mode, from a lattice shifted at random: shifts of
        unlike theta are independent of one another, so that what is left of the error is noise that
        averages out over theta, and is in the errors over scrambles.

        Parameters
        ----------
        theta
            The parameters.
        found
            Laplace's log p(y, theta), the mode and the factor there.
        scalars
            Of z: what is averaged.
        table
            The lattice, shape (most, d), and how many of its points are taken.
        arrays
            The data.
        """
        points, count = table
        by_laplace, mode, factor = found
        d = self.layout.dim
        scale = 1 + WIDER / np.sqrt(d)
        bits = jax.lax.bitcast_convert_type(theta, jnp.uint32).ravel()
        odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
        key = jax.random.fold_in(jax.random.key(17), jnp.sum(bits * odd, dtype=jnp.uint32))
        shift = jax.random.uniform(key, (d,))
        at_mode = self.joint(theta, mode, arrays)[0]

        def add(k: jax.Array, sums: Weighed) -> Weighed:
            x = ndtri(jnp.clip(jnp.mod(points[k] + shift, 1.0), 1e-12, 1 - 1e-12))
            away = scale * self.layout.join(backward(factor, self.layout.split(x)))
            both = jnp.stack([mode + away, mode - away])
            logs = jax.vmap(lambda z: self.joint(theta, z, arrays)[0])(both) - at_mode
            logs = logs + x @ x / 2
            logs = jnp.where(jnp.isnan(logs), -jnp.inf, logs)
            top = jnp.maximum(sums.log_p, logs.max())
            fade, weights = jnp.exp(sums.log_p - top), jnp.exp(logs - top)
            values = jax.vmap(scalars)(both)
            chances = jax.random.gumbel(jax.random.fold_in(key, k + 1), (NUM_PICKED, 2)) + logs
            side = chances.argmax(1)
            best = chances.max(1)
            picked = jnp.where((best > sums.best)[:, None], both[side], sums.picked)
            return Weighed(
                top,
                fade * sums.mass + weights.sum(),
                fade * sums.mean + weights @ values,
                fade * sums.square + weights @ values**2,
                picked,
                jnp.maximum(best, sums.best),
            )

        shape = jax.eval_shape(scalars, mode).shape
        none = jnp.zeros(shape)
        low = jnp.full(NUM_PICKED, -jnp.inf)
        start = Weighed(
            jnp.full((), -1e300), jnp.zeros(()), none, none, jnp.zeros((NUM_PICKED, d)), low
        )
        end = jax.lax.fori_loop(0, count, add, start)
        ratio = end.log_p + jnp.log(end.mass / (2 * count)) + d * np.log(scale)
        mean, square = end.mean / end.mass, end.square / end.mass
        return end._replace(log_p=by_laplace + ratio, mean=mean, square=square)

    def variances(self, factor: Factor) -> jax.Array:
        """Return the variances of all scalars given theta."""
        return self.layout.join(inverse_diagonal(factor))


def averaged(
    scalars: Callable[[jax.Array], jax.Array],
    z: Float[Array, "rows d"],
    spread: Float[Array, "rows d"],
    table: tuple[jax.Array, jax.Array],
    num_nodes: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return means and mean squares of scalars that depend on one coordinate each; pure.

    Parameters
    ----------
    scalars
        Of z, shape (rows, scalars).
    z, spread
        Mean and sd of every coordinate.
    table, num_nodes
        Nodes and logarithms of their weights, and how many there are.
    """
    points, log_weights = table

    def add(k: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        value, w = scalars(z + spread * points[k]), jnp.exp(log_weights[k])
        return sums[0] + w * value, sums[1] + w * value**2

    none = jnp.zeros(jax.eval_shape(scalars, z).shape)
    sums: tuple[jax.Array, jax.Array] = jax.lax.fori_loop(0, num_nodes, add, (none, none))
    return sums
