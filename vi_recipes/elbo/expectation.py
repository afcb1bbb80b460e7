"""The expected log joint density under a mean-field law, site by site.

The log density of a site's element sees a few scalar inputs: its value, and the parameters of its
distribution as functions of the latent sites. Inputs that are affine in normal factors are normal
themselves, whatever the number of latents they add up; inputs that depend on one scalar latent
follow its law. A few such independent sources make the expectation a small Gauss-Hermite sum,
vectorised over elements. What fits neither is averaged over fixed draws in antithetic pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.elbo.factors import Factors
from vi_recipes.elbo.integral import _integral
from vi_recipes.elbo.plan import (
    Affine,
    Plan,
    Single,
    fixed_index,
)
from vi_recipes.model import Arrays, Target, site_terms

FEW = 256
"""Sites of up to so many elements are differentiated as they are written: quicker to compile."""


CHECK_NODES = 6
"""Nodes by which it is checked that two were exact."""


Moves = Mapping[tuple[int, int], tuple[jax.Array, jax.Array]]
"""(source, gather) -> what is added to the location and the log scale of every element's own."""


# -- taking it -------------------------------------------------------------------------------------


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
        self, target: Target, factors: Factors, plans: list[Plan], start: np.ndarray
    ) -> None:
        self.target, self.factors, self.plans = target, factors, plans
        self.start = start

    @property
    def drawn(self) -> list[str]:
        """Sites whose expectation is taken over draws."""
        return [plan.name for plan in self.plans if plan.draws]

    def constants(self) -> dict[str, Any]:
        """Return the arrays that the plans hold, to be passed to :meth:`__call__`."""
        out: dict[str, Any] = {}
        for plan in self.plans:
            if plan.draws:
                continue
            sources: list[Any] = []
            for source in plan.sources:
                if isinstance(source, Affine):
                    slopes = (
                        np.stack([np.broadcast_to(s, plan.shape or ()) for s in source.slopes])
                        if source.slopes
                        else np.zeros((0,))
                    )
                    gathers = [(_scalar(c), np.asarray(i)) for c, i in source.gathers]
                    sources.append((source.offset, slopes, gathers))
                else:
                    sources.append((np.asarray(source.index),))
            out[plan.name] = (plan.constants, sources, plan.weight, self.start)
        return out

    def nodes(
        self, num_nodes: int, room: int, exact_nodes: int = 2
    ) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
        """Return nodes, weights and their number for every site.

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
            out[plan.name] = x, w, used
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

    def __call__(
        self,
        eta: jax.Array,
        constants: dict[str, Any],
        nodes: dict[str, tuple[jax.Array, jax.Array, jax.Array]],
        arrays: Arrays,
        live: bool = False,
    ) -> jax.Array:
        """Return the part of E_q[log p(y, z)] that is taken by quadrature."""
        m, s = self.factors.placement(eta)
        total = jnp.zeros(())
        for plan in self.plans:
            if plan.draws:
                continue
            x, w, count = nodes[plan.name]
            if plan.whole or not plan.sources:
                total = total + self._whole(plan, eta, m, constants[plan.name][-1], x, w, arrays)
            else:
                elements = self._elements(
                    plan, eta, m, s, constants[plan.name], x, w, count, arrays, live
                )
                total = total + jnp.sum(elements)
        return total

    def elements(
        self,
        name: str,
        eta: jax.Array,
        constants: dict[str, Any],
        nodes: dict[str, tuple[jax.Array, jax.Array, jax.Array]],
        noise: jax.Array,
        arrays: Arrays,
    ) -> jax.Array:
        """Return the expected log density of every element of one site.

        Raises
        ------
        ValueError
            For a site whose density is not a sum over elements.
        """
        m, s = self.factors.placement(eta)
        plan = next(plan for plan in self.plans if plan.name == name)
        if plan.sources:
            x, w, count = nodes[name]
            return self._elements(plan, eta, m, s, constants[name], x, w, count, arrays)
        if not plan.draws:
            raise ValueError(f"site '{name}' is integrated as a whole, and has no elements")

        def pair(x: jax.Array) -> jax.Array:
            parts = []
            for sign in (1.0, -1.0):
                z, log_weight = self.factors.place(eta, sign * x)
                value = self.target.log_likelihood_fn(z, arrays)[name]
                parts.append(value * jnp.exp(jnp.sum(log_weight)))
            return (parts[0] + parts[1]) / 2

        return jnp.mean(jax.lax.map(pair, noise), axis=0)

    def couplings(
        self,
        eta: jax.Array,
        constants: dict[str, Any],
        nodes: dict[str, tuple[jax.Array, jax.Array, jax.Array]],
        arrays: Arrays,
    ) -> list[jax.Array]:
        """Return the second derivatives between coordinates that elements gather, element-wise.

        One array of shape (elements, 2, 2) for each of :attr:`gathered_pairs`.
        """
        m, s = self.factors.placement(eta)
        found = []
        for plan, first, second in self._gathered_pairs():
            x, w, count = nodes[plan.name]
            shape = plan.shape or ()

            def value(a: Any, b: Any, plan: Plan = plan, first: Any = first, second: Any = second,
                      x: Any = x, w: Any = w, count: Any = count) -> jax.Array:  # fmt: skip
                moves = {first: a, second: b}
                held = constants[plan.name]
                return self._elements(plan, eta, m, s, held, x, w, count, arrays, False, moves)

            zero = jnp.zeros(shape)
            ones = jnp.ones(shape)

            def bend(c: int, d: int, value: Any = value, zero: Any = zero, ones: Any = ones) -> Any:
                def by_second(a: jax.Array) -> jax.Array:
                    here = tuple(a if k == c else zero for k in range(2))

                    def of(b: jax.Array) -> jax.Array:
                        return value(here, tuple(b if k == d else zero for k in range(2)))

                    return jax.jvp(of, (zero,), (ones,))[1]

                return jax.jvp(by_second, (zero,), (ones,))[1].ravel()

            block = [jnp.stack([bend(c, d) for d in range(2)], axis=-1) for c in range(2)]
            found.append(jnp.stack(block, axis=-2))
        return found

    @property
    def gathered_pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of coordinates, one of each array, that an element of a site gathers."""
        found = []
        for plan, *places in self._gathered_pairs():
            pair = []
            for k, j in places:
                source = plan.sources[k]
                assert isinstance(source, Affine)
                pair.append(np.broadcast_to(source.gathers[j][1], plan.shape or ()).ravel())
            found.append((pair[0], pair[1]))
        return found

    def _gathered_pairs(self) -> list[tuple[Plan, tuple[int, int], tuple[int, int]]]:
        found = []
        for plan in self.plans:
            places = [
                (k, j)
                for k, source in enumerate(plan.sources)
                if isinstance(source, Affine)
                for j in range(len(source.gathers))
            ]
            found += [(plan, a, b) for a, b in combinations(places, 2)]
        return found

    def pair(self, eta: jax.Array, noise: jax.Array, arrays: Arrays) -> jax.Array:
        """Return the log density of the other sites, averaged over an antithetic pair."""

        def one(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            z, log_weight = self.factors.place(eta, x)
            sites = site_terms(self.target, z, arrays)
            value = sum((sites[name].total for name in self.drawn), jnp.zeros(()))
            return value, jnp.sum(log_weight)

        (a, log_a), (b, log_b) = one(noise), one(-noise)
        if self.factors.gaussian.all():
            return (a + b) / 2
        return (a * jnp.exp(log_a) + b * jnp.exp(log_b)) / 2

    def _whole(
        self,
        plan: Plan,
        eta: jax.Array,
        m: jax.Array,
        start: jax.Array,
        x: jax.Array,
        w: jax.Array,
        arrays: Arrays,
    ) -> jax.Array:
        """Integrate a site's whole density over the scalars it depends on."""
        where = np.asarray(plan.whole, int)

        def at(x: jax.Array) -> jax.Array:
            placed, log_weight = self.factors.place(eta, jnp.zeros_like(m).at[where].set(x))
            z = start.at[where].set(placed[where])
            value = site_terms(self.target, z, arrays)[plan.name].total
            return value * jnp.exp(jnp.sum(log_weight[where]))

        return jnp.sum(w * jax.vmap(at)(x)) if where.size else at(x[0])

    def _elements(
        self,
        plan: Plan,
        eta: jax.Array,
        m: jax.Array,
        s: jax.Array,
        constants: Any,
        x: jax.Array,
        w: jax.Array,
        count: jax.Array,
        arrays: Arrays,
        live: bool = False,
        moves: Moves | None = None,
    ) -> jax.Array:
        """Integrate an elementwise density over its sources.

        ``live`` reads inputs and their slopes off the model again, so that they can be
        differentiated in the data. ``moves`` are added to the parameters that a source gathers.
        """
        fixed, held, weight, start = constants
        shape = plan.shape or ()
        if live:
            fixed = {}
        params: list[tuple[jax.Array, jax.Array]] = []
        lifts: list[jax.Array | None] = []
        for k, (source, arrays_held) in enumerate(zip(plan.sources, held, strict=True)):
            if isinstance(source, Affine):
                if live:
                    arrays_held = self._read_again(plan, source, m, arrays)
                moved = {j: move for (i, j), move in (moves or {}).items() if i == k}
                params.append(_affine_moments(source, arrays_held, m, s, shape, moved))
                lifts.append(None)
            else:
                place = self.target.slices[source.site]
                params.append((eta[place, 0], eta[place, 1]))
                lifts.append(arrays_held[0])
        # its derivatives are taken of one traced function, not of the model again and again
        raw = jax.jit(partial(self._raw, plan, shape))
        if np.prod(shape, dtype=int) <= FEW:
            value = jnp.tensordot(
                w, jax.vmap(lambda x: raw(params, x, (fixed, start, arrays)))(x), axes=1
            )
        else:
            value = _integral(raw, params, lifts, (fixed, start, arrays), x, w, count, shape)
        return weight * value

    def _read_again(self, plan: Plan, source: Affine, m: jax.Array, arrays: Arrays) -> Any:
        """Return what :meth:`constants` holds of an affine source, as a function of the data."""
        shape = plan.shape or ()

        def look(z: jax.Array) -> jax.Array:
            leaves = site_terms(self.target, z, arrays)[plan.name].leaves
            less = 0.0 if source.minus is None else leaves[source.minus]
            return jnp.broadcast_to(leaves[source.leaf] - less, shape)

        def along(direction: np.ndarray) -> jax.Array:
            return jax.jvp(look, (m,), (jnp.asarray(direction),))[1]

        units = np.zeros((len(source.columns), m.size))
        units[np.arange(len(units)), source.columns] = 1.0
        slopes = jax.lax.map(along, units) if len(units) else jnp.zeros((0,))
        gathers = []
        places = list(self.target.slices.values())
        homes = [
            next(p for p in places if p.start <= i.flat[0] < p.stop) for _, i in source.gathers
        ]
        for (slope, index), home in zip(source.gathers, homes, strict=True):
            if homes.count(home) == 1:
                direction = np.zeros(m.size)
                direction[home] = 1.0
                gathers.append((along(direction), index))
            else:  # two scalars of one site: their slopes cannot be told apart by one direction
                gathers.append((jnp.asarray(slope), index))
        # the offset is what makes the mean at m that of the model itself
        zero = (jnp.zeros(shape), slopes, gathers)
        mean, _ = _affine_moments(source, zero, m, jnp.ones_like(m), shape)
        return look(m) - mean, slopes, gathers

    def _raw(
        self,
        plan: Plan,
        shape: tuple[int, ...],
        params: list[tuple[jax.Array, jax.Array]],
        x: jax.Array,
        extra: Any,
    ) -> jax.Array:
        """Return the elementwise log density at one node."""
        fixed, start, arrays = extra
        moved: dict[int, jax.Array] = {}
        log_weight: jax.Array | None = None
        for k, (source, (p, q)) in enumerate(zip(plan.sources, params, strict=True)):
            if isinstance(source, Affine):
                moved[source.leaf] = p + q * x[k]
                if source.minus is not None:
                    moved[source.minus] = jnp.zeros(shape)
                continue
            place = self.target.slices[source.site]
            laws = Factors(self.factors.code[place], self.factors.offset[place])
            own = jnp.stack([p, q], axis=1)
            placed, ratio = laws.place(own, jnp.full(p.shape, x[k]))
            z = start.at[place].set(placed)
            leaves = site_terms(self.target, z, arrays)[plan.name].leaves
            for j in source.leaves:
                moved[j] = jnp.broadcast_to(leaves[j], shape)
            if not laws.gaussian.all():
                mine = ratio[fixed_index(plan, k)]
                log_weight = mine if log_weight is None else log_weight + mine
        site = site_terms(self.target, start, arrays)[plan.name]
        leaves = [
            moved[j] if j in moved else fixed[j] if j in fixed else site.leaves[j]
            for j in range(len(site.leaves))
        ]
        value = jnp.broadcast_to(site.rebuild(leaves), shape)
        return value if log_weight is None else value * jnp.exp(log_weight)


def _scalar(values: np.ndarray) -> np.ndarray:
    """Return one number for an array of equal ones."""
    flat = np.asarray(values)
    return flat.flat[0] if flat.size and (flat == flat.flat[0]).all() else flat


def _affine_moments(
    source: Affine,
    held: Any,
    m: jax.Array,
    s: jax.Array,
    shape: tuple[int, ...],
    moves: Mapping[int, tuple[jax.Array, jax.Array]] | None = None,
) -> tuple[jax.Array, jax.Array]:
    offset, slopes, gathers = held
    mean = jnp.broadcast_to(offset, shape)
    variance = jnp.zeros(shape)
    if source.columns:
        columns = np.asarray(source.columns)
        mean = mean + jnp.tensordot(m[columns], slopes, axes=1)
        variance = variance + jnp.tensordot(s[columns] ** 2, slopes**2, axes=1)
    for k, (slope, index) in enumerate(gathers):
        here, spread = m[index], s[index]
        if moves and k in moves:
            here, spread = here + moves[k][0], spread * jnp.exp(moves[k][1])
        mean = mean + slope * here
        variance = variance + slope**2 * spread**2
    positive = variance > 0
    return mean, jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)
