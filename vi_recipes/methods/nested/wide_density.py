"""log p(y, theta) where the latent variables are one member of many scalars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import Factor, backward_many
from vi_recipes.core import Timing
from vi_recipes.importance import scrambled_sobol
from vi_recipes.latent import MAX_QUADRATURE, MAX_WEIGHED, Marginal, columns_of, layout_of
from vi_recipes.methods.nested.crossed_density import CrossedDensity, in_turn
from vi_recipes.methods.nested.density import FEW_NODES, ThetaDensity
from vi_recipes.methods.nested.field import FieldMember, field_of
from vi_recipes.methods.nested.lattice import Lattice, corrected
from vi_recipes.methods.nested.linear import Linear
from vi_recipes.methods.nested.nodes import MemberNodes, make_nodes
from vi_recipes.methods.nested.over_border import InnerNodes, OverBorder
from vi_recipes.methods.nested.owners import OF_SEVERAL, owners
from vi_recipes.methods.nested.records import Conditional, Noise, SearchStart, ThetaRows
from vi_recipes.methods.nested.wide import WIDE, WideMember, averaged
from vi_recipes.model import Arrays

MANY, TOO_DEAR = 4_096, 1e9
"""Points with noise of their own, and numbers that they may read before they take too long."""

DIFFERENCE = 1e-4
"""Units over which log p(y, theta) is differenced: no gradient of it is compiled."""

NOISE = 0.5
"""Nats: noise of log p(y, theta) at a point up to which no more of them are taken."""

PAIRS = (128, 512, 2_048)
"""Pairs of points around the mode of a member that is not normal."""

PAIRS_OF_BORDER = (16, *PAIRS)
"""Those of its border, where its blocks are integrated out by quadrature."""

INNER_NODES = (5, 9, 15, 25)
"""Nodes a dimension of these; each number is checked by the next."""

INNER = 0.02
"""Nats: sd over theta of what more of them change, up to which they are enough."""

NUM_LOOKED = 64
"""Points of the posterior at which the noise is found, at most."""

FEWEST_LOOKED = 6
LOOKED = 1e8
"""Numbers that this may read, about."""


def density_of(marginal: Marginal, timing: Timing, flat: Float[np.ndarray, " dim"]) -> ThetaDensity:
    """Return log p(y, theta) of a target; see :class:`ThetaDensity`."""
    split = marginal.split
    single = split.kind == "continuous" and split.num_members == 1
    columns = columns_of(split) if single and is_weighed(marginal) else None
    crossed = None
    if columns is not None and columns.arrow is not None:
        crossed = partial(CrossedDensity, marginal, timing, flat, columns, columns.arrow)
    if crossed is not None and split.width > MAX_WEIGHED:
        return crossed()
    wide = split.width >= WIDE or is_weighed(marginal)
    made = (WideDensity if single and wide else ThetaDensity)(marginal, timing, flat)
    return crossed() if crossed is not None and takes_long(made) else made


def takes_long(density: ThetaDensity) -> bool:
    """Whether its integral, by weighed points, may take a minute of a processor, or more."""
    return density.is_noisy and MANY * density.work > TOO_DEAR


def is_weighed(marginal: Marginal) -> bool:
    """Whether a single member is integrated out by points around its mode, or by Laplace alone."""
    return marginal.rule == "quadrature" and marginal.split.width > MAX_QUADRATURE


def pairs_of(
    num_pairs: int, d: int, seed: int, inner: MemberNodes | None = None, *, moved: bool = True
) -> MemberNodes:
    """Return the lattice around a mode in d dimensions, and how many pairs of it are taken.

    Parameters
    ----------
    num_pairs, d, seed
        Of the lattice.
    inner
        Nodes of blocks whose border it is of.
    moved
        Whether every theta shifts it by itself, or all have it as it is.
    """
    points = scrambled_sobol(d, PAIRS[-1], [seed])
    far = np.full(len(points), float(moved))
    return MemberNodes(num_pairs, points, far, np.zeros((len(points), 0)), num_pairs, inner)


def as_noisy(density: ThetaDensity) -> WideDensity | None:
    """Return the density, if one member that is not normal is integrated out by weighed points."""
    return density if isinstance(density, WideDensity) and not density.is_normal else None


class WideDensity(ThetaDensity):
    """log p(y, theta) with one member of many scalars integrated out.

    Exact where it is normal given theta. Else by Laplace's approximation where smoothness counts,
    in the search for the mode, and by importance sampling around the member's mode in
    :meth:`sweep`, without bias and with a noise that is another one at every theta.
    """

    wide: WideMember | FieldMember

    def __init__(self, marginal: Marginal, timing: Timing, flat: Float[np.ndarray, " dim"]) -> None:
        split, weighed = marginal.split, is_weighed(marginal)
        layout, columns = layout_of(split, timing.compile, normal=not weighed)
        member, field = WideMember(split, layout, columns), None
        if marginal.rule == "gaussian" and not layout.local.size:
            field = field_of(split, timing.compile)
        self.wide, self.over, self._inner = field or member, None, None
        if weighed and marginal.num_nodes > 1 and columns is not None and columns.inner is not None:
            owner = owners(columns.inner, is_normal=False)
            self.over = OverBorder(split, layout, columns.inner, owner)
            self._inner = make_nodes(INNER_NODES[0], columns.inner.width, False)
        super().__init__(marginal, timing, flat)
        self.single = owners(self.split, is_normal=True) >= 0
        """Scalars that depend on one coordinate of the member."""
        several = self.owner == OF_SEVERAL
        self.linear = Linear.none()
        """Scalars that are linear in a normal member."""
        if not self.is_normal:  # points are of the whole member, so they serve what is of several
            self.owner = np.where(several, 0, self.owner)
        elif several.any() or field is not None:
            self.linear = Linear.of(split, self.owner)
            self.owner[self.linear.summed] = 0
        if self.over is not None:
            several = (self.over.owner == OF_SEVERAL) & (self.owner >= 0)
            self.owner = np.where(several, OF_SEVERAL, self.owner)

    def _pairs(self, count: int, seed: int, *, moved: bool = True) -> MemberNodes:
        d = self.split.width if self.over is None else self.over.dim
        return pairs_of(count, d, seed, self._inner, moved=moved)

    @property
    def _most_pairs(self) -> tuple[int, ...]:
        return PAIRS if self.over is None else PAIRS_OF_BORDER

    @override
    def _first_nodes(self, num_nodes: int) -> MemberNodes:
        if self.is_normal:
            return super()._first_nodes(num_nodes)
        return self._pairs(self._most_pairs[0], 0)

    @property
    @override
    def is_noisy(self) -> bool:
        return not self.is_normal

    @property
    @override
    def work(self) -> int:
        if self.is_normal:
            return super().work
        return self.work_of(self.nodes.count)

    def work_of(self, num_pairs: int) -> int:
        """Return what it would be with so many pairs of weighed points."""
        inner = 1 if self._inner is None else self._inner.count
        return self.wide.size + 2 * (self.size - self.wide.size) * num_pairs * inner

    def take_pairs(self, num_pairs: int) -> None:
        """Take so many pairs of weighed points from now on."""
        self.nodes = self._pairs(num_pairs, 0)

    @property
    def num_looked(self) -> int:
        """Points of theta at which noise is found."""
        return int(np.clip(LOOKED // self.work, FEWEST_LOOKED, NUM_LOOKED))

    def sweep_in_lots(self, rows: Float[np.ndarray, "rows G"], seeds: Sequence[int]) -> ThetaRows:
        """Return :meth:`sweep` with one noise for each lot of rows.

        Parameters
        ----------
        rows
            As many for each seed.
        seeds
            Of the noise.
        """
        count, lots = self.nodes.count, np.split(rows, len(seeds))
        parts = [
            self.sweep(lot, self._pairs(count, seed, moved=False))
            for lot, seed in zip(lots, seeds, strict=True)
        ]
        return ThetaRows(*(np.concatenate(v) for v in zip(*parts, strict=True)))

    @property
    @override
    def _kept(self) -> int:
        return self.wide.size

    @property
    @override
    def of_members(self) -> int:
        return self.wide.entries

    @override
    def describe(self) -> str:
        if self._marginal.rule == "gaussian":
            return super().describe()
        what = ", ".join(self.split.latents)
        if self.is_normal:
            return f"Laplace approximation over {what} (d = {self.split.width})"
        if self.over is not None and self._inner is not None:
            own = self.over.inner
            rest = ", ".join(n for n in self.split.latents if n not in own.latents)
            return (
                f"{2 * self.nodes.count:,} weighed points around the mean of {rest} (d = "
                f"{self.over.dim}), {self._inner.num_nodes} nodes a dimension over "
                f"{', '.join(own.latents)} in each of {own.num_members:,} members"
            )
        return (
            f"{2 * self.nodes.count:,} weighed points around the mode of {what} (d = "
            f"{self.split.width})"
        )

    @override
    def given(
        self, rows: Float[np.ndarray, "rows G"], *, gradient: bool = False
    ) -> tuple[Float[np.ndarray, " rows"], Conditional]:
        """Return the density, by Laplace where the member is not normal, and the member.

        Gradients are central differences: values have no noise of a search, and a third derivative
        of the model would take longer to compile than it saves.
        """
        if not gradient:
            return super().given(rows)
        around = rows[:, None] + self.steps
        values, given = super().given(around.reshape(-1, self.dim))
        values = values.reshape(len(rows), -1)
        given = jax.tree.map(lambda v: v[:: around.shape[1]], given)
        return values[:, 0], given._replace(gradient=self.slope(values))

    @property
    def steps(self) -> Float[np.ndarray, "points G"]:
        """What gradients are differenced over: none, and both ways along every coordinate."""
        each = DIFFERENCE * np.diag(self.units)
        return np.concatenate([0 * each[:1], each, -each])

    def slope(self, values: Any) -> Any:
        """Return gradients by values at :attr:`steps`, which are their last axis; pure."""
        up, down = values[..., 1 : self.dim + 1], values[..., self.dim + 1 :]
        return (up - down) / (2 * DIFFERENCE * self.units)

    @override
    def known(self, rows: Float[np.ndarray, "rows G"]) -> Conditional:
        if isinstance(self.wide, FieldMember):  # whose draws are made whole
            nothing = np.zeros((len(rows), 1, self.wide.dim))
            return Conditional(
                np.zeros((len(rows), 0)), nothing, nothing[:, 0, :0], nothing[..., :0]
            )
        return self._at_rows(rows, moments=not self.is_normal, gradient=not self.is_normal)[1]

    def quiet_at(self, rows: Float[np.ndarray, "rows G"]) -> None:
        """Take as many inner nodes as are needed at rows of theta, and as many pairs.

        Those that leave little noise, or the most.
        """
        if self._inner is not None:
            for count, more in pairwise(INNER_NODES):
                self.take_inner(count)
                here, there = self.with_inner(rows, more)
                with np.errstate(invalid="ignore"):  # neither may be found
                    if (there.log_p - here.log_p).std() <= INNER:
                        break
        for count in self._most_pairs:
            self.take_pairs(count)
            if self.noise_at(rows, self.sweep(rows)).sd <= NOISE:
                return

    def take_inner(self, num_nodes: int) -> None:
        """Take so many nodes a dimension of the blocks, given the border."""
        assert self.over is not None
        self._inner = make_nodes(num_nodes, self.over.inner.width, False)
        self.nodes = self._pairs(self.nodes.count, 0)

    def with_inner(
        self, rows: Float[np.ndarray, "rows G"], more: int
    ) -> tuple[ThetaRows, ThetaRows]:
        """Return what is known at rows of theta by the inner nodes in use, and by so many."""
        assert self.over is not None
        few = self._pairs(self._most_pairs[0], 0)
        inner = make_nodes(more, self.over.inner.width, False)
        return self.sweep(rows, few), self.sweep(rows, replace(few, inner=inner))

    def checked(
        self, rows: Float[np.ndarray, "rows G"]
    ) -> tuple[tuple[int, int], tuple[ThetaRows, ThetaRows]] | None:
        """Return inner nodes and those that check them, and what both find; ``None`` if none.

        More of them, or fewer where there are none.
        """
        if self._inner is None:
            return None
        now = self._inner.num_nodes
        other = next((n for n in INNER_NODES if n > now), INNER_NODES[-2])
        return (now, other), self.with_inner(rows, other)

    def noise_at(self, rows: Float[np.ndarray, "rows G"], swept: ThetaRows) -> Noise:
        """Return the noise of what a sweep of rows of theta found, from another lattice."""
        other = self.sweep(rows, self._pairs(self.nodes.count, 1)).log_p
        found = np.isfinite(other) & np.isfinite(swept.log_p)
        if not found.any():
            return Noise(np.inf, np.nan, np.nan)
        values = np.stack([swept.log_p, other])[:, found]
        sd = float(np.sqrt(np.square(values[1] - values[0]).mean() / 2))
        added = values.mean(0) - swept.smooth[found]
        tilt = np.sqrt(max(added.var() - sd**2 / 2, 0.0))
        return Noise(sd, float(added.mean()), float(tilt))

    def displaced(
        self,
        theta: Float[np.ndarray, "draws G"],
        given: Conditional,
        place: np.ndarray,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "draws d"]:
        """Return draws of the member, less the modes that are known.

        Parameters
        ----------
        theta
            Of each draw.
        given
            From :meth:`known`.
        place
            Which of its rows each draw is given, shape (draws,).
        rng
            Where chance comes from.
        """
        if not self.is_normal:
            picked = np.asarray(given.moments)
            return in_turn(picked, place)
        if isinstance(self.wide, FieldMember):
            return self.wide.draws(theta, place, rng, self.timing.compile)
        noise = rng.standard_normal((len(place), self.wide.layout.places))
        made: np.ndarray = backward_many(given.axes, place, noise)[:, self.wide.layout.order]
        return made

    @override
    def side_by_side(
        self,
        thetas: jax.Array,
        tables: tuple[jax.Array, ...],
        num_nodes: jax.Array,
        wanted: tuple[jax.Array, jax.Array],
        place: SearchStart,
        arrays: Arrays,
    ) -> tuple[ThetaRows, jax.Array, Conditional]:
        wide, over, (points, log_weights) = self.wide, self.over, tables[:2]
        starts = place.modes + jnp.einsum("tdg,bg->btd", place.slopes, thetas - place.theta)
        find: Any = wide.at
        if isinstance(wide, WideMember) and self._marginal.rule != "gaussian":
            find = wide.at_mode
        log_p, missed, z, factor = self._by_row(partial(find, arrays=arrays))(thetas, starts[:, 0])
        rows = thetas.shape[0]

        def scalars(theta: jax.Array, z: jax.Array) -> jax.Array:
            return self._scalars(theta, z[None], arrays) - place.reference

        def by_normal(_: None) -> tuple[jax.Array, ...]:
            variances = self._by_row(wide.variances)(factor)
            picked, known = jnp.zeros((rows, 0, z.shape[1])), self.linear
            exact = self._by_row(partial(known.moments, scalars, wide))
            if known.is_all:
                return log_p, *exact(thetas, z, factor, variances), picked
            table = points, log_weights
            each = partial(jax.vmap(scalars), thetas)
            mean, square = averaged(each, z, jnp.sqrt(variances), table, num_nodes)
            variance = jnp.maximum(square - mean**2, 0.0)
            if (at := known.summed).size:
                sums = exact(thetas, z, factor, variances)
                mean = mean.at[:, at].set(sums[0][:, at])
                variance = variance.at[:, at].set(sums[1][:, at])
            return log_p, mean, variance, picked

        few = make_nodes(FEW_NODES, 1, True)
        normal = jnp.asarray(few.points), jnp.asarray(few.log_weights)

        def by_points(_: None) -> tuple[jax.Array, ...]:
            assert isinstance(wide, WideMember)

            def of(
                theta: jax.Array, by_laplace: jax.Array, mode: jax.Array, factor: Factor
            ) -> tuple[jax.Array, ...]:
                found, lattice = (
                    (by_laplace, mode, factor),
                    Lattice(points, log_weights[0], num_nodes),
                )
                of_theta = partial(scalars, theta)
                if over is None:
                    w, top = wide.weighed(theta, found, of_theta, lattice, arrays), mode
                else:
                    inner = InnerNodes(tables[3], tables[4], tables[6])
                    both = lattice, inner
                    w, top = over.weighed(theta, found, of_theta, both, wanted[1], arrays)
                spread = jnp.sqrt(wide.variances(factor))
                known = averaged(
                    lambda z: of_theta(z[0])[None],
                    top[None],
                    spread[None],
                    normal,
                    jnp.array(FEW_NODES),
                )
                w = corrected(w, (known[0][0], known[1][0]), self.single)
                variance = jnp.maximum(w.square - w.mean**2, 0.0)
                return w.log_p, w.mean, variance, w.picked - mode

            made: tuple[jax.Array, ...] = jax.vmap(of)(thetas, log_p, z, factor)
            return made

        make = by_normal if self.is_normal else by_points
        shapes = jax.eval_shape(make, None)
        none = log_p, *(jnp.zeros(v.shape) for v in shapes[1:])
        value, mean, variance, picked = jax.lax.cond(wanted[0], make, lambda _: none, None)
        variance = jnp.where(self.owner >= 0, variance, 0.0)
        last = Conditional(jnp.zeros(thetas.shape), z[:, None], wide.kept(factor), picked)
        return ThetaRows(value, mean, variance, log_p), missed, last

    def _by_row(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of one row of theta as one of several; pure.

        One after the other where a row is a large matrix: LAPACK factorises it, which it is not
        called to for a stack of them.
        """
        if isinstance(self.wide, WideMember) and self.wide.layout.local.size:
            return jax.vmap(function)
        return lambda *rows: jax.lax.map(lambda row: function(*row), rows)
