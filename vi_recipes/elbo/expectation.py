"""The expected log joint density under a mean-field law, site by site.

The log density of a site's element sees a few scalar inputs: its value, and the parameters of its
distribution as functions of the latent sites. Inputs that are affine in normal factors are normal
themselves, whatever the number of latents they add up; inputs that depend on one scalar latent
follow its law. A few such independent sources make the expectation a small Gauss-Hermite sum,
vectorised over elements. What fits neither is averaged over fixed draws in antithetic pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vi_recipes.algebra import SecondOrder, parabola, second_order_beside
from vi_recipes.elbo.elements import ElementIntegral, GatherPlace, Placed, Shift
from vi_recipes.elbo.factors import Factors
from vi_recipes.elbo.held import AffineArrays, Held, HeldNodes, SingleArrays, SiteArrays
from vi_recipes.elbo.plan import Affine, Gather, Plan, Single
from vi_recipes.model import Arrays, Target, site_terms

CHECK_NODES = 6
"""Nodes by which it is checked that two were exact."""


class Expectation:
    """The expected log joint density as a pure function of the factors' parameters.

    Parameters
    ----------
    target, factors, plans
        The model, the laws, and how each site is treated.
    start
        A point of finite density: where latents stand that an input does not depend on.
    """

    def __init__(
        self,
        target: Target,
        factors: Factors,
        plans: Sequence[Plan],
        start: Float[np.ndarray, " dim"],
    ) -> None:
        self.target, self.factors, self.plans = target, factors, plans
        self.start = start
        self._elementwise = {p.name: ElementIntegral(target, factors, p) for p in plans}
        # derivatives are taken of one traced function, not of the model again and again
        self._drawn_density = jax.jit(self._sum_of_drawn)
        self._whole_density = jax.jit(self._total, static_argnums=0)

    @property
    def drawn(self) -> list[str]:
        """Sites whose expectation is taken over draws."""
        return [plan.name for plan in self.plans if plan.draws]

    # -- what it takes in --------------------------------------------------------------------------

    def site_arrays(self) -> dict[str, SiteArrays]:
        """Return the arrays of the sites that are integrated by quadrature."""
        return {
            plan.name: SiteArrays(
                {j: self.target.place(leaf) for j, leaf in plan.constants.items()},
                [self._source_arrays(source, plan.shape or ()) for source in plan.sources],
                self.target.place(plan.weight),
                jax.device_put(self.start),
            )
            for plan in self.plans
            if not plan.draws
        }

    def nodes(self, num_nodes: int, room: int, exact_nodes: int = 2) -> dict[str, HeldNodes]:
        """Return the nodes of every site that is integrated by quadrature.

        ``num_nodes`` per source that needs them, two for one in which the density is quadratic,
        which is exact (more, to check that it is), and one for what has no spread. The arrays have
        room for ``room`` per source, so that the number of nodes can change without compiling
        again.
        """
        out = {}
        for plan in self.plans:
            if plan.draws:
                continue
            sizes = [
                self._counts(s.coordinates(), s, num_nodes, room, exact_nodes) for s in plan.sources
            ]
            sizes += [self._counts([np.array([k])], None, num_nodes, room, 0) for k in plan.whole]
            counts = [count for count, _ in sizes]
            rules = [np.polynomial.hermite_e.hermegauss(n) for n in counts]
            grids = np.meshgrid(*(rule[0] for rule in rules), indexing="ij")
            weights = np.meshgrid(*(rule[1] / rule[1].sum() for rule in rules), indexing="ij")
            used = int(np.prod(counts))
            most = int(np.prod([space for _, space in sizes]))
            x, w = np.zeros((most, len(counts))), np.zeros(most)
            x[:used] = np.stack([g.ravel() for g in grids], axis=1) if counts else 0.0
            w[:used] = np.prod([g.ravel() for g in weights], axis=0) if counts else 1.0
            out[plan.name] = HeldNodes(*jax.device_put((x, w, np.asarray(used))))
        return out

    def _counts(
        self,
        coordinates: list[np.ndarray],
        source: Affine | Single | None,
        num_nodes: int,
        room: int,
        exact_nodes: int,
    ) -> tuple[int, int]:
        """Return how many nodes a source needs, and how many there is room for."""
        if self.factors.points[np.concatenate(coordinates)].all():
            return 1, 1
        if isinstance(source, Affine) and source.quadratic:
            return exact_nodes, CHECK_NODES
        return num_nodes, room

    def _source_arrays(
        self, source: Affine | Single, shape: tuple[int, ...]
    ) -> AffineArrays | SingleArrays:
        place = self.target.place
        if isinstance(source, Single):
            return SingleArrays(place(source.index))
        slopes = (
            np.stack([np.broadcast_to(s, shape) for s in source.slopes])
            if source.slopes
            else np.zeros((0,))
        )
        gathers = [
            Gather(place(g.one_slope), place(np.asarray(g.coordinate))) for g in source.gathers
        ]
        return AffineArrays(place(source.offset), place(slopes, 1), gathers)

    # -- taking it ---------------------------------------------------------------------------------

    def __call__(
        self, eta: Float[Array, "dim 2"], held: Held, *, live: bool = False
    ) -> Float[Array, ""]:
        """Return the part of E_q[log p(y, z)] that is taken by quadrature.

        ``live`` makes it differentiable in the data too.
        """
        placed = self._placed(eta)
        total = jnp.zeros(())
        for plan in self.plans:
            if plan.draws:
                continue
            if plan.whole or not plan.sources:
                total = total + self._whole(plan, placed, held)
            else:
                total = total + jnp.sum(self._elementwise[plan.name](placed, held, live=live))
        return total

    def _placed(self, eta: jax.Array) -> Placed:
        return Placed(eta, *self.factors.placement(eta))

    def elements(self, name: str, eta: Float[Array, "dim 2"], held: Held) -> Float[Array, "*shape"]:
        """Return the expected log density of every element of one site.

        Raises
        ------
        ValueError
            For a site whose density is not a sum over elements, and rows that lie elsewhere.
        """
        self.target.check_undivided()
        plan = next(plan for plan in self.plans if plan.name == name)
        if plan.sources:
            return self._elementwise[name](self._placed(eta), held)
        if not plan.draws:
            raise ValueError(f"site '{name}' is integrated as a whole, and has no elements")

        def pair(x: jax.Array) -> jax.Array:
            parts = []
            for sign in (1.0, -1.0):
                z, log_weight = self.factors.place(eta, sign * x)
                value = self.target.log_likelihood_fn(z, held.arrays)[name]
                parts.append(value * jnp.exp(jnp.sum(log_weight)))
            return (parts[0] + parts[1]) / 2

        return jnp.mean(jax.lax.map(pair, held.noise), axis=0)

    def pair(
        self,
        eta: Float[Array, "dim 2"],
        noise: Float[Array, " dim"],
        arrays: Arrays,
        known: SecondOrder | None = None,
    ) -> Float[Array, ""]:
        """Return the log density of the other sites, averaged over an antithetic pair.

        ``known`` is that density at both points, one of those that :meth:`expand` returns: two
        derivatives of the result are then had without differentiating the model's code.
        """

        def one(x: jax.Array, known: SecondOrder | None) -> jax.Array:
            z, log_weight = self.factors.place(eta, x)
            value = self._drawn_density(z, arrays) if known is None else parabola(known, z)
            return value if self.factors.gaussian.all() else value * jnp.exp(jnp.sum(log_weight))

        return jnp.mean(jax.vmap(one)(jnp.stack([noise, -noise]), known))

    def expand(
        self, eta: Float[Array, "dim 2"], noise: Float[Array, "pairs dim"], arrays: Arrays
    ) -> SecondOrder:
        """Return the log density of the drawn sites to second order, in forward mode alone.

        At both points of every pair: arrays have two leading dimensions, (pairs, 2).
        """

        def at(x: jax.Array) -> SecondOrder:
            z, _ = self.factors.place(eta, x)
            return second_order_beside(lambda z: (self._drawn_density(z, arrays), None), z)

        both = jnp.stack([noise, -noise], axis=1)
        found = jax.lax.map(at, both.reshape(-1, noise.shape[1]))
        return jax.tree.map(lambda v: v.reshape(*both.shape[:2], *v.shape[1:]), found)

    def _sum_of_drawn(self, z: Float[Array, " dim"], arrays: Arrays) -> Float[Array, ""]:
        sites = site_terms(self.target, z, arrays)
        return sum((sites[name].total for name in self.drawn), jnp.zeros(()))

    def _total(self, name: str, z: Float[Array, " dim"], arrays: Arrays) -> Float[Array, ""]:
        return site_terms(self.target, z, arrays)[name].total

    def _whole(self, plan: Plan, placed: Placed, held: Held) -> Float[Array, ""]:
        """Integrate a site's whole density over the scalars it depends on."""
        where = np.asarray(plan.whole, int)
        start, nodes = held.sites[plan.name].start, held.nodes[plan.name]
        nothing = jnp.zeros_like(placed.centre)

        def at(x: jax.Array) -> jax.Array:
            points, log_weight = self.factors.place(placed.eta, nothing.at[where].set(x))
            z = start.at[where].set(points[where])
            value = self._whole_density(plan.name, z, held.arrays)
            return value * jnp.exp(jnp.sum(log_weight[where]))

        return jnp.sum(nodes.w * jax.vmap(at)(nodes.x)) if where.size else at(nodes.x[0])

    # -- where elements couple coordinates ---------------------------------------------------------

    def couplings(self, eta: Float[Array, "dim 2"], held: Held) -> list[Float[Array, "_ 2 2"]]:
        """Return the second derivatives between coordinates that elements gather, element-wise.

        One array of shape (elements, 2, 2) for each of :attr:`gathered_pairs`.
        """
        placed = self._placed(eta)
        return [
            self._coupling(plan, first, second, placed, held)
            for plan, first, second in self._gathered_places()
        ]

    def _coupling(
        self, plan: Plan, first: GatherPlace, second: GatherPlace, placed: Placed, held: Held
    ) -> Float[Array, "elements 2 2"]:
        shape = self._elementwise[plan.name].shape
        zero, ones = jnp.zeros(shape), jnp.ones(shape)

        def move(parameter: int, by: jax.Array) -> Shift:
            return Shift(by, zero) if parameter == 0 else Shift(zero, by)

        def bend(c: int, d: int) -> jax.Array:
            def by_second(a: jax.Array) -> jax.Array:
                def value(b: jax.Array) -> jax.Array:
                    moves = {first: move(c, a), second: move(d, b)}
                    return self._elementwise[plan.name](placed, held, moves=moves)

                return jax.jvp(value, (zero,), (ones,))[1]

            return jax.jvp(by_second, (zero,), (ones,))[1].ravel()

        block = [jnp.stack([bend(c, d) for d in range(2)], axis=-1) for c in range(2)]
        return jnp.stack(block, axis=-2)

    @property
    def gathered_pairs(
        self,
    ) -> list[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]]:
        """Pairs of coordinates, one of each array, that an element of a site gathers."""
        return [
            (_gathered(plan, first), _gathered(plan, second))
            for plan, first, second in self._gathered_places()
        ]

    def _gathered_places(self) -> list[tuple[Plan, GatherPlace, GatherPlace]]:
        pairs = []
        for plan in self.plans:
            places = [
                GatherPlace(k, j)
                for k, source in enumerate(plan.sources)
                if isinstance(source, Affine)
                for j in range(len(source.gathers))
            ]
            pairs += [(plan, a, b) for a, b in combinations(places, 2)]
        return pairs


def _gathered(plan: Plan, place: GatherPlace) -> np.ndarray:
    """Return which coordinate every element of a site gathers."""
    source = plan.sources[place.source]
    assert isinstance(source, Affine)
    return np.broadcast_to(source.gathers[place.gather].coordinate, plan.shape or ()).ravel()
