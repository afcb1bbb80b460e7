"""Elementwise Gauss-Hermite sums with their first two derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def _integral(
    raw: Callable[..., jax.Array],
    params: list[tuple[jax.Array, jax.Array]],
    lifts: list[jax.Array | None],
    extra: Any,
    x: jax.Array,
    w: jax.Array,
    count: jax.Array,
    shape: tuple[int, ...],
) -> jax.Array:
    """Return the elementwise Gauss-Hermite sum of ``raw`` with its first two derivatives.

    An element depends on its own value of every parameter only, so its derivatives are few; they
    are summed over the nodes along with the value. Automatic differentiation then never holds the
    nodes of all elements, and a Hessian-vector product costs no more than a few multiplications.
    """
    flat = [value for pair in params for value in pair]
    lift = [index for index in lifts for _ in range(2)]
    size = len(flat)
    pairs = [(k, j) for k in range(size) for j in range(k, size)]

    def node(flat: list[jax.Array], x: jax.Array, extra: Any) -> jax.Array:
        return raw(list(zip(flat[::2], flat[1::2], strict=True)), x, extra)

    def along(k: int, function: Callable[..., jax.Array], flat: list[jax.Array]) -> jax.Array:
        def moved(value: jax.Array) -> jax.Array:
            return function([value if i == k else v for i, v in enumerate(flat)])

        return jax.jvp(moved, (flat[k],), (jnp.ones_like(flat[k]),))[1]

    def slope(k: int, flat: list[jax.Array], x: jax.Array, extra: Any) -> jax.Array:
        return along(k, lambda f: node(f, x, extra), flat)

    def bend(k: int, j: int, flat: list[jax.Array], x: jax.Array, extra: Any) -> jax.Array:
        return along(j, lambda f: slope(k, f, x, extra), flat)

    def summed(parts: Callable[..., list[jax.Array]], number: int) -> Callable[..., Any]:
        def total(flat: list[jax.Array], held: Any) -> list[jax.Array]:
            extra, x, w, count = held

            def body(i: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
                found = parts(flat, x[i], extra)
                return [a + w[i] * v for a, v in zip(sums, found, strict=True)]

            zeros = [jnp.zeros(shape) for _ in range(number)]
            return jax.lax.fori_loop(0, count, body, zeros)

        return total

    values = summed(lambda f, x, e: [node(f, x, e)], 1)
    slopes = summed(lambda f, x, e: [slope(k, f, x, e) for k in range(size)], size)
    bends = summed(lambda f, x, e: [bend(k, j, f, x, e) for k, j in pairs], len(pairs))

    def lifted(k: int, tangent: jax.Array) -> jax.Array:
        index = lift[k]
        return tangent if index is None else tangent[index]

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

    return jnp.asarray(value(flat, (extra, x, w, count)))
