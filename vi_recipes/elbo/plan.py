"""How the expectation of each site's log density is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from vi_recipes.elbo.factors import Factors

MAX_SOURCES = 3
"""Sources of randomness that a tensor product of quadratures is made for."""


MAX_WHOLE = 2
"""Scalars that a whole site may depend on to be integrated over them directly."""


class Gather(NamedTuple):
    """A coordinate that every element of a site takes its own of, times a slope.

    Parameters
    ----------
    slope
        A number, or one for every element.
    coordinate
        Which one of the flat vector each element takes.
    """

    slope: Float[Array | np.ndarray, "*shape"]
    coordinate: Int[Array | np.ndarray, "*shape"]

    @property
    def one_slope(self) -> np.ndarray:
        """The slopes, or one number for an array of equal ones."""
        flat = np.asarray(self.slope)
        return np.asarray(flat.flat[0]) if flat.size and (flat == flat.flat[0]).all() else flat


@dataclass
class Affine:
    """A source that is affine in normal factors: offset + sum of slopes times coordinates."""

    leaf: int
    minus: int | None = None
    """A leaf that is subtracted from ``leaf``, in a family that only knows their difference."""
    offset: np.ndarray = field(default_factory=lambda: np.zeros(()))
    columns: list[int] = field(default_factory=list)
    slopes: list[np.ndarray] = field(default_factory=list)
    gathers: list[Gather] = field(default_factory=list)
    quadratic: bool = False

    def coordinates(self) -> list[np.ndarray]:
        """Return the coordinates it depends on."""
        return [np.asarray(self.columns, int), *(np.ravel(g.coordinate) for g in self.gathers)]


@dataclass
class Single:
    """A source that is one scalar latent per element, seen by some leaves in any way."""

    site: str
    index: np.ndarray
    """Coordinate within the site of every element; a scalar for all of them alike."""
    leaves: list[int] = field(default_factory=list)
    first: int = 0
    """The site's first coordinate."""

    def coordinates(self) -> list[np.ndarray]:
        """Return the coordinates it depends on."""
        return [self.first + np.unique(self.index)]


@dataclass
class Plan:
    """How the expectation of one site's log density is taken."""

    name: str
    sources: list[Affine | Single] = field(default_factory=list)
    constants: dict[int, np.ndarray] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    whole: list[int] = field(default_factory=list)
    """Coordinates that the site as a whole is integrated over."""
    weight: np.ndarray = field(default_factory=lambda: np.ones(()))
    draws: bool = False
    reason: str = ""

    def describe(self) -> str:
        """Say in a few words how the expectation is taken."""
        if self.draws:
            return f"draws ({self.reason})"
        if not self.sources and not self.whole:
            return "constant"
        kinds = ["exact" if getattr(s, "quadratic", False) else "nodes" for s in self.sources]
        kinds += ["nodes" for _ in self.whole]
        return "quadrature (" + " x ".join(kinds) + ")"


# -- finding out -----------------------------------------------------------------------------------


@dataclass
class Leaf:
    """What is known of how one leaf depends on the latent sites."""

    value: np.ndarray
    dependent: bool = False
    affine: bool = True
    offset: np.ndarray = field(default_factory=lambda: np.zeros(()))
    columns: list[int] = field(default_factory=list)
    slopes: list[np.ndarray] = field(default_factory=list)
    gathers: list[Gather] = field(default_factory=list)
    single: tuple[str, np.ndarray] | None = None
    trouble: str = ""


def all_normal(factors: Factors, leaf: Leaf) -> bool:
    """Whether all coordinates that a leaf depends on have normal laws."""
    used = [np.asarray(leaf.columns, int), *(np.ravel(g.coordinate) for g in leaf.gathers)]
    return all(factors.gaussian[u].all() for u in used)


def subtract(value: Affine, other: Affine) -> None:
    """Make ``value`` the difference of two affine sources."""
    value.minus = other.leaf
    value.offset = value.offset - other.offset
    value.columns, value.slopes = list(value.columns), list(value.slopes)
    for column, slope in zip(other.columns, other.slopes, strict=True):
        if column in value.columns:
            place = value.columns.index(column)
            value.slopes[place] = value.slopes[place] - slope
        else:
            value.columns.append(column)
            value.slopes.append(-slope)
    value.gathers = [*value.gathers, *(Gather(-g.slope, g.coordinate) for g in other.gathers)]
    merged: list[Gather] = []
    for gather in value.gathers:
        for k, known in enumerate(merged):
            if np.array_equal(known.coordinate, gather.coordinate):
                merged[k] = Gather(known.slope + gather.slope, known.coordinate)
                break
        else:
            merged.append(gather)
    value.gathers = merged


def check_sources(factors: Factors, plan: Plan, overrides: Mapping[str, str]) -> None:
    """Send a site to draws where its sources are too many or not independent."""
    if plan.draws:
        pass
    elif len(plan.sources) > MAX_SOURCES:
        plan.draws, plan.reason = True, f"it has {len(plan.sources)} random inputs"
    elif clash := _clash(plan, factors):
        plan.draws, plan.reason = True, clash
    if plan.draws and overrides.get(plan.name) == "quadrature":
        raise ValueError(
            f"expectations: site '{plan.name}' cannot be integrated by quadrature: {plan.reason}"
        )


def _clash(plan: Plan, factors: Factors) -> str:
    """Say why a site's sources are not independent; nothing where they are."""
    shape = plan.shape or ()
    random = ~np.append(factors.points, True)  # what is fixed is independent of everything
    for source in plan.sources:
        if isinstance(source, Affine):
            for a, b in combinations((gather.coordinate for gather in source.gathers), 2):
                if ((a == b) & random[a]).any():
                    return "an input sees one scalar in two ways"
    used = []
    for source in plan.sources:
        if isinstance(source, Affine):
            mine = [
                np.where(np.broadcast_to(s, shape) != 0, c, -1)
                for c, s in zip(source.columns, source.slopes, strict=True)
            ]
            mine += [
                np.where(np.broadcast_to(g.slope, shape) != 0, g.coordinate, -1)
                for g in source.gathers
            ]
        else:
            mine = [np.broadcast_to(source.first + source.index, shape)]
        used.append(mine)
    for k, mine in enumerate(used):
        for theirs in used[k + 1 :]:
            if any(((a == b) & (a >= 0) & random[a]).any() for a, b in product(mine, theirs)):
                return "two inputs share a scalar"
    return ""
