"""The marginal log-likelihood as a function of theta, compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vi_recipes.algebra import Dense, second_order
from vi_recipes.core import CALLS_OF_A_SEARCH, Timing, shapes_of
from vi_recipes.latent.marginal import Marginal
from vi_recipes.model import Arrays, Target

MAX_DENSE = 300
"""Parameters up to which the observed information is formed."""


FORWARD = 20_000_000
"""Element evaluations up to which Hessians are made by forward mode alone: quicker to compile."""


CLOSE = 1e-2
"""Newton decrement, in standard errors, up to which a point counts as the maximum."""


class Evaluation(NamedTuple):
    """Minus the objective at theta, with its derivatives."""

    value: float
    gradient: Float[np.ndarray, " G"]
    hessian: Float[np.ndarray, "G G"] | None
    """``None`` beyond :data:`MAX_DENSE` parameters."""


class _Traced(NamedTuple):
    """The objective at theta as compiled code gives it, and the modes of z that it stands on."""

    value: Float[Array, ""]
    gradient: Float[Array, " G"]
    hessian: Float[Array, "G G"] | None
    modes: Float[Array, "members d"]
    missed: Float[Array, ""]
    """The largest squared decrement of a member's mode."""


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
        given = jax.tree.map(jnp.asarray, args)
        compiled = self.target.compiled_once(
            ("marginal", name, self.marginal.key, shapes_of(*given)),
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

    def _second_order(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> _Traced:
        marginal = self.marginal
        modes, missed = marginal.seek(theta, z, arrays)

        def value(theta: jax.Array) -> jax.Array:
            return marginal.value(theta, modes, arrays, order=2)

        return _Traced(*second_order(value, theta, self.forward), modes, missed)

    @cached_property
    def forward(self) -> bool:
        """Whether forward mode alone is quick enough."""
        split = self.marginal.split
        states = len(split.states) ** (2 if split.chains else 1)
        nodes = max(states, self.marginal.num_nodes**split.width)
        size = sum(s.size for s in self.target.observed) + split.num_members
        return size * nodes * split.border.size**2 <= FORWARD

    def _evaluate(self, theta: Float[np.ndarray, " G"]) -> Evaluation:
        """Return minus the objective and its derivatives; remembers the last point."""
        key = theta.tobytes()
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        second = theta.size <= MAX_DENSE
        name, function = (
            ("second order", self._second_order) if second else ("first order", self._first_order)
        )
        traced: _Traced = self.call(name, function, theta, self.modes)
        self.timing.gradient_evaluations += 1
        self.timing.hvp_evaluations += theta.size if second else 0
        value = float(traced.value) if float(traced.missed) < CLOSE else np.nan
        if np.isfinite(value):
            self.modes = np.asarray(traced.modes)
        evaluation = Evaluation(
            -value,
            -np.asarray(traced.gradient),
            None if traced.hessian is None else -np.asarray(traced.hessian),
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
        """Return what :meth:`value_and_grad` does, by code that forms no Hessian."""
        traced: _Traced = self.call("first order", self._first_order, theta, self.modes)
        self.timing.gradient_evaluations += 1
        return -float(traced.value), -np.asarray(traced.gradient)

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
            inner = curvature.matrix[np.ix_(free, free)]
            curvature, gradient = Dense(inner, self.units[free]), gradient[free]
        return curvature.decrement(gradient)

    def log_prior(self, theta: Float[np.ndarray, " G"]) -> float:
        """Return the part of the objective that is log p(theta)."""
        if not self.marginal.with_prior:
            return 0.0

        def prior(theta: jax.Array, z: jax.Array, arrays: Arrays) -> jax.Array:
            z = jnp.zeros((), int) if self.marginal.split.kind == "discrete" else z
            return self.marginal.split.log_joint(theta, z, arrays).prior

        return float(self.call("prior", prior, theta, self.modes))
