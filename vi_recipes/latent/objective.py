"""The marginal log-likelihood as a function of theta, compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.algebra import Dense, second_order
from vi_recipes.core import Timing
from vi_recipes.latent.marginal import Marginal
from vi_recipes.model import Arrays, Target

MAX_DENSE = 300
"""Parameters up to which the observed information is formed."""


FORWARD = 20_000_000
"""Element evaluations up to which Hessians are made by forward mode alone: quicker to compile."""


CLOSE = 1e-2
"""Newton decrement, in standard errors, up to which a point counts as the maximum."""


# -- the objective, compiled -----------------------------------------------------------------------


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

    def __init__(self, marginal: Marginal, timing: Timing, modes: np.ndarray) -> None:
        self.marginal, self.timing, self.modes = marginal, timing, modes
        self.target: Target = marginal.split.target
        self._arrays = self.target.arrays()
        self._memo: dict[str, tuple[bytes, Any]] = {}

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args, arrays)``, compiled once for the target."""
        given = jax.tree.map(jnp.asarray, args)
        full = (*given, self._arrays)
        shapes = tuple((a.shape, str(a.dtype)) for a in jax.tree.leaves(given))
        key = (name, self.marginal.key, shapes)
        compiled = self.target.compiled
        if key not in compiled:
            compiled[key] = self.timing.compile(function, *full)
        return compiled[key](*full)

    def _once(self, name: str, theta: np.ndarray, make: Callable[[], Any]) -> Any:
        key = theta.tobytes()
        if name not in self._memo or self._memo[name][0] != key:
            self._memo[name] = key, make()
        return self._memo[name][1]

    def _slope(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> Any:
        modes, missed = self.marginal.seek(theta, z, arrays)
        value, gradient = jax.value_and_grad(self.marginal.value)(theta, modes, arrays, order=1)
        return value, gradient, modes, missed

    def _bend(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> Any:
        marginal = self.marginal
        modes, missed = marginal.seek(theta, z, arrays)

        def value(theta: jax.Array) -> jax.Array:
            return marginal.value(theta, modes, arrays, order=2)

        return *second_order(value, theta, self.forward), modes, missed

    @cached_property
    def forward(self) -> bool:
        """Whether forward mode alone is quick enough."""
        split = self.marginal.split
        states = len(split.states) ** (2 if split.chains else 1)
        nodes = max(states, self.marginal.num_nodes**split.width)
        size = sum(s.size for s in self.target.observed) + split.num_members
        return size * nodes * split.border.size**2 <= FORWARD

    def _evaluate(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray | None]:
        def make() -> Any:
            second = theta.size <= MAX_DENSE
            name, function = ("bend", self._bend) if second else ("slope", self._slope)
            value, gradient, *bend, modes, missed = self.call(name, function, theta, self.modes)
            self.timing.gradient_evaluations += 1
            self.timing.hvp_evaluations += theta.size if second else 0
            value = float(value) if float(missed) < CLOSE else np.nan
            if np.isfinite(value):
                self.modes = np.asarray(modes)
            return (
                -value,
                -np.asarray(gradient),
                -np.asarray(bend[0]) if bend else None,
                np.asarray(modes),
            )

        found = self._once("evaluate", theta, make)
        return found[0], found[1], found[2]

    def value_and_grad(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return minus the objective and its gradient."""
        return self._evaluate(theta)[:2]

    def curvature(self, theta: np.ndarray) -> Dense | None:
        """Return the observed information; ``None`` where it is not finite."""
        bend = self._evaluate(theta)[2]
        if bend is None or not np.isfinite(bend).all():
            return None
        return Dense((bend + bend.T) / 2)

    def log_prior(self, theta: np.ndarray) -> float:
        """Return the part of the objective that is log p(theta)."""
        if not self.marginal.with_prior:
            return 0.0

        def prior(theta: jax.Array, z: jax.Array, arrays: Arrays) -> jax.Array:
            z = jnp.zeros((), int) if self.marginal.split.kind == "discrete" else z
            return self.marginal.split.log_joint(theta, z, arrays).prior

        return float(self.call("prior", prior, theta, self.modes))
