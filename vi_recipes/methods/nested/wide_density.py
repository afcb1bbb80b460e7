"""log p(y, theta) where the latent variables are one member of many scalars."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import Factor, backward_many
from vi_recipes.core import Timing
from vi_recipes.importance import scrambled_sobol
from vi_recipes.latent import MAX_QUADRATURE, Marginal, layout_of
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.nodes import Nodes
from vi_recipes.methods.nested.owners import OF_SEVERAL
from vi_recipes.methods.nested.records import Conditional, Place, Swept
from vi_recipes.methods.nested.wide import WIDE, WideMember, averaged
from vi_recipes.model import Arrays

DIFFERENCE = 1e-4
"""Units over which log p(y, theta) is differenced: no gradient of it is compiled."""

NOISE = 0.5
"""Nats: noise of log p(y, theta) at a point up to which no more of them are taken."""

PAIRS = (128, 512, 2_048)
"""Pairs of points around the mode of a member that is not normal."""


def density_of(marginal: Marginal, timing: Timing, flat: Float[np.ndarray, " dim"]) -> ThetaDensity:
    """Return log p(y, theta) of a target; see :class:`ThetaDensity`."""
    split = marginal.split
    single = split.kind == "continuous" and split.num_members == 1
    wide = split.width >= WIDE or is_weighed(marginal)
    make = WideDensity if single and wide else ThetaDensity
    return make(marginal, timing, flat)


def is_weighed(marginal: Marginal) -> bool:
    """Whether a single member is integrated out by points around its mode, or by Laplace alone."""
    return marginal.rule == "quadrature" and marginal.split.width > MAX_QUADRATURE


def pairs_of(num_pairs: int, d: int, seed: int) -> Nodes:
    """Return the lattice around the mode of a member of d scalars, and how many pairs are taken."""
    points = scrambled_sobol(d, PAIRS[-1], [seed])
    return Nodes(num_pairs, points, np.zeros(len(points)), np.zeros((len(points), 0)), num_pairs)


def as_noisy(density: ThetaDensity) -> WideDensity | None:
    """Return the density, if one member that is not normal is integrated out by weighed points."""
    return density if isinstance(density, WideDensity) and not density.is_normal else None


class Noise(NamedTuple):
    """What weighed points leave open, and what they add to Laplace's approximation."""

    sd: float
    """Nats, at a point of theta."""
    shift: float
    """Nats by which Laplace's approximation is too low."""
    tilt: float
    """Nats: how unlike the shift is over theta, its own noise taken off."""


