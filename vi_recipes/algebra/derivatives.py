"""Second derivatives of compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class SecondOrder(NamedTuple):
    """A scalar function to second order, and what it computes beside to first."""

    value: Float[Array, ""]
    gradient: Float[Array, " dim"]
    hessian: Float[Array, "dim dim"]
    beside: Any
    slopes: Any
    """Of ``beside``, along a first axis of size dim."""


def second_order(
    function: Callable[[jax.Array], jax.Array], x: Float[Array, " dim"], forward: bool
) -> tuple[Float[Array, ""], Float[Array, " dim"], Float[Array, "dim dim"]]:
    """Return value, gradient and Hessian of a scalar function; pure.

    Forward mode alone costs dim^2 evaluations, and a third of the time to compile.
    """
    if forward:
        return second_order_beside(lambda x: (function(x), None), x)[:3]
    units = jnp.eye(x.size)
    (value, gradient), push = jax.linearize(jax.value_and_grad(function), x)
    return value, gradient, jax.lax.map(lambda u: push(u)[1], units)


def second_order_beside(
    function: Callable[[jax.Array], tuple[jax.Array, Any]], x: Float[Array, " dim"]
) -> SecondOrder:
    """Return value, gradient and Hessian of a scalar function, and its other results; pure.

    ``function`` returns the scalar and any tree of arrays. Forward mode alone.
    """
    units = jnp.eye(x.size)

    def slope(x: jax.Array) -> Any:
        here, moved = jax.vmap(lambda u: jax.jvp(function, (x,), (u,)))(units)
        return jax.tree.map(lambda values: values[0], here), moved

    here, moved = jax.vmap(lambda u: jax.jvp(slope, (x,), (u,)))(units)
    (value, beside), (gradient, slopes) = jax.tree.map(lambda values: values[0], here)
    return SecondOrder(value, gradient, moved[1][0], beside, slopes)
