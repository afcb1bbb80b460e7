"""Elementwise Gauss-Hermite sums with their first two derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi_recipes.elbo.held import Nodes
from vi_recipes.model import Arrays


class Source(NamedTuple):
    """One source of randomness of a site's elements.

    Parameters
    ----------
    first, second
        The two parameters of its law: mean and sd of every element, in the site's shape, or those
        of all coordinates of a latent site, shape (size,).
    coordinate
        Which of those is every element's; ``None`` where the parameters are its own.
    """

    first: jax.Array
    second: jax.Array
    coordinate: jax.Array | None


class Outside(NamedTuple):
    """What a site's density takes besides its sources.

    Parameters
    ----------
    leaves
        Inputs that depend on no latent site, by their place.
    start
        Where the other latents stand, shape (dim,).
    arrays
        The model's data.
    """

    leaves: dict[int, jax.Array]
    start: jax.Array
    arrays: Arrays


AtNode = Callable[[list[tuple[jax.Array, jax.Array]], jax.Array, Outside], jax.Array]
"""(parameters of the sources, node, what is outside) -> log density of every element there."""


def integrate(
    at_node: AtNode,
    sources: list[Source],
    outside: Outside,
    nodes: Nodes,
    shape: tuple[int, ...],
) -> Float[Array, "*shape"]:
    """Return the elementwise Gauss-Hermite sum of ``at_node`` with its first two derivatives.

    An element depends on its own value of every parameter only, so its derivatives are few; they
    are summed over the nodes along with the value. Automatic differentiation then never holds the
    nodes of all elements, and a Hessian-vector product costs no more than a few multiplications.
    """
    flat = [value for source in sources for value in (source.first, source.second)]
    lift = [source.coordinate for source in sources for _ in range(2)]
    size = len(flat)
    pairs = [(k, j) for k in range(size) for j in range(k, size)]

    def node(flat: list[jax.Array], x: jax.Array, outside: Outside) -> jax.Array:
        return at_node(list(zip(flat[::2], flat[1::2], strict=True)), x, outside)

    def along(k: int, function: Callable[..., jax.Array], flat: list[jax.Array]) -> jax.Array:
        def moved(value: jax.Array) -> jax.Array:
            return function([value if i == k else v for i, v in enumerate(flat)])

        return jax.jvp(moved, (flat[k],), (jnp.ones_like(flat[k]),))[1]

    def slope(k: int, flat: list[jax.Array], x: jax.Array, outside: Outside) -> jax.Array:
        return along(k, lambda f: node(f, x, outside), flat)

    def bend(k: int, j: int, flat: list[jax.Array], x: jax.Array, outside: Outside) -> jax.Array:
        return along(j, lambda f: slope(k, f, x, outside), flat)

    def summed(parts: Callable[..., list[jax.Array]], number: int) -> Callable[..., Any]:
        def total(flat: list[jax.Array], held: tuple[Outside, Nodes]) -> list[jax.Array]:
            outside, nodes = held

            def body(i: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
                here = parts(flat, nodes.x[i], outside)
                return [a + nodes.w[i] * v for a, v in zip(sums, here, strict=True)]

            zeros = [jnp.zeros(shape) for _ in range(number)]
            return jax.lax.fori_loop(0, nodes.used, body, zeros)

        return total

    values = summed(lambda f, x, e: [node(f, x, e)], 1)
    slopes = summed(lambda f, x, e: [slope(k, f, x, e) for k in range(size)], size)
    bends = summed(lambda f, x, e: [bend(k, j, f, x, e) for k, j in pairs], len(pairs))

    def lifted(k: int, tangent: jax.Array) -> jax.Array:
        coordinate = lift[k]
        return tangent if coordinate is None else tangent[coordinate]

    @jax.custom_jvp
    def gradient(flat: list[jax.Array], held: Any) -> list[jax.Array]:
        return list(slopes(flat, held))

    @gradient.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        flat, held = primals
        moved = [lifted(k, t) for k, t in enumerate(tangents[0])]
        second = dict(zip(pairs, bends(flat, held), strict=True))
        out = [
            sum(second[min(k, j), max(k, j)] * moved[j] for j in range(size)) for k in range(size)
        ]
        return gradient(flat, held), out

    @jax.custom_jvp
    def value(flat: list[jax.Array], held: Any) -> jax.Array:
        return values(flat, held)[0]

    @value.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        flat, held = primals
        first = gradient(flat, held)
        out = sum(g * lifted(k, t) for k, (g, t) in enumerate(zip(first, tangents[0], strict=True)))
        return value(flat, held), out

    return jnp.asarray(value(flat, (outside, nodes)))
