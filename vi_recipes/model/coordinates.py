"""Which coordinate of the flat vector each scalar depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vi_recipes.core import Timing, one_at_a_time
from vi_recipes.model.bound import Arrays
from vi_recipes.model.flows import DensityWithFlows

FAR = (1.0,) * 6 + (3.0,) * 6
"""Spreads of the points, far from the start, where it is verified which coordinate it is."""


AROUND = (1.0, 2.0, 3.0, 3.0)
"""Spreads, in sds, of the pairs of points around a posterior where it is verified again."""


TELLING = 1e-7
"""Share of the largest slope up to which one is rounding, and tells nothing."""

NO_SLOPE = -1
"""In place of a coordinate: an element has no slope anywhere."""

TINY_SLOPES = -2
"""In place of a coordinate: an element's slopes are tiny everywhere."""


class _Seen(NamedTuple):
    """What slopes say of the scalars of a site, at a point.

    Parameters
    ----------
    coordinate
        The one that each depends on; -1 if none or several.
    overflows
        Which have slopes that are not finite.
    flat
        Which have none.
    """

    coordinate: Int[np.ndarray, "*shape"]
    overflows: Bool[np.ndarray, "*shape"]
    flat: Bool[np.ndarray, "*shape"]


class DensityByCoordinate(DensityWithFlows):
    """A flat density that knows which coordinates its scalars and supports depend on."""

    @property
    def coordinate_of(self) -> dict[str, np.ndarray]:
        """Which single coordinate of ``z`` each reported scalar depends on.

        Site name -> integer array of the site's shape; -1 where a scalar depends on none or on
        several. Found from three Jacobian-vector products of the constraining map at each of some
        random points: along ones, f'; along the coordinates' indices, j f'; and along a random
        direction, which verifies the index j. The points lie near the start and far from it, where
        max(a, b) or where(a > 0, b, c) may depend on another coordinate. A site that depends on
        latent sites by steps, which no slope shows, counts as depending on several.
        """
        return self.compiled_once("coordinate of every scalar", self._find_coordinates)

    @one_at_a_time
    def _find_coordinates(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        start = self.anywhere()
        coordinates: dict[str, np.ndarray] = {}
        for spread in (0.1, 0.1, *FAR):
            z = start + spread * rng.standard_normal(self.dim)
            for name, seen in self._look(z, rng).items():
                before = coordinates.get(name, seen.coordinate)
                mute = (spread in FAR) & seen.overflows  # which says nothing
                coordinates[name] = np.where((before == seen.coordinate) | mute, before, -1)
        for name in self.flows.stepped_values:
            coordinates[name] = np.full_like(coordinates[name], -1)
        return coordinates

    def _look(self, z: Float[np.ndarray, " dim"], rng: np.random.Generator) -> dict[str, _Seen]:
        """Return what the slopes of every site's scalars say at a point."""
        direction = rng.standard_normal(self.dim)
        directions = np.stack([np.ones(self.dim), np.arange(1.0, self.dim + 1), direction])
        return {
            name: _Seen(
                _one_coordinate_here(slopes, direction),
                ~np.isfinite(slopes).all(axis=0),
                (slopes == 0).all(axis=0),
            )
            for name, slopes in self._slopes_along(z, directions).items()
        }

    @one_at_a_time
    def coordinates_around(
        self, location: Float[np.ndarray, " dim"], scale: Float[np.ndarray, " dim"]
    ) -> dict[str, np.ndarray]:
        """Return :attr:`coordinate_of` as it is where a posterior lies too.

        That is looked at near the start, and max(a, b) may depend on another one far from there.

        Parameters
        ----------
        location, scale
            Mean and sd of every coordinate.
        """
        known = self.coordinate_of
        if len(self.quantities) == len(self.latents) and not self.moving_supports:
            return known  # every scalar is a support's own transform of its coordinate
        rng = np.random.default_rng(1)
        points = [location]
        for spread in AROUND:
            away = spread * scale * rng.standard_normal(self.dim)
            points += [location + away, location - away]
        for z in points:
            for name, seen in self._look(z, rng).items() if np.isfinite(z).all() else ():
                # where a scalar is flat it depends on no other one
                mute = seen.overflows | seen.flat
                agrees = (known[name] == seen.coordinate) | mute
                known = known | {name: np.where(agrees, known[name], -1)}
        return known

    @one_at_a_time
    def slopes(self, z: Any) -> dict[str, np.ndarray]:
        """Return the derivative of every scalar in the one coordinate that it depends on, at ``z``.

        Site -> constrained scalar by unconstrained coordinate, shape of the site; of a scalar that
        depends on several coordinates, the sum of its derivatives (see :meth:`coordinate_of`).
        """
        # the other two are for nothing: a program of its own would take longer
        directions = np.zeros((3, self.dim))
        directions[0] = 1.0
        along = self._slopes_along(np.asarray(z, float), directions)
        return {name: slopes[0] for name, slopes in along.items()}

    def _slopes_along(
        self, z: Float[np.ndarray, " dim"], directions: Float[np.ndarray, "three dim"]
    ) -> dict[str, np.ndarray]:
        """Return the derivatives of every scalar along three directions, which lead."""

        def slopes(z: Array, directions: Array, arrays: Arrays) -> dict[str, Array]:
            def along(direction: Array) -> dict[str, Array]:
                return jax.jvp(lambda v: self.constrain_fn(v, arrays), (z,), (direction,))[1]

            return jax.vmap(along)(directions)

        with jax.enable_x64(True):
            arrays = self.arrays()
            compiled = self.compiled_for_any_data(
                "slopes in three directions",
                lambda: Timing().compile(slopes, z, directions, arrays, calls=14),
            )
            found = compiled(z, directions, arrays)
        return {name: np.asarray(value) for name, value in found.items()}

    @property
    def moving_supports(self) -> tuple[str, ...]:
        """Latent sites whose support depends on other latent sites, such as Uniform(lo, 5)."""
        return self.compiled_once("moving supports", self._find_moving_supports)

    def _find_moving_supports(self) -> tuple[str, ...]:
        rng = np.random.default_rng(0)
        here, elsewhere = rng.standard_normal((2, self.dim))
        rows = [here]
        for site in self.latents:
            row = elsewhere.copy()
            row[self.slices[site.name]] = here[self.slices[site.name]]
            rows.append(row)
        values = self.constrain(np.stack(rows))
        return tuple(
            site.name
            for k, site in enumerate(self.latents, start=1)
            if not np.allclose(values[site.name][k], values[site.name][0], equal_nan=True)
        )

    def sites_along(self, direction: Float[np.ndarray, " dim"]) -> list[str]:
        """Return the latent sites that carry most of a direction of the flat vector."""
        size = np.abs(direction)
        most = {name: size[place].max(initial=0.0) for name, place in self.slices.items()}
        return [name for name, largest in most.items() if largest > 0.5 * size.max()]


def _one_coordinate_here(
    slopes: Float[np.ndarray, " 3 *shape"], random: Float[np.ndarray, " dim"]
) -> Int[np.ndarray, "*shape"]:
    """Return the one coordinate that each scalar depends on at this point; -1 if none or several.

    ``slopes`` are those along ones, along the coordinates' index (from one) and along ``random``.
    """
    by_one, by_index, by_random = slopes
    dim = random.size
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = by_index / by_one
    guess = np.nan_to_num(np.round(ratio), nan=0, posinf=0, neginf=0).astype(int)
    inside = (guess >= 1) & (guess <= dim) & np.isfinite(ratio)
    j = np.where(inside, guess - 1, 0)
    scale = np.abs(by_one)
    with np.errstate(invalid="ignore"):
        fits = (np.abs(by_index - (j + 1) * by_one) <= 1e-8 * dim * scale) & (
            np.abs(by_random - random[j] * by_one) <= 1e-8 * scale
        )
    return np.where(inside & fits & (scale > 0), j, -1)


def one_coordinate(
    slopes: Sequence[Float[np.ndarray, " 3 *elements"]],
    random: Float[np.ndarray, " size"],
    size: int,
) -> Int[np.ndarray, "*elements"] | None:
    """Return the one coordinate of a site that each element depends on; ``None`` if several.

    A slope that is tiny beside the largest says nothing: where a link saturates it is rounding.
    Elements that have no other slopes get :data:`NO_SLOPE`, those with slopes that are tiny
    wherever they are looked at :data:`TINY_SLOPES`.

    Parameters
    ----------
    slopes
        At each of some points, the elements' slopes along ones, along the coordinates' index (from
        one) and along a random direction; each shape ``(3, *elements)``.
    random
        That direction, shape (size,).
    size
        Number of coordinates.
    """
    sizes = [np.abs(np.stack([s[0], s[1] / size, s[2]])).max(axis=0) for s in slopes]
    tops = [float(s.max(initial=0.0)) for s in sizes]
    # a link may saturate at some points, and explode at others, there for a few elements
    middles = [float(np.median(s[s > 0])) if (s > 0).any() else 0.0 for s in sizes]
    usual = sorted(middles)[len(middles) // 2]
    index = np.full(slopes[0].shape[1:], NO_SLOPE)
    for (by_one, by_index, by_random), here, top in zip(slopes, sizes, tops, strict=True):
        limit = TELLING * max(top, usual, 1e-300)
        telling = here > limit
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = np.where(by_one != 0, by_index / by_one, 1.0)
        guess = np.clip(np.nan_to_num(np.round(guess), nan=1.0), 1, size).astype(int) - 1
        if (np.abs(by_index - (guess + 1) * by_one) > limit * size)[telling].any():
            return None
        if (np.abs(by_random - random[guess] * by_one) > limit)[telling].any():
            return None
        if (telling & (index >= 0) & (guess != index)).any():
            return None
        index = np.where(telling, guess, np.where((index < 0) & (here > 0), TINY_SLOPES, index))
    return index
