"""The posterior by nested quadrature: weighed points of theta, and members given each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, override

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from vi_recipes.core import generator
from vi_recipes.methods.nested.crossed_density import CrossedDensity
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.nodes import powers
from vi_recipes.methods.nested.owners import OF_SEVERAL
from vi_recipes.methods.nested.records import Conditional
from vi_recipes.methods.nested.rounds import Integral
from vi_recipes.methods.nested.wide_density import WideDensity
from vi_recipes.model import Sites
from vi_recipes.posterior import Posterior, errors_of_draws

NUM_ROWS = 2**15
"""Rows of theta that draws are taken from: points, as often as they weigh."""

FEWEST_KNOWN, MOST_KNOWN = 64, 2**13
"""Points at which the members are had, of those at most, and at least where they are dear."""

MOST_IN_SPLINE = 2**10
"""Of those, the ones that a spline goes through: it solves as many equations."""

MAX_WORK = 2**23
"""Numbers of data and members that it may take to have the members there."""

PIECE = 2**17
"""Scalars of members that are drawn at a time: what is made of them stays near."""

NUM_DRAWS = 10_000
"""For moments of what depends on several members, and for correlations within a member."""

MOST_SKEW = 2.0
"""Skewness of a member's law given theta up to which draws have it."""


class DrawnMembers(NamedTuple):
    """Members given some points of theta, as draws are made of them; see :func:`members_at`."""

    given: Conditional
    """What is known of them, unconstrained."""
    centre: Float[np.ndarray, "rows members d"]
    """Their means; of a wide member its mode."""
    root: Float[np.ndarray, "rows members d d"] | None
    """A root of their covariances; ``None`` for a wide member."""
    bend: Float[np.ndarray, "rows members d"] | None
    """See :class:`DrawShape`; ``None`` where they are normal."""
    between: CentresBetween | None = None
    """Centres elsewhere; ``None`` for those of the points themselves."""

    def centre_at(
        self, theta: Float[np.ndarray, "draws G"], place: Int[np.ndarray, " draws"]
    ) -> Float[np.ndarray, "draws members d"]:
        """Return the centres at draws of theta, each nearest to one of the points."""
        return self.centre[place] if self.between is None else self.between(theta)


