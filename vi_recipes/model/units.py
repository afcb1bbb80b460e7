"""The unit of every coordinate: how far it moves before a row of the data notices.

A model is the same in metres and in millimetres. Where searches begin, how far they may go, how
long their first steps are: all of that is measured in these units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.core import COMPILED_QUICKLY
from vi_recipes.model.bound import Arrays
from vi_recipes.model.density import FlatDensity
from vi_recipes.model.terms import terms_of_sites

ORDINARY = 30.0
"""Units that are not this much above 1 count as 1: nothing is gained by them."""

NARROW = 5.0
"""Nor are those that are not this much below it, where no prior says that 1 is ordinary. It is
less: what begins far too wide is lost where a link is an exponential, and what begins too close to
0 takes some steps more. Where a prior does, rows may pull as they do because a scale that waits to
be found is far too wide yet, as beside members in non-centred form."""

MOST_DIRECTIONS = 64
"""Coordinates of a site, members of its plates aside, that are looked at one by one."""

MOST_NUMBERS = 20_000_000
"""Numbers in the directions of a site, at most."""

SAME = 2.0
"""Factor by which the curvature may change over a distance and still be that of a parabola."""

Units = Float[np.ndarray, " dim"]


class _Bend(NamedTuple):
    """How rows of the log density answer to each direction, shapes (directions,)."""

    slope: Any
    """Root mean square of the rows' slopes."""
    curvature: Any
    """Mean of the rows' absolute curvatures."""
    rows: Any
    """Rows that answer."""


def find_units(density: FlatDensity, z: Float[np.ndarray, " dim"], *, placed: bool = True) -> Units:
    """Return the unit of every coordinate of the flat vector, from the density near ``z``.

    What has an edge lives on a scale of logarithms or logits, whose unit is 1. Of the others it is
    the smallest of three: the sd that its own prior gives it; that which one member of a plate
    leaves of it; and how far a row of the data pulls it, which needs no scale of errors to be
    right. What is linear in rows far out counts by its sd instead. They are looked at where ``z``
    is and with those coordinates at 0: far out likelihoods are flat. Where ``z`` was not
    ``placed`` by priors an exponential may be anything there, and it is looked at for what nothing
    is seen of at 0 alone, as of a product of two that are 0.
    """
    unit = np.ones(density.dim)
    groups = _directions(density)
    if not groups:
        return unit
    basis = np.stack([direction for _, direction in groups])
    single = {site.name for site in density.latents if not site.plates}
    latent = {site.name for site in density.latents}

    def kind(name: str) -> int:
        return 0 if name in single else 1 if name in latent else 2

    free = basis.any(axis=0)
    # what is not moved has no derivatives that were to be compiled
    moved_sites = [name for name, place in density.slices.items() if free[place].any()]

    def along(z: Array, direction: Array, offset: Array, arrays: Arrays) -> list[_Bend]:
        values, ways = density.unravel(z + offset * direction), density.unravel(direction)
        point = {name: values[name] for name in moved_sites}
        way = {name: ways[name] for name in moved_sites}

        def elements(point: dict[str, Array]) -> list[Array]:
            rows: list[list[Array]] = [[], [], []]
            for name, term in terms_of_sites(density, {**values, **point}, arrays).items():
                whole = term.shape is None
                of_site = term.total if whole else term.weight * term.rebuild(term.leaves)
                rows[kind(name)].append(jnp.ravel(of_site))
            return [jnp.concatenate([jnp.zeros(1), *part]) for part in rows]

        def slopes(point: dict[str, Array]) -> list[Array]:
            return list(jax.jvp(elements, (point,), (way,))[1])

        first, second = jax.jvp(slopes, (point,), (way,))
        out = []
        for g, h in zip(first, second, strict=True):
            count = jnp.maximum(jnp.sum((g != 0) | (h != 0)), 1).astype(float)
            mean = jnp.sum(jnp.abs(h)) / count
            out.append(_Bend(jnp.sqrt(jnp.sum(g**2) / count), mean, count))
        return out

    def measure(z: Array, basis: Array, offsets: Array, arrays: Arrays) -> list[_Bend]:
        both = basis, offsets
        return list(jax.lax.map(lambda one: along(z, one[0], one[1], arrays), both))

    compiled = density.compiled_for_any_data(
        ("units", basis.shape), lambda: jax.jit(measure, compiler_options=COMPILED_QUICKLY)
    )

    def at(point: np.ndarray, offsets: np.ndarray) -> list[_Bend]:
        given = (jnp.asarray(a, float) for a in (point, basis, offsets))
        bends: list[_Bend] = compiled(*given, density.arrays())
        return [_Bend(*map(np.asarray, bend)) for bend in bends]

    total = sum(site.size for site in density.observed) or _longest(density)
    units_found, own = np.full(len(basis), np.inf), np.full(len(basis), np.inf)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        for point in (np.where(free, 0.0, z), z):
            if not placed and np.isfinite(units_found).all():
                break
            before = units_found
            prior, members, rows = at(point, np.zeros(len(basis)))
            for bend in (prior, members):
                own = np.fmin(own, _positive(bend.curvature**-0.5))
            units_found = np.fmin(units_found, own)
            spread = _positive(rows.curvature**-0.5)
            pull = _positive(rows.slope / rows.curvature)
            moved = at(point, np.where(np.isfinite(pull), pull, 0.0))[2].curvature
            parabola = (moved < SAME * rows.curvature) & (moved > rows.curvature / SAME)
            pull = np.where(parabola, pull, np.fmin(pull, spread))
            # sums over discrete variables come as one number for all rows
            alone = rows.rows <= 1
            least = np.where(alone, spread * np.sqrt(total), spread / np.sqrt(rows.rows))
            units_found = np.fmin(units_found, np.fmax(pull, least))
            if not placed:
                units_found = np.where(np.isfinite(before), before, units_found)
    ordinary = (own >= 1 / NARROW) & (own <= ORDINARY)
    narrow = np.where(ordinary, 1 / ORDINARY, 1 / NARROW)
    for (place, _), size, least in zip(groups, units_found, narrow, strict=True):
        if np.isfinite(size) and not least <= size <= ORDINARY:
            unit[place] = size
    return unit


