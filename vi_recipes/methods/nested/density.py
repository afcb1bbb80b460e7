"""log p(y, theta) with the members integrated out, and what is known of them given theta.

One compiled program does it all: at rows of theta it finds the members' modes, takes their
integrals and the moments of everything reported, and on request the gradient in theta, by Fisher's
identity: the log joint's own, averaged over p(z | y, theta). Nothing is differentiated through a
mode. The nodes follow one another in a loop whose length is an argument, so more of them, or the
gradient as well, need no other program.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from vi_recipes.core import Timing
from vi_recipes.latent import (
    HALF_LOG_2PI,
    Marginal,
    MemberTerms,
    Search,
    cubature,
    is_bent,
    member_terms,
    newton_move,
    search_modes,
)
from vi_recipes.methods.nested.nodes import MemberNodes, make_nodes, member_nodes
from vi_recipes.methods.nested.owners import owners
from vi_recipes.methods.nested.records import Conditional, SearchStart, ThetaRows
from vi_recipes.model import Arrays, Target

MODE = 1e-6
"""Squared Newton decrement of a member's mode at which its nodes are placed there."""

FOUND = 1e-2
"""Squared Newton decrement up to which a mode is one at all."""

FEW_NODES = 15
"""Nodes that average over the law of a coordinate that is normal given theta."""

AT_ONCE = 2**16
"""Numbers of the data and the members that rows of theta computed side by side read, about."""

FEWEST_AT_ONCE, MOST_AT_ONCE = 2, 32
"""Rows computed side by side: a single one costs as much as all."""

BLOCK = 2**20
"""Numbers that one call returns, about."""


def _first(count: int, values: np.ndarray) -> np.ndarray:
    return values[:count]


