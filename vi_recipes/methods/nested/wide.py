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
from jaxtyping import Array, Float

from vi_recipes.algebra import (
    Bordered,
    Factor,
    Layout,
    backward,
    factorise,
    forward,
    half_log_det,
    inverse_diagonal,
    product,
    shifted,
    solve,
)
from vi_recipes.latent import HALF_LOG_2PI, Columns, Split
from vi_recipes.methods.nested.lattice import (
    WIDER,
    Lattice,
    Pair,
    Weighed,
    averaged_over,
    shift_of,
)
from vi_recipes.model import Arrays

WIDE = 8
"""Scalars of a single member from which zeros of its precision are made use of."""

PRODUCTS = 16
"""Products with the Hessian that are made side by side; all, where it has no zeros: they are then
products of matrices."""

NUM_STEPS = 2
"""Newton steps to the mode of a quadratic: the second loses no digits to distance."""

LOST = 1e-6
"""Share of a product with the Hessian that entries taken for zero may hold."""


NUM_SEARCHED = 60
"""Newton steps to the mode of what is no quadratic, accepted or not."""

MODE = 1e-10
"""Squared Newton decrement there at which it is found."""

SURE = 1e-5
"""Squared Newton decrement, undamped, below which a step is taken whatever its value."""


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


class WideMember:
    """One member of many scalars; all that take arrays are pure.

    Parameters
    ----------
    split
        Parameters, and the one member.
    layout
        Of its precision.
    columns
        By which its entries are found, if it has some.
    """

    def __init__(self, split: Split, layout: Layout, columns: Columns | None = None) -> None:
        self.split, self.layout, self.columns = split, layout, columns
        self._assemble = None if columns is None else columns.assembler(layout)
        self._probe = np.random.default_rng(11).standard_normal(layout.dim)

    @property
    def size(self) -> int:
        """Numbers that a point of theta holds, about."""
        if self.columns is not None:
            return self.layout.entries
        return int(self.layout.directions.size)

    @property
    def entries(self) -> int:
        """Numbers that a factor has, about."""
        return self.layout.entries

    def joint(
        self, theta: Float[Array, " G"], z: Float[Array, " d"], arrays: Arrays
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the log density of the member; that and all other terms."""
        joint = self.split.log_joint(theta, z[None], arrays)
        value = joint.members.sum()
        return value, (value, joint.shared + joint.prior)

    def precision(
        self, theta: Float[Array, " G"], z: Float[Array, " d"], arrays: Arrays
    ) -> tuple[Bordered, Any]:
        """Return minus the Hessian, and the share of a product with it that the pattern misses."""
        layout = self.layout
        slope = jax.grad(self.joint, 1, has_aux=True)
        _, push = jax.linearize(lambda z: slope(theta, z, arrays)[0], z)

        def bend(direction: jax.Array) -> jax.Array:
            bent: jax.Array = -push(direction)
            return bent

        probe = jnp.asarray(self._probe)
        if self.columns is not None and self._assemble is not None:
            matrix = self._assemble(self.columns.bends(theta, z, arrays))
            return matrix, self._lost(matrix, bend(probe))
        directions = jnp.concatenate([jnp.asarray(layout.directions), probe[None]])
        together = PRODUCTS if layout.local.size else len(directions)
        bent = jax.lax.map(bend, directions, batch_size=min(together, len(directions)))
        matrix = layout.assemble(bent[:-1])
        return matrix, self._lost(matrix, bent[-1])

    def _lost(self, matrix: Bordered, bent: jax.Array) -> jax.Array:
        """Return the share of a product with the probe that the matrix misses."""
        known = self.layout.join(product(matrix, self.layout.split(jnp.asarray(self._probe))))
        return jnp.abs(bent - known).max() / jnp.maximum(jnp.abs(bent).max(), 1e-300)

    def step(self, factor: Factor, gradient: Float[Array, " d"]) -> Float[Array, " d"]:
        """Return the Newton step."""
        return self.layout.join(solve(factor, self.layout.split(gradient)))

    def at(
        self, theta: Float[Array, " G"], z: Float[Array, " d"], arrays: Arrays
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " d"], Factor]:
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
        self, theta: Float[Array, " G"], z: Float[Array, " d"], arrays: Arrays
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " d"], Factor]:
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
            # so near, a stiff prior's rounding may be more than there is to gain
            better = better | (jnp.isfinite(value) & (missed < SURE))
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
        theta: Float[Array, " G"],
        found: tuple[jax.Array, jax.Array, Factor],
        scalars: Callable[[jax.Array], jax.Array],
        lattice: Lattice,
        arrays: Arrays,
    ) -> Weighed:
        """Return the integral over z by importance sampling around its mode.

        Parameters
        ----------
        theta
            The parameters.
        found
            Laplace's log p(y, theta), the mode and the factor there.
        scalars
            Of z: what is averaged.
        lattice
            Of the points.
        arrays
            The data.
        """
        by_laplace, mode, factor = found
        d = self.layout.dim
        scale = 1 + WIDER / np.sqrt(d)
        at_mode = self.joint(theta, mode, arrays)[0]
        key, shift = shift_of(theta, lattice)

        def pair(k: jax.Array) -> Pair:
            x = lattice.normal(k, shift)
            away = self.layout.join(backward(factor, self.layout.split(x)))
            both = jnp.stack([mode + scale * away, mode - scale * away])
            logs = jax.vmap(lambda z: self.joint(theta, z, arrays)[0])(both) - at_mode
            values = jax.vmap(scalars)(both)
            plain = jax.vmap(scalars)(jnp.stack([mode + away, mode - away]))
            return Pair(logs + x @ x / 2, both, values, values**2, plain, plain**2)

        end = averaged_over(pair, lattice.taken, key)
        return end._replace(log_p=by_laplace + end.log_p + d * np.log(scale))

    def variances(self, factor: Factor) -> Float[Array, " d"]:
        """Return the variances of all scalars given theta."""
        return self.layout.join(inverse_diagonal(factor))

    def variances_of(self, factor: Factor, slopes: Float[Array, "sums d"]) -> Float[Array, " sums"]:
        """Return the variances of sums of the scalars, whose slopes are in rows."""

        def of(row: jax.Array) -> jax.Array:
            local, border = forward(factor, self.layout.split(row))
            return (local**2).sum() + (border**2).sum()

        made: jax.Array = jax.vmap(of)(slopes)
        return made

    def kept(self, factor: Factor) -> Factor:
        """Return what draws given many points of theta are made of."""
        return factor


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