def _longest(density: FlatDensity) -> int:
    """Return the length of the longest array of the data."""
    return max((len(a) for a in density.arrays() if a.ndim), default=1)


def _positive(size: Any) -> np.ndarray:
    """Return sizes, infinite where they are not positive numbers."""
    return np.where(size > 0, size, np.inf)


def _directions(density: FlatDensity) -> list[tuple[np.ndarray, Float[np.ndarray, " dim"]]]:
    """Return places that share a unit, with the direction that moves them.

    The members of a plate hardly touch one another, and are alike: they move together.
    """
    groups = []
    rng = np.random.default_rng(6)
    for site in density.latents:
        shape, place = site.unconstrained_shape, density.slices[site.name]
        if density.edged[place].all() or not place.stop > place.start:
            continue
        plated = {axis % len(shape) for _, _, axis in site.plates}
        kept = [axis for axis in range(len(shape)) if axis not in plated]
        index = np.arange(place.start, place.stop).reshape(shape)
        rows = np.moveaxis(index, kept, range(len(kept))) if kept else index
        rows = rows.reshape(int(np.prod([shape[axis] for axis in kept], dtype=int)), -1)
        if len(rows) > MOST_DIRECTIONS or len(rows) * density.dim > MOST_NUMBERS:
            rows = rows.reshape(1, -1)
        for members in rows:
            places = members[~density.edged[members]]
            if not places.size:
                continue
            direction = np.zeros(density.dim)
            # signs of their own where coordinates that couple move together
            signs = rng.choice([-1.0, 1.0], places.size) if len(rows) == 1 and kept else 1.0
            direction[places] = signs
            groups.append((places, direction))
    return groups
