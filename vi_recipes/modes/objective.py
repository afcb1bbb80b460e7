"""The log joint density as an objective with structured curvature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.algebra import (
    VERIFIED,
    BlockArrow,
    Dense,
    LocalStructure,
    forward_is_quick,
    recovery_error,
    second_order,
)
from vi_recipes.core import CALLS_OF_A_SEARCH, Timing, shapes_of
from vi_recipes.model import Arrays, Target, candidates, site_terms

MAX_BORDER = 300
"""Largest border of a Hessian with local structure that is recovered at every step."""


class Expansion(NamedTuple):
    """-log density at a point, to second order along some directions."""

    value: float
    gradient: Float[np.ndarray, " dim"]
    products: Float[np.ndarray, "directions dim"]
    """The Hessian times each direction."""


class _Whole(NamedTuple):
    """-log density at a point, to second order."""

    value: float
    gradient: Float[np.ndarray, " dim"]
    hessian: Float[np.ndarray, "dim dim"]


class JointObjective:
    """-log density of a target, compiled ahead of time for one precision, with counts.

    Parameters
    ----------
    target
        The model conditioned on data.
    timing
        Charged with compilations and evaluations.
    jacobian
        Whether the density is over the unconstrained scale.

    Notes
    -----
    Compiled code belongs to the target: what one fit has compiled, the next one of the same
    target need not.
    """

    def __init__(self, target: Target, timing: Timing, *, jacobian: bool) -> None:
        self.target = target
        self.timing = timing
        self.structure: LocalStructure | None = None
        self._arrays = target.arrays()
        self._weight = jnp.asarray(float(jacobian))
        self._last: dict[str, tuple[bytes, Any]] = {}

    def _value(
        self, z: Float[Array, " dim"], weight: Float[Array, ""], arrays: Arrays
    ) -> Float[Array, ""]:
        return -self.target.log_density_fn(z, arrays, jacobian=weight > 0)

    def _products(
        self,
        z: Float[Array, " dim"],
        basis: Float[Array, "directions dim"],
        weight: Float[Array, ""],
        arrays: Arrays,
    ) -> tuple[Float[Array, ""], Float[Array, " dim"], Float[Array, "directions dim"]]:
        """Return value, gradient, and the Hessian times each row of ``basis``."""

        def value_and_grad(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.value_and_grad(self._value)(z, weight, arrays)

        (value, gradient), push = jax.linearize(value_and_grad, z)
        rows = jax.lax.map(lambda v: push(v)[1], basis)
        return value, gradient, rows

    def _call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args, weight, arrays)``, compiled once for the target."""
        given = (*(jnp.asarray(a, float) for a in args), self._weight)
        compiled = self.target.compiled_once(
            ("joint density", name, shapes_of(*given)),
            lambda: self.timing.compile(function, *given, self._arrays, calls=CALLS_OF_A_SEARCH),
        )
        return compiled(*given, self._arrays)

    def _at_last_point(self, name: str, z: np.ndarray, make: Callable[[], Any]) -> Any:
        """Return ``make()``, or what it was at the same point just before."""
        key = z.tobytes()
        if name not in self._last or self._last[name][0] != key:
            self._last.pop(name, None)  # need not be there beside what is made
            self._last[name] = key, make()
        return self._last[name][1]

    def use(self, structure: LocalStructure) -> None:
        """Recover Hessians by this structure from now on."""
        self.structure = structure
        self._basis = structure.basis()

    def structured(self, z: Float[np.ndarray, " dim"]) -> Expansion:
        """Return value, gradient and the Hessian-vector products along the structure's basis."""

        def make() -> Expansion:
            value, gradient, rows = self._call("products", self._products, z, self._basis)
            self.timing.gradient_evaluations += 1
            self.timing.hvp_evaluations += len(self._basis)
            return Expansion(float(value), np.asarray(gradient, float), np.asarray(rows, float))

        return self._at_last_point("products", z, make)

    def value_and_grad(
        self, z: Float[np.ndarray, " dim"]
    ) -> tuple[float, Float[np.ndarray, " dim"]]:
        """Return value and gradient; remembers the last point."""
        if self.structure is not None:
            expansion = self.structured(z)
            return expansion.value, expansion.gradient
        if self._small:
            whole = self._whole(z)
            return whole.value, whole.gradient

        def make() -> tuple[float, np.ndarray]:
            value, gradient = self._call("grad", jax.value_and_grad(self._value), z)
            self.timing.gradient_evaluations += 1
            return float(value), np.asarray(gradient, float)

        return self._at_last_point("grad", z, make)

    def hessian(self, z: Float[np.ndarray, " dim"]) -> Float[np.ndarray, "dim dim"]:
        """Return the dense Hessian, symmetrised; remembers the last point."""

        def make() -> np.ndarray:
            if self._small:
                self.timing.hvp_evaluations += z.size
                return self._whole(z).hessian
            hessian = np.asarray(self._call("hessian", jax.hessian(self._value), z))
            self.timing.hvp_evaluations += z.size
            return np.asarray((hessian + hessian.T) / 2)

        return self._at_last_point("hessian", z, make)

    @property
    def _small(self) -> bool:
        """Whether one program for value, gradient and Hessian is quicker than one for each."""
        return forward_is_quick(self.target.dim, self.target.size)

    def _whole(self, z: Float[np.ndarray, " dim"]) -> _Whole:
        def traced(z: jax.Array, weight: jax.Array, arrays: Arrays) -> Any:
            return second_order(lambda z: self._value(z, weight, arrays), z, True)

        def make() -> _Whole:
            value, gradient, hessian = self._call("second order", traced, z)
            self.timing.gradient_evaluations += 1
            hessian = np.asarray(hessian)
            return _Whole(float(value), np.asarray(gradient, float), (hessian + hessian.T) / 2)

        whole: _Whole = self._at_last_point("second order", z, make)
        return whole

    def curvature(self, z: Float[np.ndarray, " dim"]) -> Dense | BlockArrow | None:
        """Return the Hessian, dense or by its structure; ``None`` where it is not finite."""
        if self.structure is not None:
            rows = self.structured(z).products
            return BlockArrow.recover(self.structure, rows) if np.isfinite(rows).all() else None
        hessian = self.hessian(z)
        return Dense(hessian, self.target.units) if np.isfinite(hessian).all() else None

    def curvature_of_site(
        self, site: str, z: Float[np.ndarray, " dim"]
    ) -> Float[np.ndarray, " dim"]:
        """Return the curvature of a site's own log density along its coordinates together."""
        direction = np.zeros(z.size)
        direction[self.target.slices[site]] = 1.0

        def bend(z: jax.Array, direction: jax.Array, weight: jax.Array, arrays: Any) -> jax.Array:
            def log_density(z: jax.Array) -> jax.Array:
                return site_terms(self.target, z, arrays)[site].total

            return jax.jvp(jax.grad(log_density), (z,), (direction,))[1]

        return np.asarray(self._call(f"curvature of {site}", bend, z, direction))

    def discover(self) -> str:
        """Find the local structure of the Hessian and use it, or say why there is none.

        What the plates suggest is verified by a Hessian-vector product in a random direction.
        """
        target = self.target
        known = target.compiled_once.get(LocalStructure)
        if known is not None:
            self.use(known)
            return ""
        rng = np.random.default_rng(5)
        reasons = []
        for structure in candidates(target.latents, target.slices):
            if structure.border.size > MAX_BORDER:
                reasons.append(
                    f"with {', '.join(structure.sites)} as blocks the border has "
                    f"{structure.border.size} coordinates (at most {MAX_BORDER})"
                )
                continue
            self.use(structure)
            z = target.start(jax.random.key(0), value_and_grad=self.value_and_grad)
            products = self.structured(z + 0.1 * rng.standard_normal(z.size)).products
            error = recovery_error(structure, products)
            if np.isfinite(error).all() and error.max() <= VERIFIED:
                target.compiled_once.keep(LocalStructure, structure)
                return ""
            self.structure = None
            names = [n for n, place in target.slices.items() if not error[place].max() <= VERIFIED]
            reasons.append(
                f"members of plate {structure.plate} are coupled through {', '.join(names)}"
            )
        return "; ".join(reasons) or "no latent site is in a plate"
