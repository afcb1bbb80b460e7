"""log p(y, theta) with its gradient, for code that differentiates it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi_recipes.methods.nested.density import FOUND, ThetaDensity
from vi_recipes.methods.nested.records import SearchStart
from vi_recipes.methods.nested.wide_density import WideDensity
from vi_recipes.model import Arrays


class MarginalInputs(NamedTuple):
    """What the density takes besides theta."""

    tables: tuple[jax.Array, ...]
    """Nodes, logarithms of their weights, and monomials."""
    num_nodes: jax.Array
    place: SearchStart
    data: Arrays
    """The target's."""


def marginal_inputs(density: ThetaDensity) -> MarginalInputs:
    """Return the density's nodes, place and data as they are now."""
    nodes = density.nodes
    tables, count, place = jax.tree.map(jnp.asarray, (nodes.tables, nodes.count, density.place))
    return MarginalInputs(tables, count, place, density.target.arrays())


def log_marginal(
    density: ThetaDensity, theta: Float[Array, " G"], inputs: MarginalInputs
) -> Float[Array, ""]:
    """Return log p(y, theta), of which the gradient can be taken once; pure.

    Nothing is differentiated through a search for modes: the gradient is the log joint's own,
    averaged over the members (Fisher's identity), or by central differences where one member is
    many scalars. Minus infinity, with a gradient of 0, where a member has no mode.
    """
    at = jax.lax.stop_gradient(theta)
    if not isinstance(density, WideDensity):
        value, gradient = _evaluated(density, at[None], inputs, gradient=True)
        value, gradient = value[0], gradient[0]
    else:
        values, _ = _evaluated(density, at + jnp.asarray(density.steps), inputs, gradient=False)
        value, gradient = values[0], density.slope(values)
    known = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    value = jnp.where(known, value, -jnp.inf)
    gradient = jnp.where(known, gradient, 0.0)
    return jax.lax.stop_gradient(value) + jax.lax.stop_gradient(gradient) @ (theta - at)


def _evaluated(
    density: ThetaDensity, rows: jax.Array, inputs: MarginalInputs, *, gradient: bool
) -> tuple[jax.Array, jax.Array]:
    """Return values and gradients at rows of theta; NaN where a member has no mode."""
    wanted = jnp.array(False), jnp.array(gradient)
    swept, missed, last = density.side_by_side(
        rows, inputs.tables, inputs.num_nodes, wanted, inputs.place, inputs.data
    )
    return jnp.where(missed < FOUND, swept.log_p, jnp.nan), last.gradient
