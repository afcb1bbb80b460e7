"""Looking at the sites of a model: their inputs at some points, and how these answer to latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vi_recipes.model import Arrays, Target, site_terms

MAX_UNITS = 24
"""Sites of up to this many coordinates are probed one coordinate at a time."""

NUM_POINTS = 6
"""Where a model is looked at to begin with: near the start, and far from it to both sides."""


class Look(NamedTuple):
    """What is seen of a site at a point, or of its slopes there along every direction.

    Parameters
    ----------
    leaves
        The inputs of its log density; slopes have the directions as their first axis.
    weight
        Of its log density.
    total
        Its whole log density, of sites that are integrated as a whole; else 0.
    """

    leaves: list[Any]
    weight: Any
    total: Any


@dataclass
class Probes:
    """Where a model is looked at, and along which directions.

    Parameters
    ----------
    target
        The model.
    points
        Near the start and far from it, and wherever factors were found later; each of shape (dim,).
    directions
        Shape (directions, dim).
    units
        Which of the directions are each site's.
    shapes
        Sample site -> shape of its elementwise log density; ``None`` where it has none.
    whole
        Sites that are integrated as a whole.
    """

    target: Target
    points: list[Float[np.ndarray, " dim"]]
    directions: Float[np.ndarray, "directions dim"]
    units: dict[str, slice]
    shapes: dict[str, tuple[int, ...] | None]
    whole: set[str]
    _compiled: Callable[..., Any]

    def look(self, z: Float[np.ndarray, " dim"]) -> tuple[dict[str, Look], dict[str, Look]]:
        """Return what every site is at a point, and its slopes there."""
        args = jnp.asarray(z), jnp.asarray(self.directions), self.target.arrays()
        here, along = self._compiled(*args)
        slopes = jax.tree.map(lambda x: self.target.own(x, 1), along)
        return jax.tree.map(self.target.own, here), slopes


def as_first(first: dict[str, Look], later: dict[str, Look]) -> dict[str, Look]:
    """Return slopes seen later, with those that were seen at first themselves where they are equal.

    Those of an affine input are the same everywhere, and are many numbers for each of its entries.
    """

    def known(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return one if np.array_equal(one, other) else other

    return {
        name: look._replace(leaves=list(map(known, first[name].leaves, look.leaves)))
        for name, look in later.items()
    }


def make_probes(
    target: Target, start: Float[np.ndarray, " dim"], compiler: Callable[..., Callable[..., Any]]
) -> Probes:
    """Return points around a start, with what looks at the model there.

    Parameters
    ----------
    target
        The model.
    start
        A point of finite density.
    compiler
        Compiles a function for given arguments.
    """
    rng = np.random.default_rng(11)
    near = [0.3 * rng.standard_normal(target.dim) for _ in range(2)]
    # far out and to both sides of every coordinate, for kinks that are not near the start
    far = [rng.uniform(3, 5, target.dim) * rng.choice([-1, 1], target.dim) for _ in range(2)]
    points = [start + move for move in (*near, *far, *(-move for move in far))]
    assert len(points) == NUM_POINTS
    directions, units = _directions(target, rng)
    shapes: dict[str, tuple[int, ...] | None] = {}

    def shape_of(z: jax.Array, arrays: Arrays) -> None:
        shapes.update((n, site.shape) for n, site in site_terms(target, z, arrays).items())

    # the data are traced too: NumPyro refuses rows of weight 0 that it sees
    jax.eval_shape(shape_of, jnp.asarray(start), target.arrays())
    whole = {n for n, shape in shapes.items() if shape is None or n in target.moving_supports}
    if target.spread is not None:
        shapes = {n: s and target.spread.own_shape(s) for n, s in shapes.items()}

    def probe(z: jax.Array, directions: jax.Array, arrays: Arrays) -> Any:
        def look(z: jax.Array) -> dict[str, Look]:
            sites = site_terms(target, z, arrays)
            nothing = jnp.zeros(())
            return {
                n: Look(s.leaves, s.weight, s.total if n in whole else nothing)
                for n, s in sites.items()
            }

        def along(direction: jax.Array) -> Any:
            return jax.jvp(look, (z,), (direction,))

        return jax.vmap(along, out_axes=(None, 0))(directions)

    args = jnp.asarray(start), jnp.asarray(directions), target.arrays()
    compiled = compiler(probe, *args, calls=NUM_POINTS)
    return Probes(target, points, directions, units, shapes, whole, compiled)


def _directions(
    target: Target, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "directions dim"], dict[str, slice]]:
    """Return the probing directions, and which of them are each site's.

    For a small site one per coordinate; for a large one along ones, along the index and a random
    one, which find the one coordinate that an element depends on, and verify it.
    """
    rows: list[np.ndarray] = []
    units: dict[str, slice] = {}
    for name, place in target.slices.items():
        size = place.stop - place.start
        if size <= MAX_UNITS:
            block = np.zeros((size, target.dim))
            block[np.arange(size), np.arange(place.start, place.stop)] = 1.0
        else:
            block = np.zeros((3, target.dim))
            block[0, place] = 1.0
            block[1, place] = np.arange(1.0, size + 1)
            block[2, place] = rng.standard_normal(size)
        units[name] = slice(len(rows), len(rows) + len(block))
        rows += list(block)
    return np.stack(rows), units
