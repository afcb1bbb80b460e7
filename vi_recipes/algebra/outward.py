"""Is a point that looks like a minimum one: what a function does further out.

A function that saturates has slopes that fall to nothing on the way out, and curvatures with them:
by Newton's decrement every point far enough out is a minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float

SAME = 1e-3
"""By how much a value further out may be worse and still be as good: far out there is rounding."""

FURTHER = (1.0, 0.3, 0.1, 0.03)
"""How far out it is looked, in shares of :data:`FURTHEST`."""

FURTHEST = 100.0
"""In sds by the curvature: about a minimum half the squares of such distances are lost."""

ROUNDED = 1e10
"""Distance, relative to where it is looked from, beyond which sums lose what is added to them."""

NUM_NEARER = 30
"""Times that the furthest distance is halved three times until the function is defined there."""

EDGEWARD = (3.0, 6.0, 12.0)
"""How far it is looked along a logarithm or logit."""

REACHED = 8.0
"""A logarithm or logit that has reached its edge: what lies much further out is rounding."""

SUSPECT = 2.0
"""Sd of a logarithm or logit from which it is looked whether an edge is better."""

LEVEL = 1e-4
"""Smallest eigenvalue at unit diagonal from which on down it is looked further out."""

LONE = 10.0
"""Sd of a coordinate, relative to its distance from 0 and from its start, of the same effect."""

Value = Callable[[np.ndarray], float]
"""The function that is minimised; not finite where it is not defined."""


class Product(Protocol):
    """A Hessian."""

    def dot(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return the Hessian times a vector."""


class Move(NamedTuple):
    """A move of one coordinate towards an edge that is as good as where it was, or better."""

    place: int
    """The coordinate's place."""
    sign: float
    """Which way."""
    gain: float
    """By how much the function is lower furthest out."""
    value: float
    """What it is there."""
    levels: bool
    """Whether the gain comes to an end: the function is bounded there."""


def flattest(hessian: Float[np.ndarray, "dim dim"]) -> tuple[float, Float[np.ndarray, " dim"]]:
    """Return the smallest eigenvalue at unit diagonal, where units do not count, and its vector."""
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    values, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
    return float(values[0]), vectors[:, 0] * scale


def looks_flat(
    z: Float[np.ndarray, " dim"],
    start: Float[np.ndarray, " dim"],
    diagonal: Float[np.ndarray, " dim"],
) -> Bool[np.ndarray, " dim"]:
    """Return which coordinates are so little curved that it is to be looked further out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = 1 / np.sqrt(diagonal)
        return np.asarray(~(sd <= LONE * (np.abs(z) + np.abs(z - start))))


def as_good_outward(
    value: Value,
    z: Float[np.ndarray, " dim"],
    hessian: Product,
    directions: Iterable[Float[np.ndarray, " dim"]],
) -> Float[np.ndarray, " dim"] | None:
    """Return the first of the directions along which a function gets no worse, however far out.

    Parameters
    ----------
    value
        The function.
    z
        Where it looks as if it were minimal.
    hessian
        There.
    directions
        To be looked along, one way each.
    """
    here = value(z)
    for direction in directions:
        size = float(np.abs(direction).max(initial=0.0))
        if not (np.isfinite(size) and size > 0):
            continue
        unit = direction / size
        bend = float(unit @ hessian.dot(unit))
        reach = float(np.abs(z).max() + 1e-3)
        length = min(FURTHEST / np.sqrt(max(bend, 1e-200)), ROUNDED * reach)
        least = min(FURTHER[-1] * length, reach)
        for _ in range(NUM_NEARER):
            if np.isfinite(value(z + length * unit)) or length / 8 < least:
                break
            length /= 8
        if all(value(z + share * length * unit) <= here + SAME for share in FURTHER):
            return unit
    return None


def moves_to_edges(
    value: Value,
    z: Float[np.ndarray, " dim"],
    diagonal: Float[np.ndarray, " dim"],
    places: Sequence[int] | np.ndarray,
) -> list[Move]:
    """Return which of the logarithms and logits at ``places`` are best at an edge.

    Parameters
    ----------
    value
        The function.
    z
        Where it looks as if it were minimal.
    diagonal
        Of its Hessian there.
    places
        Coordinates to look at: of those the ones of little curvature.
    """
    here, moves = value(z), list[Move]()
    for j in places:
        if diagonal[j] > 1 / SUSPECT**2:
            continue
        for sign in (-1.0, 1.0):
            there = []
            distances = EDGEWARD[:1] if sign * z[j] > REACHED else EDGEWARD
            for distance in distances:
                moved = z.copy()
                moved[j] += sign * distance
                there.append(value(moved))
            finite = [v for v in there if np.isfinite(v)]  # very far out nothing may be
            unknown = bool(np.isnan(there).all())
            if unknown and sign * z[j] > REACHED and _came(value, z, j, sign, here):
                finite = [here]
            if finite and max(finite) <= here + SAME:
                before = finite[-2] if len(finite) > 1 else here
                levels = len(finite) == len(distances) and abs(finite[-1] - before) <= SAME
                moves.append(Move(int(j), sign, here - finite[-1], finite[-1], levels))
    return moves


def _came(value: Value, z: Float[np.ndarray, " dim"], place: int, sign: float, here: float) -> bool:
    """Whether a function got no worse on the last of a way out; beyond here it is not known."""
    nearer = z.copy()
    nearer[place] -= sign * EDGEWARD[0]
    return value(nearer) >= here - SAME
