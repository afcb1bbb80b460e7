"""Second derivatives of compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FORWARD = 5_000
"""Element evaluations up to which forward mode alone is quick: dim^2 densities of so many numbers.

It takes longer to run, and has half the code to compile.
"""


def forward_is_quick(dim: int, size: int) -> bool:
    """Whether a Hessian of ``dim`` rows may be had in forward mode alone.

    ``size`` is how many numbers one value of the function reads.
    """
    return dim**2 * size <= FORWARD


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


def parabola(found: SecondOrder, x: Float[Array, " dim"]) -> Float[Array, ""]:
    """Return the value of a function at ``x``, where it was expanded; pure.

    What differentiates this in ``x`` finds the function's own first two derivatives, and none of
    its code.

    Parameters
    ----------
    found
        The function at ``x``, by :func:`second_order_beside`: numbers, whatever ``x`` depends on.
    x
        The same point.
    """
    found = jax.lax.stop_gradient(found)
    moved = x - jax.lax.stop_gradient(x)
    return found.value + found.gradient @ moved + moved @ found.hessian @ moved / 2
