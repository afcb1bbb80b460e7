"""log p(y, theta) where the latent variables are one member, normal given theta, of many scalars.

Its precision is assembled from a few products with the Hessian, laid out as a border and blocks,
and factorised once a point: crossed effects cost what their smaller families do, a random walk what
its length does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.algebra import (
    Bordered,
    Factor,
    Layout,
    factorise,
    half_log_det,
    inverse_diagonal,
    product,
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


class WideMember:
    """One member of many scalars, normal given theta; all that take arrays are pure.

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
