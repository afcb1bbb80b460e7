"""Elementwise Gauss-Hermite sums with their first two derivatives."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement, pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi_recipes.elbo.held import HeldNodes
from vi_recipes.model import Arrays


class RandomSource(NamedTuple):
    """One source of randomness of a site's elements.

    Parameters
    ----------
    first, second
        The two parameters of its law: mean and variance of every element, in the site's shape, or
        those of all coordinates of a latent site, shape (size,), which has an sd in its place.
    coordinate
        Which of those is every element's; ``None`` where the parameters are its own.
    moved
        Whether elements see ``first + sd * node`` alone, and no parameter by itself.
    """

    first: jax.Array
    second: jax.Array
    coordinate: jax.Array | None
    moved: bool

    @property
    def squared(self) -> bool:
        """Whether ``second`` is a variance."""
        return self.coordinate is None

    def rooted(self) -> RandomSource:
        """Return the source with an sd in place of a variance."""
        return self._replace(second=_root(self.second)) if self.squared else self

    def seen(self, x: jax.Array) -> list[jax.Array]:
        """Return what elements see of it, once it is rooted: one value, or both parameters."""
        return [self.first + self.second * x] if self.moved else [self.first, self.second]


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


Density = Callable[[list[jax.Array]], jax.Array]
"""What is seen of all sources at a node -> log density of every element there."""

AtNode = Callable[[list[list[jax.Array]], jax.Array, Outside], jax.Array]
"""(what is seen of each source, node, what is outside) -> log density of every element there."""


class _Look(NamedTuple):
    """What is seen at a node.

    Parameters
    ----------
    density
        As a function of what is seen.
    seen
        Of all sources.
    of
        For every parameter, the place of what it moves in ``seen``, and how fast it does.
    """

    density: Density
    seen: list[jax.Array]
    of: list[tuple[int, jax.Array | float]]


def integrate(
    at_node: AtNode,
    sources: list[RandomSource],
    outside: Outside,
    nodes: HeldNodes,
    shape: tuple[int, ...],
) -> Float[Array, "*shape"]:
    """Return the elementwise Gauss-Hermite sum of ``at_node`` with its first two derivatives.

    An element depends on its own value of every parameter only, so its derivatives are few; they
    are summed over the nodes along with the value. Automatic differentiation then never holds the
    nodes of all elements, and a Hessian-vector product costs no more than a few multiplications.
    The model is differentiated in what is seen of a source: of a value m + s x, the slopes in m and
    s are once and x times the slope in it. Of a variance s^2 they are then those in it: where it is
    a sum of squares, its own derivatives are not needed for every element.
    """
    flat = [value for source in sources for value in (source.first, source.second)]
    lift = [source.coordinate for source in sources for _ in range(2)]
    squared = [part for source in sources for part in (False, source.squared)]
    size = len(flat)
    pairs = list(combinations_with_replacement(range(size), 2))

    def look(flat: list[jax.Array], x: jax.Array, outside: Outside) -> _Look:
        seen: list[jax.Array] = []
        of: list[tuple[int, jax.Array | float]] = []
        bounds = [0]
        for k, source in enumerate(sources):
            start = bounds[-1]
            seen += source._replace(first=flat[2 * k], second=flat[2 * k + 1]).seen(x[k])
            of += [(start, 1.0), (start, x[k]) if source.moved else (start + 1, 1.0)]
            bounds.append(len(seen))

        def density(seen: list[jax.Array]) -> jax.Array:
            return at_node([seen[a:b] for a, b in pairwise(bounds)], x, outside)

        return _Look(density, seen, of)

    def zeroth(*at: Any) -> list[jax.Array]:
        here = look(*at)
        return [here.density(here.seen)]

    def first(*at: Any) -> list[jax.Array]:
        here = look(*at)
        found = [_along(a, here.density)(here.seen) for a in range(len(here.seen))]
        return [found[0][0], *(by * found[a][1] for a, by in here.of)]

    def second(*at: Any) -> list[jax.Array]:
        here = look(*at)
        found = {
            (a, b): _along(b, _along(a, here.density))(here.seen)
            for a, b in combinations_with_replacement(range(len(here.seen)), 2)
        }
        (value, _), _ = found[0, 0]
        slopes = [by * found[a, a][0][1] for a, by in here.of]
        bends = [
            by * also * found[a, b][1][1]
            for (a, by), (b, also) in combinations_with_replacement(here.of, 2)
        ]
        return [value, *slopes, *bends]

    def summed(parts: Callable[..., list[jax.Array]], number: int) -> Callable[..., Any]:
        def total(flat: list[jax.Array], held: tuple[Outside, HeldNodes]) -> list[jax.Array]:
            outside, nodes = held
            sds = [_root(v) if root else v for v, root in zip(flat, squared, strict=True)]

            def body(i: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
                here = parts(sds, nodes.x[i], outside)
                return [a + nodes.w[i] * v for a, v in zip(sums, here, strict=True)]

            zeros = [jnp.zeros(shape) for _ in range(number)]
            return by_parameters(flat, jax.lax.fori_loop(0, nodes.used, body, zeros))

        return total

    def by_parameters(flat: list[jax.Array], sums: list[jax.Array]) -> list[jax.Array]:
        # value, slopes and bends, of which those in an sd become those in its square
        rates = [_rate(v) if root else 1.0 for v, root in zip(flat, squared, strict=True)]
        slopes, bends = sums[1 : 1 + size], sums[1 + size :]
        own = [
            -2 * rates[a] ** 3 * slopes[a] if a == b and squared[a] else 0.0
            for a, b in pairs[: len(bends)]
        ]
        return [
            sums[0],
            *(g * by for g, by in zip(slopes, rates, strict=False)),
            *(
                rates[a] * rates[b] * bend + more
                for (a, b), bend, more in zip(pairs, bends, own, strict=False)
            ),
        ]

    # whatever is asked for comes from one loop over the nodes
    sum_of_zeroth, sum_of_first = summed(zeroth, 1), summed(first, 1 + size)
    sum_of_second = summed(second, 1 + size + len(pairs))

    def moved(gradient: list[jax.Array], tangents: list[jax.Array]) -> jax.Array:
        lifted = [t if c is None else t[c] for t, c in zip(tangents, lift, strict=True)]
        return sum((g * t for g, t in zip(gradient, lifted, strict=True)), jnp.zeros(()))

    @jax.custom_jvp
    def first_order(flat: list[jax.Array], held: Any) -> list[jax.Array]:
        return sum_of_first(flat, held)

    @first_order.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        here = sum_of_second(*primals)
        values, bends = here[: 1 + size], dict(zip(pairs, here[1 + size :], strict=True))
        rows = [[bends[min(k, j), max(k, j)] for j in range(size)] for k in range(size)]
        return values, [moved(row, tangents[0]) for row in (values[1:], *rows)]

    @jax.custom_jvp
    def value(flat: list[jax.Array], held: Any) -> jax.Array:
        return sum_of_zeroth(flat, held)[0]

    @value.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        here, *gradient = first_order(*primals)
        return here, moved(gradient, tangents[0])

    return jnp.asarray(value(flat, (outside, nodes)))


def _root(variance: jax.Array) -> jax.Array:
    """Return the sd, without a slope where it is zero."""
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def _rate(variance: jax.Array) -> jax.Array:
    """Return how fast the sd moves with the variance; zero where both are."""
    positive = variance > 0
    return jnp.where(positive, 0.5 / jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def _along(k: int, function: Callable[[list[jax.Array]], Any]) -> Callable[[list[jax.Array]], Any]:
    """Return a function that has what ``function`` returns, and how fast it moves with input k."""

    def both(values: list[jax.Array]) -> Any:
        def at(value: jax.Array) -> Any:
            return function([*values[:k], value, *values[k + 1 :]])

        return jax.jvp(at, (values[k],), (jnp.ones_like(values[k]),))

    return both
