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

    def slopes_at(f: list[jax.Array], x: jax.Array, outside: Outside) -> list[jax.Array]:
        return [slope(k, f, x, outside) for k in range(size)]

    def bends_at(f: list[jax.Array], x: jax.Array, outside: Outside) -> list[jax.Array]:
        return [bend(k, j, f, x, outside) for k, j in pairs]

    # whatever is asked for comes from one loop over the nodes
    zeroth = summed(lambda *at: [node(*at)], 1)
    first = summed(lambda *at: [node(*at), *slopes_at(*at)], 1 + size)
    second = summed(lambda *at: [node(*at), *slopes_at(*at), *bends_at(*at)], 1 + size + len(pairs))

    def moved(gradient: list[jax.Array], tangents: list[jax.Array]) -> jax.Array:
        lifted = [t if c is None else t[c] for t, c in zip(tangents, lift, strict=True)]
        return sum((g * t for g, t in zip(gradient, lifted, strict=True)), jnp.zeros(()))

    @jax.custom_jvp
    def first_order(flat: list[jax.Array], held: Any) -> list[jax.Array]:
        return first(flat, held)

    @first_order.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        here = second(*primals)
        values, bends = here[: 1 + size], dict(zip(pairs, here[1 + size :], strict=True))
        rows = [[bends[min(k, j), max(k, j)] for j in range(size)] for k in range(size)]
        return values, [moved(row, tangents[0]) for row in (values[1:], *rows)]

    @jax.custom_jvp
    def value(flat: list[jax.Array], held: Any) -> jax.Array:
        return zeroth(flat, held)[0]

    @value.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        here, *gradient = first_order(*primals)
        return here, moved(gradient, tangents[0])

    return jnp.asarray(value(flat, (outside, nodes)))
