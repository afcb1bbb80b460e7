"""log p(y, theta) by Laplace's approximation, where crossed effects are very many.

The precision at the joint mode is sparse: the members of the largest family are eliminated, and a
dense matrix of all others is factorised. Newton's steps are taken outside compiled code, which has
the derivatives: a step on 73,421 ratings by 2,972 students of 1,128 lecturers takes a tenth of a
second. The gradient in theta is exact, by one more derivative of the entries of the precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import Arrow, ArrowFactor
from vi_recipes.core import Timing
from vi_recipes.latent import HALF_LOG_2PI, Columns, Marginal
from vi_recipes.methods.nested.density import FEW_NODES, ThetaDensity
from vi_recipes.methods.nested.nodes import MemberNodes, make_nodes
from vi_recipes.methods.nested.records import Conditional, ThetaRows
from vi_recipes.methods.nested.wide import LOST, MODE, SURE, averaged
from vi_recipes.model import Arrays

NUM_SEARCHED = 80
"""Newton steps to a mode, accepted or not."""

FEWEST_NUMBERS = 480_000
"""Read at a point of theta, at least: what is done outside compiled code costs as much."""

MOST_DRAWN = 2**23
"""Numbers that draws of the member given points of theta have, at most."""


class LogJointAt(NamedTuple):
    """The log joint at a place."""

    value: float
    """Of the member."""
    rest: float
    """Of all else, the parameters' Jacobian with it."""
    gradient: Float[np.ndarray, " d"]
    entries: Float[np.ndarray, " entries"]
    """Of minus the Hessian."""
    bent: Float[np.ndarray, " d"]
    """Minus the Hessian times :attr:`CrossedDensity.probe`."""


class LaplaceAtTheta(NamedTuple):
    """Laplace's approximation at a point of theta."""

    log_p: float
    """Minus infinity where there is no mode."""
    z: Float[np.ndarray, " d"]
    factor: ArrowFactor | None