class ThetaDensity:
    """log p(y, theta) over the unconstrained parameters, compiled once for a target.

    :class:`~vi_recipes.methods.nested.wide_density.WideDensity` is the same where the
    latent variables are one member of many scalars.

    Parameters
    ----------
    marginal
        The members and how they are integrated over.
    timing
        Charged with compilations and evaluations.
    flat
        Where theta and the members' modes are sought from, shape (dim,).
    """

    def __init__(self, marginal: Marginal, timing: Timing, flat: Float[np.ndarray, " dim"]) -> None:
        self.split, self.timing, self._marginal = marginal.split, timing, marginal
        self.target: Target = marginal.split.target
        self.has_members = self.split.kind == "continuous"
        self.is_laplace = marginal.rule == "quadrature" and marginal.num_nodes == 1
        self.is_normal = marginal.rule == "gaussian" or self.is_laplace
        """Whether members count as normal given theta."""
        self.nodes = self._first_nodes(marginal.num_nodes)
        self.owner = owners(self.split, is_normal=self.is_normal)
        theta = flat[self.split.border]
        local = flat[self.split.local] if self.has_members else np.zeros((0, 1))
        slopes = np.zeros((*local.shape, theta.size))
        self.place = SearchStart(theta, local, slopes, np.zeros(self.owner.size))
        self.size = sum(s.size for s in self.target.observed) + self.split.num_members + 1
        """Numbers of the data and the members, about what one density reads."""
        self.size += self._kept
        self.at_once = int(np.clip(AT_ONCE // self.size, FEWEST_AT_ONCE, MOST_AT_ONCE))
        self.block = self.at_once * max(1, BLOCK // (2 * self.owner.size + 1) // self.at_once)
        self.block = min(self.block, 32 * MOST_AT_ONCE)

    def _first_nodes(self, num_nodes: int) -> MemberNodes:
        d = max(self.split.width, 1)
        return make_nodes(FEW_NODES, d, True) if self.is_normal else member_nodes(num_nodes, d)

    @property
    def _kept(self) -> int:
        """Numbers that a point of theta holds beside."""
        return 0

    @property
    def of_members(self) -> int:
        """Numbers that are known of the members given a point of theta, about."""
        return max(self.split.num_members, 1) * (self.split.width + 1) ** 2

    @property
    def dim(self) -> int:
        """Coordinates of theta."""
        return self.split.border.size

    @property
    def bounded(self) -> Bool[np.ndarray, " G"]:
        """Which of them an edge of their support puts at infinity."""
        return np.asarray(self.target.edged[self.split.border])

    @property
    def units(self) -> Float[np.ndarray, " G"]:
        """Their units: what lengths are measured by."""
        return np.asarray(self.target.units[self.split.border])

    @property
    def is_noisy(self) -> bool:
        """Whether log p(y, theta) is known with noise."""
        return False

    @property
    def work(self) -> int:
        """Numbers read at all nodes of a point of theta, about."""
        return self.size * self.nodes.count

    def describe(self) -> str:
        """Say in a few words how members are integrated over."""
        return replace(self._marginal, num_nodes=self.nodes.num_nodes).describe()

    # -- what users call ---------------------------------------------------------------------------

    def sweep(
        self, rows: Float[np.ndarray, "rows G"], nodes: MemberNodes | None = None
    ) -> ThetaRows:
        """Return the density and the moments of everything reported at rows of theta."""
        parts = []
        for first in range(0, len(rows), self.block):
            part = rows[first : first + self.block]
            found, missed, _ = self._call(part, nodes or self.nodes, moments=True)
            log_p = np.where(missed < FOUND, found.log_p, -np.inf)
            # plus infinity is a normalising constant that was rounded to 0, far out
            log_p = np.where(np.isnan(log_p) | np.isposinf(log_p), -np.inf, log_p)
            parts.append(found._replace(log_p=log_p))
        self.timing.density_evaluations += len(rows)
        return ThetaRows(*(np.concatenate(v) for v in zip(*parts, strict=True)))

    def given(
        self, rows: Float[np.ndarray, "rows G"], *, gradient: bool = False
    ) -> tuple[Float[np.ndarray, " rows"], Conditional]:
        """Return the density at rows of theta, and the members given each of them."""
        self.timing.gradient_evaluations += len(rows) if gradient else 0
        return self._at_rows(rows, gradient=gradient)

    def known(self, rows: Float[np.ndarray, "rows G"]) -> Conditional:
        """Return what draws of the members are made of, given rows of theta."""
        return self.given(rows)[1]

    def misjudges(self, rows: Float[np.ndarray, "rows G"]) -> bool:
        """Whether members that count as normal are not, given some rows of theta.

        They are looked at near the start; one that is made anew after this knows.
        """
        if self._marginal.rule != "gaussian" or not self.has_members:
            return False
        modes = self.given(rows)[1].modes
        return any(
            is_bent(self.split, theta, at, self.timing.compile)
            for theta, at in zip(rows, modes, strict=True)
        )

    def move_to(self, theta: np.ndarray, modes: np.ndarray, slopes: np.ndarray | None) -> None:
        """Seek modes from those at theta from now on, and scalars from their means there."""
        zero = np.zeros_like(self.place.slopes)
        self.place = SearchStart(
            theta, modes, zero if slopes is None else slopes, self.place.reference
        )

    def count_from(self, theta: Float[np.ndarray, " G"]) -> None:
        """Count reported scalars from their means at theta from now on."""
        mean = self.sweep(theta[None]).mean[0]
        self.place = self.place._replace(reference=self.place.reference + np.nan_to_num(mean))

    # -- compiled code -----------------------------------------------------------------------------

    def _at_rows(
        self, rows: np.ndarray, *, moments: bool = False, gradient: bool = False
    ) -> tuple[np.ndarray, Conditional]:
        values, parts = [], []
        for first in range(0, len(rows), self.at_once):
            part = rows[first : first + self.at_once]
            found, missed, last = self._call(part, self.nodes, moments=moments, gradient=gradient)
            values.append(np.where(missed < FOUND, found.log_p, np.nan))
            parts.append(jax.tree.map(partial(_first, len(part)), last))
        conditional = jax.tree.map(lambda *v: np.concatenate(v), *parts)
        return np.concatenate(values), conditional

    def _call(
        self, rows: np.ndarray, nodes: MemberNodes, *, moments: bool, gradient: bool = False
    ) -> tuple[ThetaRows, np.ndarray, Conditional]:
        count = -(-len(rows) // self.at_once)
        padded = np.concatenate([rows, np.repeat(rows[-1:], self.block - len(rows), axis=0)])
        wanted = (np.array(moments), np.array(gradient))
        with jax.enable_x64(True):
            given = jax.tree.map(
                jnp.asarray, (padded, count, nodes.tables, nodes.count, wanted, self.place)
            )
            arrays = self.target.arrays()
            compiled = self.target.compiled_once(
                ("log p(y, theta)", self.split.latents, self._marginal.rule, self.is_laplace),
                lambda: self.timing.compile(self._traced, *given, arrays),
            )
            swept, missed, last = jax.tree.map(np.asarray, compiled(*given, arrays))
        return ThetaRows(*(v[: len(rows)] for v in swept)), missed[: len(rows)], last

    def _traced(
        self,
        rows: jax.Array,
        count: jax.Array,
        tables: tuple[jax.Array, ...],
        num_nodes: jax.Array,
        wanted: tuple[jax.Array, jax.Array],
        place: SearchStart,
        arrays: Arrays,
    ) -> tuple[ThetaRows, jax.Array, Conditional]:
        def some(rows: jax.Array) -> tuple[ThetaRows, jax.Array, Conditional]:
            return self.side_by_side(rows, tables, num_nodes, wanted, place, arrays)

        def step(i: jax.Array, filled: Any) -> Any:
            swept, missed, _ = filled
            first = i * self.at_once
            new, new_missed, last = some(jax.lax.dynamic_slice_in_dim(rows, first, self.at_once))
            put = jax.lax.dynamic_update_slice_in_dim
            swept = jax.tree.map(lambda a, b: put(a, b, first, 0), swept, new)
            return swept, put(missed, new_missed, first, 0), last

        shapes = jax.eval_shape(some, rows[: self.at_once])
        swept, missed = jax.tree.map(
            lambda v: jnp.zeros((self.block, *v.shape[1:]), v.dtype), shapes[:2]
        )
        last = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes[2])
        made: tuple[ThetaRows, jax.Array, Conditional] = jax.lax.fori_loop(
            0, count, step, (swept, missed, last)
        )
        return made

    def _scalars(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> jax.Array:
        """Return every reported scalar, constrained scale."""
        values = self.target.constrain_sites_fn(self.split.sites(theta, z), arrays)
        return jnp.concatenate([values[s.name].ravel() for s in self.target.quantities])

    def side_by_side(
        self,
        thetas: jax.Array,
        tables: tuple[jax.Array, ...],
        num_nodes: jax.Array,
        wanted: tuple[jax.Array, jax.Array],
        place: SearchStart,
        arrays: Arrays,
    ) -> tuple[ThetaRows, jax.Array, Conditional]:
        """Return everything at some rows of theta, and what is missed of the modes; pure."""
        if not self.has_members:
            return self._without_members(thetas, wanted, place, arrays)
        split, (points, log_weights, monomials) = self.split, tables
        starts = place.modes + jnp.einsum("tdg,bg->btd", place.slopes, thetas - place.theta)
        d = split.width
        unit = jnp.broadcast_to(jnp.eye(d), (*starts.shape, d))
        if self.is_normal and not self.is_laplace:
            # seen from afar a quadratic is the difference of two large numbers: step there first
            def step(_: Any, found: tuple[jax.Array, MemberTerms]) -> tuple[jax.Array, MemberTerms]:
                z, terms = found
                z = z + jax.vmap(newton_move)(terms)
                return z, jax.vmap(lambda th, z: member_terms(split, th, z, arrays))(thetas, z)

            flat = MemberTerms(jnp.zeros(starts.shape[:2]), jnp.zeros(starts.shape), unit)
            z, terms = jax.lax.fori_loop(0, 2, step, (starts, flat))
            missed = jnp.zeros(len(thetas))
        else:

            def search(theta: jax.Array, z: jax.Array) -> Search:
                return search_modes(split, theta, z, arrays, MODE, at_kinks=True)

            ends = jax.vmap(search)(thetas, starts)
            # a kink is narrower than the curvature on either side of it
            steep = jnp.einsum("bti,btj->btij", ends.terms.gradient, ends.terms.gradient)
            terms = ends.terms._replace(precision=ends.terms.precision + steep)
            z, missed = ends.z, ends.missed.max(-1)
        if d == 1:
            axes = 1 / jnp.sqrt(terms.precision)
        else:
            root = jnp.linalg.cholesky(terms.precision)
            axes = jax.lax.linalg.triangular_solve(
                root, unit, left_side=True, lower=True, transpose_a=True
            )
        log_scale = jnp.log(jnp.abs(jnp.diagonal(axes, axis1=-2, axis2=-1))).sum(-1)
        if self.is_normal:  # of a quadratic the mode is one Newton step away
            away = jnp.einsum("btij,btkj,btk->bti", axes, axes, terms.gradient)
            short = (terms.gradient * away).sum(-1)
            by_member = terms.value + short / 2 + d * HALF_LOG_2PI
            missed = jnp.maximum(missed, short.max(-1))  # by rounding, where theta is far out
            z, spread = z + away, jnp.sqrt((axes**2).sum(-1))
        else:
            by_member, spread = jnp.zeros(terms.value.shape), jnp.zeros(z.shape)

        def node(x: jax.Array) -> jax.Array:
            if self.is_normal:
                return z + spread * x
            return z + jnp.einsum("btij,j->bti", axes, x)

        owner = np.maximum(self.owner, 0)
        of_member = self.owner >= 0

        def log_joint(z: jax.Array) -> Any:
            of = jax.vmap(lambda th, z: split.elements_traced_once(th, z, arrays))(thetas, z)
            # lest XLA makes the elements as it sums them, one by one
            of = jax.lax.optimization_barrier(of)  # type: ignore[no-untyped-call]
            return jax.vmap(split.gather)(of)

        def scalars(z: jax.Array) -> jax.Array:
            at = jax.vmap(lambda th, z: self._scalars(th, z, arrays))(thetas, z)
            return at - place.reference

        def add(k: jax.Array, sums: Any) -> Any:
            """Add a node, all weights relative to the largest so far."""
            top, mass, rest, first, second, moments = sums
            at = node(points[k])
            if self.is_normal:
                logs = jnp.broadcast_to(log_weights[k], top.shape)
                rest = jnp.zeros_like(rest)
            else:
                joint = log_joint(at)
                logs = joint.members + log_weights[k]
                logs = jnp.where(jnp.isnan(logs), -jnp.inf, logs)
                rest = joint.shared + joint.prior
            new = jnp.maximum(top, logs)
            fade, weight = jnp.exp(top - new), jnp.exp(logs - new)
            moments = fade[..., None] * moments + weight[..., None] * monomials[k]
            mass = fade * mass + weight

            def taken(sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                value = scalars(at)
                w = jnp.where(of_member, weight[:, owner], 1.0)
                old = jnp.where(of_member, fade[:, owner], 1.0)
                return old * sums[0] + w * value, old * sums[1] + w * value**2

            first, second = jax.lax.cond(wanted[0], taken, lambda s: s, (first, second))
            return new, mass, rest, first, second, moments

        rows, size = thetas.shape[0], self.owner.size
        nothing = jnp.full(by_member.shape, -1e300), jnp.zeros(by_member.shape), jnp.zeros(rows)
        none = jnp.zeros((rows, size))
        start = (*nothing, none, none, jnp.zeros((*by_member.shape, monomials.shape[1])))
        top, mass, rest, first, second, moments = jax.lax.fori_loop(0, num_nodes, add, start)
        if self.is_normal:
            joint = log_joint(z)
            rest = joint.shared + joint.prior
        else:
            by_member = top + jnp.log(mass)
            moments = moments / mass[..., None]
        jacobian = jax.vmap(lambda th, z: split.log_jacobian(th, z, arrays))(thetas, z)
        log_p = (by_member + log_scale).sum(-1) + rest + jacobian
        total = jnp.where(of_member, mass[:, owner], 1.0 * num_nodes)
        mean = first / total
        variance = jnp.where(of_member, jnp.maximum(second / total - mean**2, 0.0), 0.0)

        def slope(_: None) -> jax.Array:
            if self.is_normal:
                corners, shares = cubature(d)
                logs = jnp.broadcast_to(jnp.log(jnp.asarray(shares))[:, None], (len(shares), 1))
                return self._gradient(thetas, z, axes, jnp.asarray(corners), logs, None, arrays)
            table = log_weights[:, None], by_member
            return self._gradient(thetas, z, axes, points, *table, arrays, num_nodes)

        gradient = jax.lax.cond(wanted[1], slope, lambda _: jnp.zeros(thetas.shape), None)
        last = Conditional(gradient, z, axes, moments)
        return ThetaRows(log_p, mean, variance, log_p), missed, last

    def _gradient(
        self,
        thetas: jax.Array,
        z: jax.Array,
        axes: jax.Array,
        points: jax.Array,
        log_weights: jax.Array,
        log_mass: jax.Array | None,
        arrays: Arrays,
        num_nodes: Any = None,
    ) -> jax.Array:
        """Return the gradient of the log joint in theta, averaged over the nodes.

        ``log_mass`` normalises the members' own densities at the nodes; ``None`` where the weights
        are those of a normal already.
        """
        split = self.split
        count = len(points) if num_nodes is None else num_nodes

        def terms(theta: jax.Array, z: jax.Array) -> Any:
            joint = split.log_joint(theta, z, arrays)
            rest = joint.shared + joint.prior + split.log_jacobian(theta, z, arrays)
            return joint.members, rest

        def add(k: jax.Array, total: jax.Array) -> jax.Array:
            at = z + jnp.einsum("btij,j->bti", axes, points[k])

            def of(theta: jax.Array, z: jax.Array, mass: jax.Array | None) -> jax.Array:
                (members, rest), pull = jax.vjp(lambda th: terms(th, z), theta)
                logs = jnp.broadcast_to(log_weights[k], members.shape)
                weights = jnp.exp(logs if mass is None else members + logs - mass)
                slope: jax.Array = pull((weights, jnp.ones_like(rest) / count))[0]
                return slope

            return total + jax.vmap(of)(thetas, at, log_mass)

        gradient: jax.Array = jax.lax.fori_loop(0, count, add, jnp.zeros(thetas.shape))
        return gradient

    def _without_members(
        self,
        thetas: jax.Array,
        wanted: tuple[jax.Array, jax.Array],
        place: SearchStart,
        arrays: Arrays,
    ) -> tuple[ThetaRows, jax.Array, Conditional]:
        """Return the same of a model whose coordinates are all theta's."""
        nobody = jnp.zeros((0, 1))
        rows = thetas.shape[0]

        def density(theta: jax.Array) -> jax.Array:
            return self.target.log_density_fn(theta, arrays)

        def slope(_: None) -> jax.Array:
            return jax.vmap(jax.grad(density))(thetas)

        gradient = jax.lax.cond(wanted[1], slope, lambda _: jnp.zeros(thetas.shape), None)
        mean = jax.vmap(lambda th: self._scalars(th, nobody, arrays))(thetas) - place.reference
        empty = jnp.zeros((rows, 0, 1))
        last = Conditional(gradient, empty, jnp.zeros((rows, 0, 1, 1)), jnp.zeros((rows, 0, 0)))
        log_p = jax.vmap(density)(thetas)
        swept = ThetaRows(log_p, mean, jnp.zeros(mean.shape), log_p)
        return swept, jnp.zeros(rows), last
