"""The integral over crossed effects: one family by quadrature given all others, those by points.

Given the effects of all other families those of the largest one are independent. What is left to
weigh is the marginal density of the others, which is near normal: its points are placed by its own
mean, and leave little noise where points of all effects together leave too much to be of use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtri

from vi_recipes.algebra import Arrow, Factor, Layout, Parts, backward
from vi_recipes.importance import scrambled_sobol
from vi_recipes.latent import HALF_LOG_2PI, Split
from vi_recipes.methods.nested.lattice import (
    WIDER,
    Lattice,
    Pair,
    Weighed,
    averaged_over,
    shift_of,
)
from vi_recipes.model import Arrays

NUM_STEPS = 2
"""Newton steps to the marginal mode of the border: the first leaves a thousandth of an sd."""

NUM_LEANING = 8
"""Pairs of points whose mean gradient is the step from there to the mean, where points are put:
what the border's density leans to one side is then of less noise in their weights."""

NUM_CANDIDATES = 16
"""Draws of each block of which one is taken, by weight."""


class InnerNodes(NamedTuple):
    """Gauss-Hermite nodes of the blocks, padded."""

    points: Float[Array, "most w"]
    log_weights: Float[Array, " most"]
    taken: jax.Array


class OverBorder:
    """Points of the border of one wide member, and its blocks by quadrature; all pure.

    Parameters
    ----------
    whole
        The member.
    layout
        Of its coordinates: its blocks are the members of ``inner``.
    inner
        The family that is integrated out by quadrature given all others.
    owner
        Block that each reported scalar belongs to given the border, negative for none.
    """

    def __init__(
        self,
        whole: Split,
        layout: Layout | Arrow,
        inner: Split,
        owner: Int[np.ndarray, " scalars"],
    ) -> None:
        self.whole, self.layout, self.inner, self.owner = whole, layout, inner, owner
        self.dim = layout.border.size
        cube = scrambled_sobol(self.dim, NUM_LEANING, [77])
        half = ndtri(cube)
        self._leaning = np.concatenate([half, -half])

    def _joint(
        self, theta: jax.Array, local: jax.Array, border: jax.Array, arrays: Arrays
    ) -> tuple[jax.Array, jax.Array]:
        """Return the blocks' log densities, and all other terms."""
        z = self.layout.join(Parts(local, border))
        of_inner = self.whole.flat(theta, z[None])[self.inner.border]
        joint = self.inner.log_joint(of_inner, local, arrays)
        rest = joint.shared + joint.prior + self.inner.log_jacobian(of_inner, local, arrays)
        return joint.members, rest

    def at_nodes(
        self, theta: jax.Array, at: Parts, factor: Factor, nodes: InnerNodes, arrays: Arrays
    ) -> tuple[jax.Array, jax.Array]:
        """Return log p(y, theta, border), and the logarithms of all nodes' terms."""

        def put(k: jax.Array, filled: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            local = _node(at.local, factor, nodes.points[k])
            members, rest = self._joint(theta, local, at.border, arrays)
            return filled[0].at[k].set(members + nodes.log_weights[k]), rest

        empty = jnp.full((len(nodes.points), len(at.local)), -jnp.inf)
        logs, rest = jax.lax.fori_loop(0, nodes.taken, put, (empty, jnp.zeros(())))
        logs = jnp.where(jnp.isnan(logs), -jnp.inf, logs)
        scale = jnp.log(jnp.diagonal(factor.inverse, axis1=-2, axis2=-1)).sum()
        return jax.nn.logsumexp(logs, axis=0).sum() + scale + rest, logs

    def _slope(
        self, theta: jax.Array, at: Parts, factor: Factor, nodes: InnerNodes, arrays: Arrays
    ) -> jax.Array:
        """Return the gradient of log p(y, theta, border), by Fisher's identity."""
        _, logs = self.at_nodes(theta, at, factor, nodes, arrays)
        known = nodes, jax.nn.softmax(logs, axis=0)
        return self.slope_by(theta, at, factor, known, arrays)

    def slope_by(
        self,
        theta: jax.Array,
        at: Parts,
        factor: Factor,
        known: tuple[InnerNodes, jax.Array],
        arrays: Arrays,
    ) -> jax.Array:
        """Return the gradient of log p(y, theta, border), by nodes and their weights."""
        nodes, weights = known

        def add(k: jax.Array, total: jax.Array) -> jax.Array:
            local = _node(at.local, factor, nodes.points[k])
            (_, rest), pull = jax.vjp(lambda b: self._joint(theta, local, b, arrays), at.border)
            slope: jax.Array = pull((weights[k], jnp.ones_like(rest) / nodes.taken))[0]
            return total + slope

        total: jax.Array = jax.lax.fori_loop(0, nodes.taken, add, jnp.zeros(self.dim))
        return total

    def weighed(
        self,
        theta: jax.Array,
        found: tuple[jax.Array, jax.Array, Factor],
        scalars: Callable[[jax.Array], jax.Array],
        tables: tuple[Lattice, InnerNodes],
        draw: jax.Array,
        arrays: Arrays,
    ) -> tuple[Weighed, jax.Array]:
        """Return the integral over the member, and the mode.

        See :meth:`~vi_recipes.methods.nested.wide.WideMember.weighed`. It is that of
        the border's marginal density, with the blocks where they then are.

        Parameters
        ----------
        theta, found, scalars, arrays
            As there.
        tables
            The lattice of the border, and nodes of the blocks.
        draw
            Whether the points picked are to have blocks drawn, and not their means.
        """
        (_, mode, factor), (lattice, nodes) = found, tables
        layout = self.layout
        centre, corner = layout.split(mode), factor.corner

        def place(x: jax.Array) -> Parts:
            """Return the border at x in its units, with the blocks where they then are."""
            moved = backward(factor, Parts(jnp.zeros_like(centre.local), x))
            return Parts(centre.local + moved.local, centre.border + moved.border)

        def climb(_: jax.Array, x: jax.Array) -> jax.Array:
            move: jax.Array = corner @ self._slope(theta, place(x), factor, nodes, arrays)
            return x + move

        def lean(k: jax.Array, total: jax.Array) -> jax.Array:
            return total + corner @ self._slope(theta, place(top + away[k]), factor, nodes, arrays)

        top: jax.Array = jax.lax.fori_loop(0, NUM_STEPS, climb, jnp.zeros(self.dim))
        away = jnp.asarray(self._leaning)
        total = jax.lax.fori_loop(0, len(away), lean, jnp.zeros(self.dim))
        top = top + total / len(away)
        at_top = layout.join(place(top))
        scale = 1 + WIDER / np.sqrt(self.dim)
        shape = self.dim * (HALF_LOG_2PI + np.log(scale)) + jnp.log(jnp.diagonal(corner)).sum()
        key, shift = shift_of(theta, lattice)
        real = jnp.arange(len(nodes.points)) < nodes.taken
        kernel = nodes.log_weights - (nodes.points**2).sum(1) / 2
        by_normal = jax.nn.softmax(jnp.where(real, kernel, -jnp.inf))
        by_normal = jnp.broadcast_to(by_normal[:, None], (len(nodes.points), len(centre.local)))

        def pair(k: jax.Array) -> Pair:
            x = lattice.normal(k, shift)

            def one(x: jax.Array) -> tuple[jax.Array, ...]:
                at = place(top + scale * x)
                value, logs = self.at_nodes(theta, at, factor, nodes, arrays)
                log = value + shape + x @ x / 2
                weights = jax.nn.softmax(logs, axis=0)
                plain = place(top + x)
                return (
                    log,
                    layout.join(at),
                    *self._moments(at, factor, weights, scalars, nodes),
                    *self._moments(plain, factor, by_normal, scalars, nodes),
                )

            return Pair(*jax.vmap(one)(jnp.stack([x, -x])))

        end = averaged_over(pair, lattice.taken, key)

        def blocks(_: None) -> jax.Array:
            keys = jax.random.split(jax.random.fold_in(key, 0), len(end.picked))
            return jax.vmap(lambda z, k: self._drawn(theta, z, factor, k, arrays))(end.picked, keys)

        drawn = jax.lax.cond(draw, blocks, lambda _: end.picked, None)
        return end._replace(picked=drawn), at_top

    def _moments(
        self,
        at: Parts,
        factor: Factor,
        weights: jax.Array,
        scalars: Callable[[jax.Array], jax.Array],
        nodes: InnerNodes,
    ) -> tuple[jax.Array, jax.Array]:
        """Return means of scalars and of their squares, given the border and weights of nodes."""
        owner = np.maximum(self.owner, 0)

        def add(k: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            local = _node(at.local, factor, nodes.points[k])
            value = scalars(self.layout.join(Parts(local, at.border)))
            w = jnp.where(self.owner >= 0, weights[k, owner], 1 / nodes.taken)
            return sums[0] + w * value, sums[1] + w * value**2

        none = jnp.zeros(self.owner.size)
        sums: tuple[jax.Array, jax.Array] = jax.lax.fori_loop(0, nodes.taken, add, (none, none))
        return sums

    def _drawn(
        self, theta: jax.Array, z: jax.Array, factor: Factor, key: jax.Array, arrays: Arrays
    ) -> jax.Array:
        """Return z with its blocks drawn given its border: one of some normal draws, by weight."""
        at = self.layout.split(z)
        low = jnp.full(len(at.local), -jnp.inf)

        def add(k: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            noise, chance = jax.random.split(jax.random.fold_in(key, k))
            x = jax.random.normal(noise, at.local.shape)
            local = at.local + jnp.einsum("tji,tj->ti", factor.inverse, x)
            members, _ = self._joint(theta, local, at.border, arrays)
            log = members + (x**2).sum(-1) / 2 + jax.random.gumbel(chance, low.shape)
            better = log > best[0]
            return jnp.where(better, log, best[0]), jnp.where(better[:, None], local, best[1])

        _, local = jax.lax.fori_loop(0, NUM_CANDIDATES, add, (low, at.local))
        return self.layout.join(Parts(local, at.border))


def _node(centre: jax.Array, factor: Factor, x: jax.Array) -> jax.Array:
    """Return a node of every block."""
    return centre + jnp.einsum("tji,j->ti", factor.inverse, x)
