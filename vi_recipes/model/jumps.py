"""Where a log density jumps: along lines, what its slopes do not account for at any width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vi_recipes.core import Timing
from vi_recipes.model.bound import Arrays
from vi_recipes.model.coordinates import DensityByCoordinate
from vi_recipes.model.terms import site_terms

NEGLIGIBLE = 0.1
"""What slopes miss of a log density along a line that makes no difference to a posterior."""

NOISE = 1e-8
"""Relative difference of two log densities that is rounding."""

REACH = (-0.5, 1.5)
"""How far a line goes through its two points, at 0 and 1."""

PIECES = 16
"""Into which every line is cut to begin with."""

NARROWEST = 2.0**-36
"""Width, in the distance of the two points, at which what is still missed is a jump."""

MAX_ROUNDS = 150
"""Of cutting pieces in two."""

CUTS = 8
"""Pieces cut in a round: so many that miss most, and as many of the narrowest that miss some."""


LookAlong = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(lines, places on them) -> log densities of the sites there, and slopes along the lines."""


@dataclass(frozen=True)
class Jump:
    """A log density that is not continuous.

    Parameters
    ----------
    site
        Whose.
    latents
        Latent sites that it depends on by steps.
    size
        The largest jump that was seen.
    """

    site: str
    latents: tuple[str, ...]
    size: float


class Pieces(NamedTuple):
    """Pieces of lines, with the log densities of some sites at both ends.

    Parameters
    ----------
    line
        Which line each is of.
    ends
        Where it begins and ends on it, shape (pieces, 2).
    values, slopes
        Log densities there and their derivatives along the line, shape (pieces, 2, sites).
    """

    line: Int[np.ndarray, " pieces"]
    ends: Float[np.ndarray, "pieces 2"]
    values: Float[np.ndarray, "pieces 2 sites"]
    slopes: Float[np.ndarray, "pieces 2 sites"]

    @property
    def width(self) -> Float[np.ndarray, " pieces"]:
        """How long each is."""
        return self.ends[:, 1] - self.ends[:, 0]

    @property
    def missed(self) -> Float[np.ndarray, "pieces sites"]:
        """By how much the change of each log density differs from what its slopes say."""
        with np.errstate(invalid="ignore"):  # outside the support there is nothing to see
            by_slopes = self.slopes.mean(axis=1) * self.width[:, None]
            missed = np.abs(self.values[:, 1] - self.values[:, 0] - by_slopes)
        return np.where(np.isfinite(missed), missed, 0.0)

    @property
    def jumps(self) -> Bool[np.ndarray, "pieces sites"]:
        """Where something is missed that is no rounding."""
        with np.errstate(invalid="ignore"):
            size = 1 + np.abs(self.values).max(axis=1)
            return self.missed > NOISE * size


def find_jumps(
    target: DensityByCoordinate, lines: Float[np.ndarray, "lines 2 dim"], timing: Timing
) -> list[Jump]:
    """Return which sites' log densities jump on some lines.

    Only sites whose inputs depend on latent sites by steps are looked at: elsewhere nothing is
    computed. Pieces of the lines are cut in two again and again where slopes do not account for the
    change. Of a smooth function half as wide a piece misses an eighth, of one with a kink a half;
    across a jump it misses as much as before.

    Parameters
    ----------
    target
        The density.
    lines
        Two points of each, unconstrained.
    timing
        Charged with what is compiled.
    """
    stepped = target.flows.stepped
    names = list(stepped)
    if not names or not len(lines):
        return []

    def look(
        z: Float[Array, "rows dim"], along: Float[Array, "rows dim"], arrays: Arrays
    ) -> tuple[Array, Array]:
        def totals(z: Array) -> Array:
            terms = site_terms(target, z, arrays)
            return jnp.stack([terms[name].total for name in names])

        def one(pair: tuple[Array, Array]) -> tuple[Array, Array]:
            return jax.jvp(totals, pair[:1], pair[1:])

        return jax.lax.map(one, (z, along))

    with jax.enable_x64(True):
        arrays = target.arrays()
        shape = jnp.zeros((2 * CUTS, target.dim))
        compiled = target.compiled_for_any_data(
            "log densities along lines", lambda: timing.compile(look, shape, shape, arrays)
        )

        def at(line: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            first, second = lines[line, 0], lines[line, 1]
            along = second - first
            z = first + place[:, None] * along
            seen = []
            for begin in range(0, len(z), 2 * CUTS):
                rows = np.minimum(np.arange(begin, begin + 2 * CUTS), len(z) - 1)
                seen.append(compiled(jnp.asarray(z[rows]), jnp.asarray(along[rows]), arrays))
            values, slopes = (np.concatenate([np.asarray(s[k]) for s in seen]) for k in range(2))
            return values[: len(z)], slopes[: len(z)]

        sizes = _search(len(lines), len(names), at)
    return [
        Jump(name, stepped[name], float(size))
        for name, size in zip(names, sizes, strict=True)
        if size > 0
    ]


def _search(num_lines: int, num_sites: int, at: LookAlong) -> Float[np.ndarray, " sites"]:
    """Return the largest jump of each log density; 0 where there is none that counts."""
    pieces = _begin(num_lines, at)
    sizes = np.zeros(num_sites)
    for _ in range(MAX_ROUNDS):
        missed, narrow = pieces.missed, pieces.width <= NARROWEST
        along = np.zeros((num_lines, num_sites))
        np.add.at(along, pieces.line, missed)
        open_ = (along.max(axis=0) >= NEGLIGIBLE) & (sizes == 0)
        found = np.where(pieces.jumps & narrow[:, None], missed, 0.0).max(axis=0)
        sizes = np.where(open_, found, sizes)
        open_ &= sizes == 0
        rank = np.where(narrow[:, None] | ~open_ | ~pieces.jumps, 0.0, missed).max(axis=1)
        if not (rank > 0).any():
            break
        worst = np.argsort(rank)[-CUTS:]
        depth = np.where(rank > 0, -pieces.width, -np.inf)
        chosen = np.union1d(worst, np.argsort(depth)[-CUTS:])
        pieces = _cut(pieces, chosen[rank[chosen] > 0], at)
    return sizes


def _begin(num_lines: int, at: LookAlong) -> Pieces:
    ends = np.linspace(*REACH, PIECES + 1)
    values, slopes = at(np.repeat(np.arange(num_lines), ends.size), np.tile(ends, num_lines))
    values, slopes = (v.reshape(num_lines, ends.size, -1) for v in (values, slopes))

    def pairs(v: np.ndarray) -> np.ndarray:
        return np.stack([v[:, :-1], v[:, 1:]], axis=2).reshape(num_lines * PIECES, 2, -1)

    both = np.tile(np.stack([ends[:-1], ends[1:]], axis=1), (num_lines, 1))
    return Pieces(np.repeat(np.arange(num_lines), PIECES), both, pairs(values), pairs(slopes))


def _cut(pieces: Pieces, chosen: Int[np.ndarray, " chosen"], at: LookAlong) -> Pieces:
    """Cut some pieces in two."""
    middle = pieces.ends[chosen].mean(axis=1)
    values, slopes = at(pieces.line[chosen], middle)
    halves = []
    for side in range(2):
        part = Pieces(*(field[chosen].copy() for field in pieces))
        part.ends[:, 1 - side], part.values[:, 1 - side] = middle, values
        part.slopes[:, 1 - side] = slopes
        halves.append(part)
    rest = Pieces(*(np.delete(field, chosen, axis=0) for field in pieces))
    return Pieces(*(np.concatenate(parts) for parts in zip(rest, *halves, strict=True)))
