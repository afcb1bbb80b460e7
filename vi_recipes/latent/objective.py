"""The marginal log-likelihood as a function of theta, compiled."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vi_recipes.algebra import (
    BlockArrow,
    Dense,
    LocalStructure,
    second_order,
    second_order_beside,
)
from vi_recipes.core import CALLS_OF_A_SEARCH, Timing, shapes_of
from vi_recipes.latent.curvature import is_bent
from vi_recipes.latent.marginal import HermiteNodes, Marginal, MomentsGivenTheta, moments_of
from vi_recipes.latent.nodes import hermite
from vi_recipes.latent.split import Split
from vi_recipes.model import Arrays, Target

MAX_DENSE = 300
"""Parameters up to which the observed information is formed."""


FORWARD = 20_000_000
"""Element evaluations up to which Hessians are made by forward mode alone: quicker to compile."""


CLOSE = 1e-2
"""Newton decrement, in standard errors, up to which a point counts as the maximum."""


ROOMS = (19, 39, 79)
"""Nodes a dimension that code has room for, so that it takes fewer too: some, and their check."""


ROOMY = 2_000_000
"""Element evaluations up to which nodes that are left out may be evaluated all the same."""


class MomentsInTheta(NamedTuple):
    """Continuous z given theta on the unconstrained scale, and how it moves with theta."""

    mean: Float[np.ndarray, "members d"]
    cov: Float[np.ndarray, "members d d"]
    slopes: Float[np.ndarray, "members d G"]
    """Of the mean, in theta."""

    @property
    def spread(self) -> Float[np.ndarray, "members d"]:
        """The sds of z given theta."""
        return np.sqrt(np.einsum("tii->ti", self.cov))

    def precision(self, split: Split, information: Float[np.ndarray, "G G"]) -> BlockArrow:
        """Return the precision of theta and z together, where theta has the information."""
        blocks = np.linalg.inv(self.cov)
        edge = -np.einsum("tij,tjg->gti", blocks, self.slopes)
        corner = information - np.einsum("tjh,gtj->gh", self.slopes, edge)
        structure = LocalStructure(split.border, split.local, split.latents, split.plate)
        return BlockArrow(structure, (corner + corner.T) / 2, edge, blocks, np.ones(structure.dim))


class MomentsOfLatents(Protocol):
    """What is known of continuous z given theta, in whatever form."""

    @property
    def mean(self) -> Float[np.ndarray, "members d"]:
        """Unconstrained scale."""

    @property
    def spread(self) -> Float[np.ndarray, "members d"]:
        """Sds."""

    def precision(self, split: Split, information: Float[np.ndarray, "G G"]) -> BlockArrow:
        """Return the precision of theta and z together, where theta has the information."""


class Evaluation(NamedTuple):
    """Minus the objective at theta, with its derivatives."""

    value: float
    gradient: Float[np.ndarray, " G"]
    hessian: Float[np.ndarray, "G G"] | None
    """``None`` beyond :data:`MAX_DENSE` parameters."""
    moments: MomentsInTheta | None
    """``None`` where they are not computed along with the rest."""


class _Traced(NamedTuple):
    """The objective at theta as compiled code gives it, and the modes of z that it stands on."""

    value: Float[Array, ""]
    gradient: Float[Array, " G"]
    hessian: Float[Array, "G G"] | None
    modes: Float[Array, "members d"]
    missed: Float[Array, ""]
    """The largest squared decrement of a member's mode."""
    moments: MomentsGivenTheta | None = None
    slopes: Float[Array, "G members d"] | None = None
    """Of the means, in theta."""


