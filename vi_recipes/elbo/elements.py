"""The expected log density of every element of one site, by a sum over the nodes of its sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.elbo.factors import Factors
from vi_recipes.elbo.held import AffineArrays, Held, SingleArrays
from vi_recipes.elbo.integral import Outside, RandomSource, integrate
from vi_recipes.elbo.plan import Affine, Gather, Plan, Single
from vi_recipes.model import Arrays, Target, site_terms


class Placed(NamedTuple):
    """The factors' parameters, and where they place their nodes.

    Parameters
    ----------
    eta
        Shape (dim, 2).
    centre, spread
        Of the nodes of every coordinate, shape (dim,): see :meth:`Factors.placement`.
    """

    eta: jax.Array
    centre: jax.Array
    spread: jax.Array


class GatherPlace(NamedTuple):
    """A coordinate that elements gather: which of the source's, of which source."""

    source: int
    gather: int


class Shift(NamedTuple):
    """What is added to the parameters of the coordinate that every element gathers.

    Parameters
    ----------
    location, log_scale
        Shape of the site.
    """

    location: jax.Array
    log_scale: jax.Array


class ElementIntegral:
    """The expected log density of every element of a site, as a pure function of the factors.

    Parameters
    ----------
    target, factors
        The model and the laws.
    plan
        How the site is treated; it has sources.
    """

    def __init__(self, target: Target, factors: Factors, plan: Plan) -> None:
        self.target, self.factors, self.plan = target, factors, plan
        shape = plan.shape or ()
        self.shape = shape if target.spread is None else target.spread.whole(shape)
        # derivatives are taken of one traced function, not of the model again and again
        self._traced = jax.jit(self._at_node)

    def __call__(
        self,
        placed: Placed,
        held: Held,
        *,
        live: bool = False,
        moves: Mapping[GatherPlace, Shift] | None = None,
    ) -> Float[Array, "*shape"]:
        """Integrate over the sources.

        Parameters
        ----------
        placed
            The factors' parameters.
        held
            Arrays and nodes.
        live
            Reads inputs and their slopes off the model again, so that they can be differentiated
            in the data.
        moves
            Added to the parameters of what elements gather.
        """
        site, nodes = held.sites[self.plan.name], held.nodes[self.plan.name]
        sources: list[RandomSource] = []
        for k, (source, arrays) in enumerate(zip(self.plan.sources, site.sources, strict=True)):
            if isinstance(source, Affine):
                assert isinstance(arrays, AffineArrays)
                if live:
                    arrays = self._read_again(source, placed, held.arrays)
                moved = {place.gather: m for place, m in (moves or {}).items() if place.source == k}
                mean, variance = affine_moments(source, arrays, placed, self.shape, moved)
                sources.append(RandomSource(mean, variance, None, moved=True))
            else:
                assert isinstance(arrays, SingleArrays)
                sources.append(self._law(source, placed, arrays.coordinate))
        outside = Outside({} if live else site.leaves, site.start, held.arrays)
        if not live:  # derivatives in what is seen of the sources alone
            return site.weight * integrate(self._traced, sources, outside, nodes, self.shape)

        rooted = [source.rooted() for source in sources]

        def at(x: jax.Array) -> jax.Array:
            return self._traced([s.seen(x[k]) for k, s in enumerate(rooted)], x, outside)

        values = jax.lax.map(jax.checkpoint(at), nodes.x)
        return site.weight * jnp.tensordot(nodes.w, values, axes=1)

    def _law(self, source: Single, placed: Placed, coordinate: jax.Array) -> RandomSource:
        """Return a scalar latent per element by its law; if that is normal, by its value alone."""
        place = self.target.slices[source.site]
        if self.factors.gaussian[place].all():
            return RandomSource(placed.centre[place], placed.spread[place], coordinate, moved=True)
        return RandomSource(placed.eta[place, 0], placed.eta[place, 1], coordinate, moved=False)

    def _read_again(self, source: Affine, placed: Placed, arrays: Arrays) -> AffineArrays:
        """Return the arrays of an affine source as a function of the data."""
        plan, shape, m = self.plan, self.shape, placed.centre

        def look(z: jax.Array) -> jax.Array:
            leaves = site_terms(self.target, z, arrays)[plan.name].leaves
            less = 0.0 if source.minus is None else leaves[source.minus]
            return jnp.broadcast_to(leaves[source.leaf] - less, shape)

        def along(direction: jax.Array | np.ndarray) -> jax.Array:
            return jax.jvp(look, (m,), (jnp.asarray(direction),))[1]

        units = np.zeros((len(source.columns), m.size))
        units[np.arange(len(units)), source.columns] = 1.0
        slopes = jax.lax.map(along, units) if len(units) else jnp.zeros((0,))
        gathers = []
        places = list(self.target.slices.values())
        homes = [
            next(p for p in places if p.start <= np.ravel(g.coordinate)[0] < p.stop)
            for g in source.gathers
        ]
        for gather, home in zip(source.gathers, homes, strict=True):
            if homes.count(home) == 1:
                direction = np.zeros(m.size)
                direction[home] = 1.0
                gathers.append(Gather(along(direction), gather.coordinate))
            else:  # two scalars of one site: their slopes cannot be told apart by one direction
                gathers.append(Gather(jnp.asarray(gather.slope), gather.coordinate))
        # the offset is what makes the mean at m that of the model itself
        centred = AffineArrays(jnp.zeros(shape), slopes, gathers)
        mean, _ = affine_moments(source, centred, placed, shape)
        return AffineArrays(look(m) - mean, slopes, gathers)

    def _at_node(
        self,
        seen: list[list[jax.Array]],
        x: Float[Array, " sources"],
        outside: Outside,
    ) -> Float[Array, "*shape"]:
        """Return the elementwise log density at one node, from what is seen of every source."""
        inputs: dict[int, jax.Array] = {}
        log_weight: jax.Array | None = None
        for k, (source, parts) in enumerate(zip(self.plan.sources, seen, strict=True)):
            if isinstance(source, Affine):
                (inputs[source.leaf],) = parts
                if source.minus is not None:
                    inputs[source.minus] = jnp.zeros(self.shape)
                continue
            if len(parts) == 1:
                points = parts[0]
            else:
                p, q = parts
                points, ratio = self._weighed(source, p, q, x[k])
                log_weight = ratio if log_weight is None else log_weight + ratio
            inputs |= self._at_points(source, points, outside)
        site = site_terms(self.target, outside.start, outside.arrays)[self.plan.name]
        leaves = [
            inputs[j]
            if j in inputs
            else outside.leaves[j]
            if j in outside.leaves
            else site.leaves[j]
            for j in range(len(site.leaves))
        ]
        value = jnp.broadcast_to(site.rebuild(leaves), self.shape)
        return value if log_weight is None else value * jnp.exp(log_weight)

    def _weighed(
        self, source: Single, p: jax.Array, q: jax.Array, x: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return a scalar latent's values at a node, and log weights of its law for elements."""
        place = self.target.slices[source.site]
        laws = Factors(self.factors.code[place], self.factors.offset[place])
        points, ratio = laws.place(jnp.stack([p, q], axis=1), jnp.full(p.shape, x))
        return points, ratio[source.index]

    def _at_points(
        self, source: Single, points: jax.Array, outside: Outside
    ) -> dict[int, jax.Array]:
        """Return the inputs that see a scalar latent, where its values are ``points``."""
        z = outside.start.at[self.target.slices[source.site]].set(points)
        leaves = site_terms(self.target, z, outside.arrays)[self.plan.name].leaves
        return {j: jnp.broadcast_to(leaves[j], self.shape) for j in source.leaves}


def affine_moments(
    source: Affine,
    arrays: AffineArrays,
    placed: Placed,
    shape: tuple[int, ...],
    moves: Mapping[int, Shift] | None = None,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Return mean and variance of a source that is affine in normal factors, of every element."""
    m, s = placed.centre, placed.spread
    mean = jnp.broadcast_to(arrays.offset, shape)
    variance = jnp.zeros(shape)
    if source.columns:
        columns = np.asarray(source.columns)
        mean = mean + jnp.tensordot(m[columns], arrays.slopes, axes=1)
        variance = variance + jnp.tensordot(s[columns] ** 2, arrays.slopes**2, axes=1)
    for k, (slope, coordinate) in enumerate(arrays.gathers):
        here, its_variance = m[coordinate], (s**2)[coordinate]
        if moves and k in moves:
            here = here + moves[k].location
            its_variance = its_variance * jnp.exp(2 * moves[k].log_scale)
        mean = mean + slope * here
        variance = variance + slope**2 * its_variance
    return mean, variance
