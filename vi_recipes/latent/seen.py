"""What is seen of the members' log joints at some places, given theta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vi_recipes.latent.member_modes import MemberTerms, member_terms
from vi_recipes.latent.split import Split
from vi_recipes.model import Arrays

MAX_WEIGHED = 300
"""Latent scalars of a single member that is not normal up to which points of all of them weigh."""

QUADRATIC = 1e-12
"""Change of a curvature between two places, beside its largest entry, that counts as none: a prior
may be many orders stiffer than what changes."""

LOT = 512
"""Products with the Hessian of a single member that are made at a time."""

ALIKE = 1e-5
"""Change of a slope that its curvature does not make, beside what that makes, that counts as none:
data that are so much weaker than a prior may have kinks."""

ROUNDING = 1e-12
"""The same beside the slopes themselves, which may be of terms that nearly cancel."""


def key_of(split: Split) -> tuple[Any, ...]:
    """Return what tells members of a target apart from others."""
    return (split.latents, split.local.shape, split.local.tobytes())


class Seen(NamedTuple):
    """What is seen of the members' log joints at some places, given theta.

    Parameters
    ----------
    precisions
        Minus their Hessians, at all of the places or at the first alone.
    change
        How much these change from place to place, beside the largest entry.
    astray
        How much slopes change that they do not account for, beside what counts as none.
    values, slopes
        The log joints and their gradients, where there are several members.
    """

    precisions: Float[np.ndarray, "places members d d"]
    change: float
    astray: float
    values: Float[np.ndarray, "places members"] | None = None
    slopes: Float[np.ndarray, "places members d"] | None = None

    @property
    def finite(self) -> bool:
        """Whether all of it is finite."""
        return bool(
            np.isfinite(self.precisions).all() and np.isfinite([self.change, self.astray]).all()
        )

    @property
    def bent(self) -> bool:
        """Whether the log joints are no quadratics."""
        return self.change > QUADRATIC or self.astray > 1.0

    @property
    def in_pieces(self) -> bool:
        """Whether every entry is the same in two of the places, as where kinks part quadratics."""
        if len(self.precisions) == 1:
            return self.change <= QUADRATIC
        same = QUADRATIC * np.abs(self.precisions).max()
        nearest = np.diff(np.sort(self.precisions, axis=0), axis=0).min(axis=0)
        return bool(nearest.max() <= same)


UNJUDGED = np.errstate(divide="ignore", invalid="ignore", over="ignore")
"""Whether what is seen is finite is judged by :attr:`Seen.finite`."""

LookAtMembers = Callable[[np.ndarray, np.ndarray], Seen]
"""Looks at theta and places of the latent variables."""


def look_at(
    split: Split, theta: np.ndarray, places: np.ndarray, compiler: Callable[..., Any]
) -> LookAtMembers:
    """Return what looks at the members, compiled once for a target."""
    make = _of_one if split.num_members == 1 else _of_members
    made: LookAtMembers = split.target.compiled_once(
        ("look at curvature", *key_of(split)), lambda: make(split, theta, places, compiler)
    )
    return made


def stray_of(
    moved: Float[np.ndarray, "*others d"],
    made: Float[np.ndarray, "*others d"],
    parts: Float[np.ndarray, "*others _"],
    slopes: Float[np.ndarray, "places *members d"],
) -> float:
    """Return how far slopes have moved otherwise than curvatures make them, by what counts as none.

    ``parts`` are the sizes of what these make, added up, and ``slopes`` are those at all places.
    """
    none = ALIKE * parts + ROUNDING * np.abs(slopes).max(axis=0)
    return float((np.abs(moved - made) / np.maximum(none, 1e-300)).max(initial=0.0))


def _of_members(
    split: Split, theta: np.ndarray, places: np.ndarray, compiler: Callable[..., Any]
) -> LookAtMembers:
    arrays = split.target.arrays()

    def terms(theta: jax.Array, z: jax.Array, arrays: Arrays) -> MemberTerms:
        found: MemberTerms = jax.lax.map(lambda z: member_terms(split, theta, z, arrays), z)
        return found

    given = jnp.asarray(theta), jnp.asarray(places), arrays
    compiled = compiler(terms, *given, calls=1)

    @UNJUDGED
    def look(theta: np.ndarray, places: np.ndarray) -> Seen:
        seen = compiled(jnp.asarray(theta), jnp.asarray(places), arrays)
        values, slopes, found = map(np.asarray, seen)
        change = float(np.abs(found - found[0]).max() / np.abs(found).max())
        made = -found[0] * (places - places[0])[1:, :, None, :]
        moved = (slopes - slopes[0])[1:]
        astray = stray_of(moved, made.sum(-1), np.abs(made).sum(-1), slopes)
        return Seen(found, change, astray, values, slopes)

    return look


def _of_one(
    split: Split, theta: np.ndarray, places: np.ndarray, compiler: Callable[..., Any]
) -> LookAtMembers:
    """Look at a single member, some products with the Hessian at a time.

    Of a large one the precision is made at the first place, and at others it is looked whether
    products with random directions are the same.
    """
    arrays, d = split.target.arrays(), split.width
    lot = min(d, LOT)

    def products(
        theta: jax.Array, z: jax.Array, vectors: jax.Array, arrays: Arrays
    ) -> tuple[jax.Array, jax.Array]:
        def slope(z: jax.Array) -> jax.Array:
            return jax.grad(lambda z: split.log_joint(theta, z, arrays).members.sum())(z)

        here, push = jax.linearize(slope, z)
        made: jax.Array = -jax.vmap(lambda v: push(v[None])[0])(vectors)
        return here[0], made

    some = np.random.default_rng(10).standard_normal((lot, d))
    units = np.eye(-(-d // lot) * lot, d)
    given = jnp.asarray(theta), jnp.asarray(places[0]), jnp.asarray(some), arrays
    compiled = compiler(products, *given, calls=1)

    @UNJUDGED
    def look(theta: np.ndarray, places: np.ndarray) -> Seen:
        def at(z: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            given = map(jnp.asarray, (theta, z, vectors))
            here, made = compiled(*given, arrays)
            return np.asarray(here), np.asarray(made)

        def precision(z: np.ndarray) -> np.ndarray:
            rows = [at(z, units[first : first + lot])[1] for first in range(0, d, lot)]
            whole = np.concatenate(rows)[:d]
            return np.asarray((whole + whole.T) / 2)[None]

        # a direction to each of the other places, whose product is what slopes there differ by
        away = (places - places[0])[1:, 0]
        vectors = some.copy()
        vectors[: len(away)] = away[:lot]
        seen = [at(z, vectors) for z in places]
        slopes, bent = (np.stack(v) for v in zip(*seen, strict=True))
        parts = np.abs(bent).max(axis=(0, 1)) * np.abs(away[:lot]).max(axis=1, keepdims=True)
        moved, made = (slopes - slopes[0])[1 : 1 + lot], -bent[0, : len(away)]
        astray = stray_of(moved, made, parts, slopes)
        if d <= MAX_WEIGHED:
            found = np.stack([precision(z) for z in places])
            return Seen(found, float(np.abs(found - found[0]).max() / np.abs(found).max()), astray)
        change = float(np.abs(bent - bent[0]).max() / np.abs(bent).max())
        return Seen(precision(places[0])[None], change, astray)

    return look
