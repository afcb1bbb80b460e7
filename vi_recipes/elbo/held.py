"""What the objective holds fixed while the factors' parameters move: arrays for compiled code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.elbo.plan import Gather
from vi_recipes.model import Arrays

CHUNK = 16
"""Antithetic pairs of draws that are taken side by side."""


class AffineArrays(NamedTuple):
    """The arrays of a source that is affine in normal factors.

    Parameters
    ----------
    offset
        What the source is where all coordinates are zero; broadcasts to the site's shape.
    slopes
        Slopes in single coordinates, shape (columns, *shape); (0,) where there are none.
    gathers
        The coordinates of which every element takes its own.
    """

    offset: jax.Array
    slopes: jax.Array
    gathers: list[Gather]


class SingleArrays(NamedTuple):
    """The arrays of a source that is one scalar latent per element.

    Parameters
    ----------
    coordinate
        Coordinate within its site of every element; a scalar for all of them alike.
    """

    coordinate: jax.Array


class SiteArrays(NamedTuple):
    """The arrays by which a site's density is integrated.

    Parameters
    ----------
    leaves
        Those of the site's inputs that depend on no latent site, by their place.
    sources
        One for each of the plan's sources.
    weight
        Of the log density, from masks and scales; broadcasts to the site's shape.
    start
        Where latents stand that an input does not depend on, shape (dim,).
    """

    leaves: dict[int, jax.Array]
    sources: list[AffineArrays | SingleArrays]
    weight: jax.Array
    start: jax.Array


class HeldNodes(NamedTuple):
    """The nodes of one site's quadrature, with room for more than are used.

    Parameters
    ----------
    x
        Standard-normal nodes of every source, shape (room, sources).
    w
        Their weights, shape (room,); zero beyond those that are used.
    used
        How many are.
    """

    x: jax.Array
    w: jax.Array
    used: jax.Array


class SomeDraws(NamedTuple):
    """Some of the antithetic pairs of draws, always as many, so that one program takes any number.

    Parameters
    ----------
    noise
        Standard-normal draws, one of each pair, shape (:data:`CHUNK`, dim).
    weight
        What each pair counts in the mean over all, shape (:data:`CHUNK`,); zero for those that fill
        the last chunk up.
    """

    noise: jax.Array
    weight: jax.Array


def chunks_of(noise: Float[np.ndarray, "pairs dim"]) -> list[SomeDraws]:
    """Return the draws in chunks; the last draw fills up the last one, without weight."""
    out = []
    for first in range(0, len(noise), CHUNK):
        rows = np.minimum(np.arange(first, first + CHUNK), len(noise) - 1)
        used = np.arange(first, first + CHUNK) < len(noise)
        out.append(SomeDraws(*jax.device_put((noise[rows], used / len(noise)))))
    return out


class Held(NamedTuple):
    """All that the objective takes besides the factors' parameters.

    Parameters
    ----------
    sites
        The arrays of the sites that are integrated by quadrature.
    nodes
        Their nodes.
    noise
        Standard-normal draws, one of each antithetic pair, for the other sites; shape
        (pairs, dim).
    arrays
        The model's data, as :meth:`Target.arrays` has it.
    """

    sites: dict[str, SiteArrays]
    nodes: dict[str, HeldNodes]
    noise: jax.Array
    arrays: Arrays


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Given:
    """An array that a program was given, in place of a copy of it that it would return.

    Parameters
    ----------
    place
        Among the arrays of what was given.
    """

    place: int


def without_given[T](tree: T, given: Held) -> T:
    """Return a tree, within compiled code, without those of its arrays that are among ``given``.

    XLA copies what a program takes and returns: the slopes of every row, for one.
    """
    places = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves(given))}
    found: T = jax.tree.map(
        lambda leaf: _Given(places[id(leaf)]) if id(leaf) in places else leaf, tree
    )
    return found


def with_given[T](tree: T, given: Held) -> T:
    """Return what :func:`without_given` was given."""
    leaves = jax.tree.leaves(given)
    found: T = jax.tree.map(
        lambda leaf: leaves[leaf.place] if isinstance(leaf, _Given) else leaf,
        tree,
        is_leaf=lambda node: isinstance(node, _Given),
    )
    return found