class MarginalObjective:
    """Minus a marginal log-likelihood, compiled ahead of time, with its derivatives in theta.

    Parameters
    ----------
    marginal
        What is climbed.
    timing
        Charged with compilations and evaluations.
    modes
        Where the search for the members' modes begins, shape (members, d).

    Notes
    -----
    Compiled code belongs to the target. The search for the modes starts where it ended last.
    """

    def __init__(
        self, marginal: Marginal, timing: Timing, modes: Float[np.ndarray, "members d"]
    ) -> None:
        self.marginal, self.timing, self.modes = marginal, timing, modes
        self.target: Target = marginal.split.target
        self._arrays = self.target.arrays()
        self._last: tuple[bytes, Evaluation] | None = None

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args, arrays)``, compiled once for the target."""
        return self._call(self.marginal.key, name, function, *args)

    def _call(self, key: Hashable, name: str, function: Callable[..., Any], *args: Any) -> Any:
        given = jax.tree.map(jnp.asarray, args)
        compiled = self.target.compiled_once(
            ("marginal", name, key, shapes_of(*given)),
            lambda: self.timing.compile(function, *given, self._arrays, calls=CALLS_OF_A_SEARCH),
        )
        return compiled(*given, self._arrays)

    def flat(
        self,
        theta: Float[np.ndarray, " G"],
        z: Float[np.ndarray, "members d"] | None = None,
    ) -> Float[np.ndarray, " dim"]:
        """Return the target's flat vector; zeros for latent variables that are not given."""
        split = self.marginal.split
        flat = np.zeros(self.target.dim)
        flat[split.border] = theta
        if z is not None:
            flat[split.local] = z
        return flat

    @property
    def units(self) -> Float[np.ndarray, " G"]:
        """The unit of every parameter: what lengths are measured by."""
        return self.target.units[self.marginal.split.border]

    @property
    def bounded(self) -> Bool[np.ndarray, " G"]:
        """Which parameters an edge of their support puts at infinity."""
        return np.asarray(self.target.edged[self.marginal.split.border])

    # -- derivatives -------------------------------------------------------------------------------

    def _first_order(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> _Traced:
        modes, missed = self.marginal.seek(theta, z, arrays)
        value, gradient = jax.value_and_grad(self.marginal.value)(theta, modes, arrays, order=1)
        return _Traced(value, gradient, None, modes, missed)

    def _second_order(
        self, theta: jax.Array, z: jax.Array, nodes: HermiteNodes | None, arrays: Arrays
    ) -> _Traced:
        marginal = replace(self._roomy, given=nodes)
        modes, missed = marginal.seek(theta, z, arrays)

        def value(theta: jax.Array) -> jax.Array:
            return marginal.value(theta, modes, arrays, order=2)

        def with_moments(theta: jax.Array) -> tuple[jax.Array, MomentsGivenTheta]:
            value, q = marginal.value_and_posterior(theta, modes, arrays, order=2)
            return value, moments_of(q)

        if not self._moments_beside:
            return _Traced(*second_order(value, theta, self.forward), modes, missed)
        found = second_order_beside(with_moments, theta)
        slopes = found.slopes.mean
        return _Traced(
            found.value, found.gradient, found.hessian, modes, missed, found.beside, slopes
        )

    def _elements(self, num_nodes: int) -> int:
        """Return about how many elements of the log joint a Hessian in forward mode evaluates."""
        split = self.marginal.split
        states = len(split.states) ** (2 if split.chains else 1)
        size = sum(s.size for s in self.target.observed) + split.num_members
        return size * max(states, num_nodes**split.width) * split.border.size**2

    @cached_property
    def forward(self) -> bool:
        """Whether forward mode alone is quick enough."""
        return self._elements(self.marginal.num_nodes) <= FORWARD

    @property
    def _moments_beside(self) -> bool:
        """Whether the moments of z come with the Hessian, whose code has all they take."""
        return self.marginal.split.kind == "continuous" and self.forward

    @cached_property
    def _roomy(self) -> Marginal:
        """The marginal with as many nodes as compiled code has room for."""
        marginal = self.marginal
        room = next((room for room in ROOMS if room >= marginal.num_nodes), marginal.num_nodes)
        if marginal.rule != "quadrature" or marginal.num_nodes == 1 or self._elements(room) > ROOMY:
            return marginal
        return replace(marginal, num_nodes=room)

    @cached_property
    def _nodes(self) -> HermiteNodes | None:
        """The nodes in use with room for more; ``None`` where they are constants of the code."""
        if self._roomy is self.marginal:
            return None
        points, log_weights = hermite(self.marginal.num_nodes, self.marginal.split.width)
        more = self._roomy.num_nodes**self.marginal.split.width - len(points)
        return HermiteNodes(
            jnp.asarray(np.pad(points, ((0, more), (0, 0)))),
            jnp.asarray(np.pad(log_weights, (0, more), constant_values=-np.inf)),
        )

    def _evaluate(self, theta: Float[np.ndarray, " G"]) -> Evaluation:
        """Return minus the objective and its derivatives; remembers the last point."""
        key = theta.tobytes()
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        second = theta.size <= MAX_DENSE
        traced: _Traced
        if second:
            given = (theta, self.modes, self._nodes)
            traced = self._call(self._roomy.key, "second order", self._second_order, *given)
        else:
            traced = self.call("first order", self._first_order, theta, self.modes)
        self.timing.gradient_evaluations += 1
        self.timing.hvp_evaluations += theta.size if second else 0
        value = float(traced.value) if float(traced.missed) < CLOSE else np.nan
        if np.isfinite(value):
            self.modes = np.asarray(traced.modes)
        evaluation = Evaluation(
            -value,
            -np.asarray(traced.gradient),
            None if traced.hessian is None else -np.asarray(traced.hessian),
            _moments_in_theta(traced.moments, traced.slopes),
        )
        self._last = key, evaluation
        return evaluation

    def value_and_grad(
        self, theta: Float[np.ndarray, " G"]
    ) -> tuple[float, Float[np.ndarray, " G"]]:
        """Return minus the objective and its gradient."""
        evaluation = self._evaluate(theta)
        return evaluation.value, evaluation.gradient

    def first_order(self, theta: Float[np.ndarray, " G"]) -> tuple[float, Float[np.ndarray, " G"]]:
        """Return what :meth:`value_and_grad` does, by code that forms no Hessian.

        Unless that is there already, for other nodes.
        """
        if theta.size <= MAX_DENSE and self._nodes is not None:
            return self.value_and_grad(theta)
        traced: _Traced = self.call("first order", self._first_order, theta, self.modes)
        self.timing.gradient_evaluations += 1
        return -float(traced.value), -np.asarray(traced.gradient)

    def misjudges(self, theta: Float[np.ndarray, " G"]) -> bool:
        """Whether the integral that is exact for what is normal is none of that at theta.

        A marginal likelihood that is chosen anew after that has another rule, or is refused.
        """
        if self.marginal.rule != "gaussian" or not np.isfinite(theta).all():
            return False
        self.value_and_grad(theta)
        return is_bent(self.marginal.split, theta, self.modes, self.timing.compile)

    def moments(self, theta: Float[np.ndarray, " G"]) -> MomentsOfLatents:
        """Return what is known of continuous z given theta."""
        moments = self._evaluate(theta).moments
        if moments is not None:
            return moments
        marginal = self.marginal

        def traced(theta: jax.Array, z: jax.Array, arrays: Arrays) -> Any:
            z, _ = marginal.seek(theta, z, arrays)
            found, push = jax.linearize(lambda theta: marginal.moments(theta, z, arrays), theta)
            return found, jax.lax.map(lambda u: push(u).mean, jnp.eye(theta.size))

        found = _moments_in_theta(*self.call("moments", traced, theta, self.modes))
        assert found is not None
        return found

    def curvature(self, theta: Float[np.ndarray, " G"]) -> Dense | None:
        """Return the observed information; ``None`` where it is not finite."""
        hessian = self._evaluate(theta).hessian
        if hessian is None or not np.isfinite(hessian).all():
            return None
        return Dense((hessian + hessian.T) / 2, self.units)

    def value_near(self, theta: Float[np.ndarray, " G"]) -> Callable[[np.ndarray], float]:
        """Return minus the objective as a function, the modes always sought from those at theta."""
        self.value_and_grad(theta)
        modes = self.modes

        def value(moved: np.ndarray) -> float:
            found = self.value_and_grad(moved)[0]
            self.modes = modes
            return found

        return value

    def decrement(
        self, theta: Float[np.ndarray, " G"], fixed: Int[np.ndarray, " places"] | None = None
    ) -> float:
        """Return how far theta is from the maximum, in standard errors; infinite if it is none.

        Coordinates at the places ``fixed`` are left as they are.
        """
        curvature = self.curvature(theta)
        if curvature is None:
            return float("inf")
        gradient = self.value_and_grad(theta)[1]
        if fixed is not None:
            free = np.setdiff1d(np.arange(theta.size), fixed)
            curvature, gradient = curvature.within(free), gradient[free]
        return curvature.decrement(gradient)

    def log_prior(self, theta: Float[np.ndarray, " G"]) -> float:
        """Return the part of the objective that is log p(theta)."""
        if not self.marginal.with_prior:
            return 0.0

        def prior(theta: jax.Array, z: jax.Array, arrays: Arrays) -> jax.Array:
            z = jnp.zeros((), int) if self.marginal.split.kind == "discrete" else z
            return self.marginal.split.log_joint(theta, z, arrays).prior

        return float(self.call("prior", prior, theta, self.modes))


def _moments_in_theta(
    moments: MomentsGivenTheta | None, slopes: jax.Array | None
) -> MomentsInTheta | None:
    if moments is None or slopes is None:
        return None
    return MomentsInTheta(*map(np.asarray, (*moments, np.moveaxis(np.asarray(slopes), 0, -1))))