class CrossedDensity(ThetaDensity):
    """log p(y, theta) by Laplace's approximation over one member of crossed families.

    Parameters
    ----------
    marginal, timing, flat
        As for :class:`ThetaDensity`.
    columns
        The member's coordinates.
    arrow
        How its precision is laid out.
    """

    def __init__(
        self,
        marginal: Marginal,
        timing: Timing,
        flat: Float[np.ndarray, " dim"],
        columns: Columns,
        arrow: Arrow,
    ) -> None:
        self.columns, self.arrow = columns, arrow
        self.probe = np.random.default_rng(11).standard_normal(arrow.dim)
        super().__init__(replace(marginal, num_nodes=1), timing, flat)
        self.is_laplace = marginal.num_nodes == 1
        self._turned: tuple[np.ndarray, np.ndarray] | None = None  # theta, slopes of the mode there
        self._added: Callable[[np.ndarray], np.ndarray] | None = None
        self._effects: Callable[[np.ndarray], tuple[Any, Any]] = lambda _: (0.0, 1.0)
        place = np.full(self.target.dim, -1)
        place[self.split.local[0]] = np.arange(arrow.dim)
        every = [self.target.coordinate_of[s.name].ravel() for s in self.target.quantities]
        self.coordinate = place[np.maximum(np.concatenate(every), 0)]
        """Of the member, of scalars that depend on one of it."""

    @property
    @override
    def _kept(self) -> int:
        return self.arrow.entries

    @property
    @override
    def of_members(self) -> int:
        return self.arrow.entries

    @property
    @override
    def work(self) -> int:
        return max(FEWEST_NUMBERS, 8 * self.size + self.arrow.pairs)

    @property
    @override
    def is_noisy(self) -> bool:
        return True

    @override
    def describe(self) -> str:
        what = ", ".join(self.split.latents)
        return f"Laplace's approximation over {what} (d = {self.split.width:,})"

    # -- the mode ----------------------------------------------------------------------------------

    def compiled(self, name: str, function: Any, *given: Any) -> Any:
        """Return a function that is compiled once for the target."""
        key = (f"crossed {name}", self.split.latents)
        return self.target.compiled_once(key, lambda: self.timing.compile(function, *given))

    def _member(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> Any:
        joint = self.split.log_joint(theta, z[None], arrays)
        return joint.members.sum(), joint.shared + joint.prior

    def _rest(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> jax.Array:
        return self._member(theta, z, arrays)[1] + self.split.log_jacobian(theta, z[None], arrays)

    def _look_traced(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> tuple[jax.Array, ...]:
        def slope(z: jax.Array) -> Any:
            return jax.grad(lambda z: self._member(theta, z, arrays)[0])(z)

        value, _ = self._member(theta, z, arrays)
        gradient, bent = jax.jvp(slope, (z,), (jnp.asarray(self.probe),))
        entries = self.columns.bends(theta, z, arrays)
        return value, self._rest(theta, z, arrays), gradient, entries, -bent

    def look(self, theta: Float[np.ndarray, " G"], z: Float[np.ndarray, " d"]) -> LogJointAt:
        """Return the log joint at a place."""
        with jax.enable_x64(True):
            given = jnp.asarray(theta), jnp.asarray(z), self.target.arrays()
            found = self.compiled("look", self._look_traced, *given)(*given)
        value, rest, *others = found
        return LogJointAt(float(value), float(rest), *(np.asarray(v) for v in others))

    def find(self, theta: Float[np.ndarray, " G"], z: Float[np.ndarray, " d"]) -> LaplaceAtTheta:
        """Return Laplace's approximation at theta, the mode sought from z.

        By Newton's method, damped where a step goes down or the precision is not positive definite.
        """
        nothing = LaplaceAtTheta(-np.inf, z, None)
        at = self.look(theta, z)
        self.timing.hvp_evaluations += len(self.columns.numbers)
        damping = 0.0
        if not np.isfinite(at.value):
            return nothing
        for _ in range(NUM_SEARCHED):
            factor = self.arrow.factorise(at.entries, more=damping)
            size = np.abs(at.bent).mean()
            if factor is None:
                damping = max(10 * damping, size / 30)
                continue
            step = factor.solve(at.gradient)
            missed = float(at.gradient @ step)
            if damping == 0 and missed <= MODE:
                return self._at_mode(at, z + step, missed, factor)
            new = self.look(theta, z + step)
            better = new.value >= at.value - 1e-13 * (1 + abs(at.value))
            # so near, a stiff prior's rounding may be more than there is to gain
            better = better or (damping == 0 and missed < SURE and np.isfinite(new.value))
            if better:
                z, at = z + step, new
                damping = 0.0 if damping / 10 < 1e-3 * size else damping / 10
            else:
                damping = max(10 * damping, size / 30)
        return nothing

    def _at_mode(
        self, at: LogJointAt, z: np.ndarray, missed: float, factor: ArrowFactor
    ) -> LaplaceAtTheta:
        known = factor.times(self.probe)
        if not np.abs(at.bent - known).max() <= LOST * max(np.abs(at.bent).max(), 1e-300):
            return LaplaceAtTheta(-np.inf, z, None)
        log_p = (
            at.value + missed / 2 + at.rest - factor.half_log_det + self.arrow.dim * HALF_LOG_2PI
        )
        return LaplaceAtTheta(log_p, z, factor)

    def at(self, theta: Float[np.ndarray, " G"]) -> LaplaceAtTheta:
        """Return Laplace's approximation at theta, the mode sought from the tangent."""
        place = self.place
        return self.find(theta, place.modes[0] + place.slopes[0] @ (theta - place.theta))

    # -- the gradient ------------------------------------------------------------------------------

    def _turn_traced(
        self, theta: jax.Array, z: jax.Array, weights: jax.Array, arrays: Arrays
    ) -> tuple[jax.Array, ...]:
        def log_joint(theta: jax.Array) -> jax.Array:
            return self._member(theta, z, arrays)[0] + self._rest(theta, z, arrays)

        def half_log_det(theta: jax.Array, z: jax.Array) -> jax.Array:
            return weights @ self.columns.bends(theta, z, arrays) / 2

        def slope(theta: jax.Array) -> Any:
            return jax.grad(lambda z: self._member(theta, z, arrays)[0])(z)

        of_theta, of_z = jax.grad(half_log_det, (0, 1))(theta, z)
        crossed = jax.lax.map(lambda v: jax.jvp(slope, (theta,), (v,))[1], jnp.eye(theta.size))
        return jax.grad(log_joint)(theta) - of_theta, of_z, crossed

    def turn(
        self, theta: Float[np.ndarray, " G"], found: LaplaceAtTheta
    ) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, "d G"]]:
        """Return the gradient of log p(y, theta), and the slopes of the mode in theta."""
        if found.factor is None:
            return np.full(self.dim, np.nan), np.zeros((self.arrow.dim, self.dim))
        weights = found.factor.slopes_of_log_det()
        with jax.enable_x64(True):
            given = (*map(jnp.asarray, (theta, found.z, weights)), self.target.arrays())
            direct, of_z, crossed = self.compiled("turn", self._turn_traced, *given)(*given)
        slopes = found.factor.solve(np.asarray(crossed).T)
        return np.asarray(direct) - np.asarray(of_z) @ slopes, slopes

    # -- what users call ---------------------------------------------------------------------------

    @override
    def given(
        self, rows: Float[np.ndarray, "rows G"], *, gradient: bool = False
    ) -> tuple[Float[np.ndarray, " rows"], Conditional]:
        values, modes, gradients = [], [], []
        for theta in rows:
            found = self.at(theta)
            values.append(found.log_p if np.isfinite(found.log_p) else np.nan)
            modes.append(found.z)
            slope = np.zeros(self.dim)
            if gradient:
                slope, slopes = self.turn(theta, found)
                self._turned = theta, slopes
            gradients.append(slope)
        self.timing.gradient_evaluations += len(rows) if gradient else 0
        none = np.zeros((len(rows), 0))
        return np.array(values), Conditional(
            np.stack(gradients), np.stack(modes)[:, None], none, none
        )

    @override
    def move_to(self, theta: np.ndarray, modes: np.ndarray, slopes: np.ndarray | None) -> None:
        if slopes is None and self._turned is not None and np.array_equal(self._turned[0], theta):
            slopes = self._turned[1][None]
        super().move_to(theta, modes, slopes)

    @override
    def sweep(
        self, rows: Float[np.ndarray, "rows G"], nodes: MemberNodes | None = None
    ) -> ThetaRows:
        parts = []
        for theta in rows:
            found = self.at(theta)
            if found.factor is None:
                nothing = np.zeros(self.owner.size)
                parts.append((-np.inf, nothing, nothing, -np.inf))
                continue
            spread = np.sqrt(found.factor.variances())
            shift, scale = self._effects(theta)
            z, spread = found.z + shift * spread, scale * spread
            parts.append((found.log_p, *self._moments(theta, z, spread), found.log_p))
        self.timing.density_evaluations += len(rows)
        swept = ThetaRows(*(np.stack(v) for v in zip(*parts, strict=True)))
        if self._added is None:
            return swept
        return swept._replace(log_p=swept.log_p + self._added(rows))

    def _moments_traced(
        self,
        theta: jax.Array,
        z: jax.Array,
        spread: jax.Array,
        reference: jax.Array,
        arrays: Arrays,
    ) -> tuple[jax.Array, jax.Array]:
        def scalars(z: jax.Array) -> jax.Array:
            return (self._scalars(theta, z, arrays) - reference)[None]

        few = make_nodes(FEW_NODES, 1, True)
        table = jnp.asarray(few.points), jnp.asarray(few.log_weights)
        mean, square = averaged(scalars, z[None], spread[None], table, jnp.array(FEW_NODES))
        return mean[0], jnp.maximum(square[0] - mean[0] ** 2, 0.0)

    def take(
        self,
        added: Callable[[np.ndarray], np.ndarray],
        effects: Callable[[np.ndarray], tuple[Any, Any]],
    ) -> None:
        """Take what Laplace's approximation misses from now on.

        Parameters
        ----------
        added
            Of rows of theta: nats that are added.
        effects
            Of theta: what is added to the means of the member, in sds of the normal at its mode,
            and what its sds are multiplied by.
        """
        self._added, self._effects = added, effects

    def _moments(
        self, theta: np.ndarray, z: np.ndarray, spread: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return moments of scalars by normals of the member's coordinates."""
        with jax.enable_x64(True):
            numbers = theta, z, spread, self.place.reference
            given = (*map(jnp.asarray, numbers), self.target.arrays())
            mean, variance = self.compiled("moments", self._moments_traced, *given)(*given)
        return np.asarray(mean), np.where(self.owner >= 0, np.asarray(variance), 0.0)

    @override
    def known(self, rows: Float[np.ndarray, "rows G"]) -> Conditional:
        """Return the modes at rows of theta, and some draws of the member less its mode."""
        count = max(1, MOST_DRAWN // (len(rows) * self.arrow.dim))
        size = self.arrow.local.size
        rng = np.random.default_rng(29)
        modes, drawn = [], np.zeros((len(rows), count, self.arrow.dim))
        for row, theta in enumerate(rows):
            found = self.at(theta)
            modes.append(found.z[None])
            if found.factor is not None:
                noise = rng.standard_normal((self.arrow.dim, count))
                away = found.factor.join(*found.factor.backward(noise[:size], noise[size:]))
                spread = np.sqrt(found.factor.variances())
                shift, scale = self._effects(theta)
                drawn[row] = shift * spread + scale * away.T
        none = np.zeros((len(rows), 0))
        return Conditional(np.zeros_like(rows), np.stack(modes), none, drawn)

    def displaced(
        self,
        theta: Float[np.ndarray, "draws G"],
        given: Conditional,
        place: np.ndarray,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "draws d"]:
        """Return draws of the member, less its modes.

        See :meth:`~vi_recipes.methods.nested.wide_density.WideDensity.displaced`.
        """
        return in_turn(np.asarray(given.moments), place)


def in_turn(
    picked: Float[np.ndarray, "rows picked d"], place: np.ndarray
) -> Float[np.ndarray, "draws d"]:
    """Return what is picked of each place, those of one place taken in turn."""
    turn = np.zeros(len(place), int)
    order = np.argsort(place, kind="stable")
    new = np.r_[True, np.diff(place[order]) != 0]
    first = np.maximum.accumulate(np.where(new, np.arange(len(place)), 0))
    turn[order] = np.arange(len(place)) - first
    drawn: np.ndarray = picked[place, turn % picked.shape[1]]
    return drawn