class WideDensity(ThetaDensity):
    """log p(y, theta) with one member of many scalars integrated out.

    Exact where it is normal given theta. Else by Laplace's approximation where smoothness counts,
    in the search for the mode, and by importance sampling around the member's mode in
    :meth:`sweep`, without bias and with a noise that is another one at every theta.
    """

    wide: WideMember

    def __init__(self, marginal: Marginal, timing: Timing, flat: Float[np.ndarray, " dim"]) -> None:
        self.wide = WideMember(marginal.split, layout_of(marginal.split, timing.compile))
        super().__init__(marginal, timing, flat)
        if not self.is_normal:  # points are of the whole member, so they serve what is of several
            self.owner = np.where(self.owner == OF_SEVERAL, 0, self.owner)

    @override
    def _first_nodes(self, num_nodes: int) -> Nodes:
        if self.is_normal:
            return super()._first_nodes(num_nodes)
        return pairs_of(PAIRS[0], self.split.width, 0)

    @property
    @override
    def _kept(self) -> int:
        return self.wide.size

    @property
    @override
    def of_members(self) -> int:
        return self.wide.layout.entries

    @override
    def describe(self) -> str:
        if self._marginal.rule == "gaussian":
            return super().describe()
        what = ", ".join(self.split.latents)
        if self.is_normal:
            return f"Laplace approximation over {what} (d = {self.split.width})"
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
        return self._at_rows(rows, moments=not self.is_normal)[1]

    def quiet_at(self, rows: Float[np.ndarray, "rows G"]) -> None:
        """Take as many pairs as leave little noise at rows of theta, or the most."""
        for count in PAIRS:
            self.nodes = pairs_of(count, self.split.width, 0)
            if self.noise_at(rows).sd <= NOISE:
                return

    def noise_at(self, rows: Float[np.ndarray, "rows G"]) -> Noise:
        """Return the noise of a sweep at rows of theta, from another lattice."""
        others = pairs_of(self.nodes.count, self.split.width, 1)
        values = np.stack([self.sweep(rows).log_p, self.sweep(rows, others).log_p])
        sd = float(np.sqrt(np.square(values[1] - values[0]).mean() / 2))
        added = values.mean(0) - self.given(rows)[0]
        tilt = np.sqrt(max(added.var() - sd**2 / 2, 0.0))
        return Noise(sd, float(added.mean()), float(tilt))

    def displaced(
        self, given: Conditional, place: np.ndarray, rng: np.random.Generator
    ) -> Float[np.ndarray, "draws d"]:
        """Return draws of the member, less its modes.

        Parameters
        ----------
        given
            From :meth:`known`.
        place
            Which of its rows each draw is given, shape (draws,).
        rng
            Where chance comes from.
        """
        if not self.is_normal:
            picked = np.asarray(given.moments)
            turn = np.zeros(len(place), int)  # draws given one theta take its picks in turn
            order = np.argsort(place, kind="stable")
            new = np.r_[True, np.diff(place[order]) != 0]
            first = np.maximum.accumulate(np.where(new, np.arange(len(place)), 0))
            turn[order] = np.arange(len(place)) - first
            drawn: np.ndarray = picked[place, turn % picked.shape[1]]
            return drawn
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
        place: Place,
        arrays: Arrays,
    ) -> tuple[Swept, jax.Array, Conditional]:
        wide, (points, log_weights, _) = self.wide, tables
        starts = place.modes + jnp.einsum("tdg,bg->btd", place.slopes, thetas - place.theta)
        find = wide.at if self._marginal.rule == "gaussian" else wide.at_mode
        log_p, missed, z, factor = jax.vmap(partial(find, arrays=arrays))(thetas, starts[:, 0])
        rows = thetas.shape[0]

        def scalars(theta: jax.Array, z: jax.Array) -> jax.Array:
            return self._scalars(theta, z[None], arrays) - place.reference

        def by_normal(_: None) -> tuple[jax.Array, ...]:
            spread = jnp.sqrt(jax.vmap(wide.variances)(factor))
            table = points, log_weights
            sums = averaged(partial(jax.vmap(scalars), thetas), z, spread, table, num_nodes)
            return log_p, *sums, jnp.zeros((rows, 0, wide.layout.dim))

        def by_points(_: None) -> tuple[jax.Array, ...]:
            def of(
                theta: jax.Array, by_laplace: jax.Array, mode: jax.Array, factor: Factor
            ) -> tuple[jax.Array, ...]:
                found, table = (by_laplace, mode, factor), (points, num_nodes)
                w = wide.weighed(theta, found, partial(scalars, theta), table, arrays)
                return w.log_p, w.mean, w.square, w.picked - mode

            made: tuple[jax.Array, ...] = jax.vmap(of)(thetas, log_p, z, factor)
            return made

        make = by_normal if self.is_normal else by_points
        shapes = jax.eval_shape(make, None)
        none = log_p, *(jnp.zeros(v.shape) for v in shapes[1:])
        value, mean, square, picked = jax.lax.cond(wanted[0], make, lambda _: none, None)
        variance = jnp.where(self.owner >= 0, jnp.maximum(square - mean**2, 0.0), 0.0)
        last = Conditional(jnp.zeros(thetas.shape), z[:, None], factor, picked)
        return Swept(value, mean, variance), missed, last