class CentresBetween:
    """Centres of members at thetas between those at which they are known, by a spline."""

    def __init__(
        self,
        theta: Float[np.ndarray, "rows G"],
        centre: Float[np.ndarray, "rows members d"],
        unit: Float[np.ndarray, " G"],
    ) -> None:
        self._unit, self._shape = unit, centre.shape[1:]
        some = slice(None, None, -(-len(theta) // MOST_IN_SPLINE))
        self._spline = RBFInterpolator(theta[some] / unit, centre[some].reshape(-1, centre[0].size))

    def __call__(self, theta: Float[np.ndarray, "draws G"]) -> Float[np.ndarray, "draws members d"]:
        """Return the centres at some thetas."""
        return np.asarray(self._spline(theta / self._unit)).reshape(len(theta), *self._shape)


class _Known(NamedTuple):
    """Rows of theta to draw from, and members given some points."""

    rows: Int[np.ndarray, " rows"]
    """Which points the rows are."""
    place: Int[np.ndarray, " rows"]
    """At which of the points with members, each row or the nearest to it."""
    members: DrawnMembers | None
    """Members given points; ``None`` where there are none."""


@dataclass(frozen=True)
class NestedPosterior(Posterior):
    """Points of theta with weights, and the members' moments given each.

    Means and sds are sums over both. Draws take theta from its points, by weight, and every member
    from the law given theta with the mean, covariance and skewness that the nodes give it; where
    members are normal given theta that law is exact. Where it is dear it is had at some of the
    points, and at others taken from the nearest, its mean by a spline. Means of scalars that depend
    on several members, and correlations of scalars of the same member, are those of 10,000 draws.

    Parameters
    ----------
    density
        log p(y, theta), and members given theta.
    integral
        The points of theta.
    """

    density: ThetaDensity
    integral: Integral

    @override
    def mean(self) -> Sites:
        return self._by_site(self._moments[0])

    @override
    def sd(self) -> Sites:
        return self._by_site(self._moments[1])

    @override
    def mcse_mean(self) -> Sites:
        return self._by_site(self._moments[2])

    @override
    def mcse_sd(self) -> Sites:
        return self._by_site(self._moments[3])

    @override
    def tails(self) -> Sites:
        shapes = self.integral.tails
        if shapes is None:
            return {}
        return {n: v for n, v in self._by_site(shapes).items() if not np.isnan(v).all()}

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Means, sds and their errors, of all scalars."""
        found, reference = self.integral, self.density.place.reference
        mean, sd = found.mean + reference, np.array(found.sd)
        errors = [np.array(found.mean_error), np.array(found.sd_error)]
        if (several := self._several).any():
            drawn = self._drawn[:, several]
            mean[several], sd[several] = drawn.mean(0), drawn.std(0, ddof=1)
            errors[0][several], errors[1][several] = errors_of_draws(drawn)
        return mean, sd, errors[0], errors[1]

    @property
    def _several(self) -> Bool[np.ndarray, " scalars"]:
        return np.asarray(self.density.owner == OF_SEVERAL)

    def _by_site(self, values: Float[np.ndarray, " scalars"]) -> Sites:
        sites, first = {}, 0
        for site in self.density.target.quantities:
            sites[site.name] = values[first : first + site.size].reshape(site.shape)
            first += site.size
        return sites

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        numbers = self._by_site(np.arange(self.density.owner.size))
        which = np.concatenate([numbers[name].ravel() for name in sites]).astype(int)
        found, sd = self.integral, self._moments[1][which]
        away = found.swept.mean[:, which] - found.mean[which]
        w = np.where(np.isneginf(found.swept.log_p), 0.0, found.weights)
        away = np.where(w[:, None] != 0, away, 0.0)
        cov = (away * w[:, None]).T @ away
        np.fill_diagonal(cov, sd**2)
        owner = self.density.owner[which]
        together = (
            (owner[:, None] == owner) & (owner[:, None] >= 0) & ~np.eye(len(which), dtype=bool)
        )
        together |= (owner[:, None] == OF_SEVERAL) | (owner == OF_SEVERAL)
        np.fill_diagonal(together, False)
        some = together.any(axis=1)
        if some.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                drawn = np.nan_to_num(np.corrcoef(self._drawn[:, which[some]], rowvar=False))
            scaled = np.atleast_2d(drawn) * np.outer(sd[some], sd[some])
            place = np.ix_(some, some)
            cov[place] = np.where(together[place], scaled, cov[place])
        return cov

    # -- draws -------------------------------------------------------------------------------------

    @override
    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        return self.density.target.constrain(self.unconstrained_draws(num_draws, key))

    def unconstrained_draws(self, num_draws: int, key: jax.Array) -> Float[np.ndarray, "draws dim"]:
        """Return draws of the flat unconstrained vector."""
        rng, density, known = generator(key), self.density, self._known
        orders = [rng.permutation(len(known.rows)) for _ in range(-(-num_draws // len(known.rows)))]
        chosen = np.concatenate(orders)[:num_draws]
        theta = self.integral.theta[known.rows[chosen]]
        return joined(density, theta, known.members, known.place[chosen], rng)

    @cached_property
    def _known(self) -> _Known:
        """Points of theta by weight, systematically resampled, and the members given them.

        Where members are dear they are had at fewer points, and between these by interpolation:
        draws of theta at so few points would have other moments than the posterior.
        """
        found, density = self.integral, self.density
        rows = found.some(NUM_ROWS)
        distinct, back = np.unique(rows, return_inverse=True)
        kept = max(density.size, density.of_members)
        count = int(np.clip(MAX_WORK // kept, FEWEST_KNOWN, MOST_KNOWN))
        if len(distinct) <= count or not density.has_members:
            return _Known(rows, back, members_at(density, found.theta[distinct]))
        theta = found.theta[np.unique(found.some(count))]
        members = members_at(density, theta)
        assert members is not None
        unit = found.theta[rows].std(0)
        near = cKDTree(theta / unit).query(found.theta[distinct] / unit)[1]
        if len(theta) > 2 * density.dim:  # a plane through fewer may not be held
            members = members._replace(between=CentresBetween(theta, members.centre, unit))
        return _Known(rows, near[back], members)

    @cached_property
    def _drawn(self) -> Float[np.ndarray, "draws scalars"]:
        """Draws of all scalars, for what points and nodes do not give."""
        count = int(np.clip(2 * MAX_WORK // self.density.owner.size, 1_000, NUM_DRAWS))
        values = self.draws(count, jax.random.key(20_164))
        sites = self.density.target.quantities
        return np.concatenate([values[s.name].reshape(count, -1) for s in sites], axis=1)


def members_at(density: ThetaDensity, theta: Float[np.ndarray, "rows G"]) -> DrawnMembers | None:
    """Return what draws of members are made of, given rows of theta; ``None`` without members.

    It is made once a row, of which there may be far fewer than draws.
    """
    if not density.has_members:
        return None
    given = density.known(theta)
    if isinstance(density, WideDensity | CrossedDensity):
        return DrawnMembers(given, given.modes, None, None)
    axes = np.asarray(given.axes)
    if density.is_normal:
        return DrawnMembers(given, given.modes, axes, None)
    shape = shape_of(np.asarray(given.moments), density.split.width)
    centre = given.modes + np.einsum("btij,btj->bti", axes, shape.mean)
    return DrawnMembers(given, centre, axes @ shape.root, shape.bend)


def joined(
    density: ThetaDensity,
    theta: Float[np.ndarray, "draws G"],
    members: DrawnMembers | None,
    place: Int[np.ndarray, " draws"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "draws dim"]:
    """Return flat vectors of theta with members drawn given it, unconstrained scale.

    From the law with the mean, covariance and skewness that the nodes give; where members are
    normal given theta that law is exact.

    Parameters
    ----------
    density
        Whose members.
    theta
        Draws of theta.
    members, place
        Members given some points of theta, ``None`` where there are none, and which of the points
        each draw is at.
    rng
        Of the draws.
    """
    split = density.split
    flat = np.zeros((len(theta), density.target.dim))
    flat[:, split.border] = theta
    if members is None:
        return flat
    if isinstance(density, WideDensity | CrossedDensity):
        away = density.displaced(theta, members.given, place, rng)
        flat[:, split.local[0]] = members.centre_at(theta, place)[:, 0] + away
        return flat
    assert members.root is not None
    piece = max(1, PIECE // split.local.size)
    for first in range(0, len(theta), piece):
        at = place[first : first + piece]
        noise = rng.standard_normal((len(at), *split.local.shape))
        if members.bend is not None:
            noise = bent(noise, members.bend[at])
        if split.width == 1:  # the same without matrices, of which there may be millions
            turned = members.root[at, ..., 0] * noise
        else:
            turned = np.einsum("btij,btj->bti", members.root[at], noise)
        centre = members.centre_at(theta[first : first + piece], at)
        flat[first : first + piece][:, split.local] = centre + turned
    return flat


class DrawShape(NamedTuple):
    """What makes numbers with given moments of standard normals n: mean + root b(n)."""

    mean: Float[np.ndarray, "rows members d"]
    root: Float[np.ndarray, "rows members d d"]
    bend: Float[np.ndarray, "rows members d"]
    """a of b(n) = (n + a (n^2 - 1)) / sqrt(1 + 2 a^2)."""


def bent(
    noise: Float[np.ndarray, "draws members d"], bend: Float[np.ndarray, "draws members d"]
) -> Float[np.ndarray, "draws members d"]:
    """Return standard normals with a skewness, mean 0 and sd 1; see :class:`DrawShape`."""
    return np.asarray((noise * (1 + bend * noise) - bend) / np.sqrt(1 + 2 * bend**2))


def shape_of(moments: Float[np.ndarray, "rows members powers"], d: int) -> DrawShape:
    """Return the shape that has some means, covariances, and skewness along whitened axes.

    Parameters
    ----------
    moments
        Of the monomials of degree 1 to 3, as :func:`powers` orders them.
    d
        Coordinates of a member.
    """
    if d == 1:
        first, second, third = (moments[..., i, None] for i in range(3))
        sd = np.sqrt(second - first**2)
        skew = (third - 3 * first * second + 2 * first**3) / sd**3
        return DrawShape(first, sd[..., None], _bend(skew))
    place = {tuple(p): i for i, p in enumerate(powers(d).tolist())}

    def moment(*axes: int) -> np.ndarray:
        return np.asarray(moments[..., place[tuple(np.bincount(axes, minlength=d))]])

    each = range(d)
    mean = np.stack([moment(i) for i in each], axis=-1)
    cov = np.empty((*mean.shape, d))
    third = np.empty((*mean.shape, d, d))
    for i in each:
        for j in each:
            cov[..., i, j] = moment(i, j) - mean[..., i] * mean[..., j]
            for k in each:
                a, b, c = mean[..., i], mean[..., j], mean[..., k]
                pairs = a * moment(j, k) + b * moment(i, k) + c * moment(i, j)
                third[..., i, j, k] = moment(i, j, k) - pairs + 2 * a * b * c
    root = np.linalg.cholesky(cov)
    whiten = np.linalg.inv(root)
    skew = np.einsum("...ai,...aj,...ak,...ijk->...a", whiten, whiten, whiten, third)
    return DrawShape(mean, root, _bend(skew))


def _bend(skew: np.ndarray) -> np.ndarray:
    """Return a with which n + a (n^2 - 1) has this skewness."""
    skew = np.clip(skew, -MOST_SKEW, MOST_SKEW)
    a = skew / 6
    for _ in range(8):
        v = 1 + 2 * a**2
        top, root = 6 * a + 8 * a**3, v * np.sqrt(v)
        slope = ((6 + 24 * a**2) * v - 6 * a * top) / (v * root)
        a = a - (top / root - skew) / slope
    return np.asarray(a)
