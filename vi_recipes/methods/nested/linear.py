"""Reported scalars that are linear in a member that is normal given theta: their exact moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from vi_recipes.core import COMPILED_QUICKLY
from vi_recipes.latent import Split
from vi_recipes.methods.nested.field import FieldMember
from vi_recipes.methods.nested.owners import OF_SEVERAL, SPREADS
from vi_recipes.methods.nested.wide import WideMember
from vi_recipes.model import Arrays

STRAIGHT = 1e-9
"""Relative change of a slope between places that counts as none."""

MOST_SLOPES = 4_000_000
"""Scalars of several coordinates times coordinates up to which their variances are exact."""


@dataclass(frozen=True)
class Linear:
    """Which reported scalars are linear in the one member given theta.

    Parameters
    ----------
    is_all
        Whether all are that depend on one coordinate of it, so that no nodes are needed.
    summed
        Numbers of those that depend on several.
    coordinate
        The one that each depends on, where it is one.
    """

    is_all: bool
    summed: Int[np.ndarray, " some"]
    coordinate: Int[np.ndarray, " scalars"]

    @classmethod
    def none(cls) -> Self:
        """Return that none is known to be."""
        return cls(False, np.zeros(0, int), np.zeros(0, int))

    @classmethod
    def of(cls, split: Split, owner: Int[np.ndarray, " scalars"]) -> Self:
        """Return which are, by each one's :func:`~vi_recipes.methods.nested.owners.owners`."""
        target, linear = split.target, straight(split)
        several = owner == OF_SEVERAL
        few = several.sum() * split.width <= MOST_SLOPES
        place = np.zeros(target.dim, int)
        place[split.local[0]] = np.arange(split.width)
        every = [target.coordinate_of[s.name].ravel() for s in target.quantities]
        coordinate = place[np.maximum(np.concatenate(every), 0)]
        summed = np.flatnonzero(several & linear & few)
        return cls(bool(linear[owner == 0].all()), summed, coordinate)

    def moments(
        self,
        scalars: Callable[[jax.Array, jax.Array], jax.Array],
        wide: WideMember | FieldMember,
        theta: Float[jax.Array, " G"],
        z: Float[jax.Array, " d"],
        factor: Any,
        variances: Float[jax.Array, " d"],
    ) -> tuple[Float[jax.Array, " scalars"], Float[jax.Array, " scalars"]]:
        """Return means and variances, right for scalars that are linear; pure.

        Parameters
        ----------
        scalars
            Of theta and the member.
        wide
            The member.
        theta, z
            The parameters, and the member's mode.
        factor, variances
            Of the member given theta.
        """
        mean, push = jax.linearize(lambda z: scalars(theta, z), z)
        slopes = push(jnp.ones_like(z))
        variance = slopes**2 * variances[self.coordinate]
        if self.summed.size:
            some = jax.vmap(lambda u: push(u)[self.summed])(jnp.eye(z.size))
            variance = variance.at[self.summed].set(wide.variances_of(factor, some.T))
        return mean, variance


def straight(split: Split) -> Bool[np.ndarray, " scalars"]:
    """Return which reported scalars are linear in the members given theta, in order of report.

    Their slopes along random directions are the same wherever members are.
    """
    target = split.target
    rng = np.random.default_rng(7)

    def probe(
        theta: jax.Array, places: jax.Array, direction: jax.Array, arrays: Arrays
    ) -> list[jax.Array]:
        def scalars(z: jax.Array) -> list[jax.Array]:
            values = target.constrain_sites_fn(split.sites(theta, z), arrays)
            return [values[s.name].ravel() for s in target.quantities]

        return jax.vmap(lambda z: jax.jvp(scalars, (z,), (direction,))[1])(places)

    compiled = jax.jit(probe, compiler_options=COMPILED_QUICKLY)
    start, arrays = target.anywhere(), target.arrays()
    units = target.units[split.local]
    found = np.ones(sum(s.size for s in target.quantities), bool)
    for spread in SPREADS[1:3]:
        theta = start[split.border] + spread * rng.standard_normal(split.border.size)
        away = np.array([0.1, 1.0, 10.0])[:, None, None] * rng.standard_normal((3, *units.shape))
        direction = units * rng.standard_normal(units.shape)
        given = theta, start[split.local] + units * away, direction
        slopes = []
        for value in compiled(*map(jnp.asarray, given), arrays):
            size = np.abs(value).max(initial=0.0)
            slopes.append(np.abs(np.asarray(value) - value[0]).max(0) <= STRAIGHT * size)
        found &= np.concatenate(slopes)
    return found
