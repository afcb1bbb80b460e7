"""NumPyro's No-U-Turn kernel on a vector of coordinates, as code to be compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer import NUTS as Kernel

from vi_recipes.algebra import LocalStructure
from vi_recipes.methods.nuts.whitening import unwhiten
from vi_recipes.model import Arrays, Target


class KernelSettings(NamedTuple):
    """What the kernel adapts and stops by."""

    num_warmup: int
    target_accept_prob: float
    max_tree_depth: int
    dense_mass: bool


class Inputs(NamedTuple):
    """Arrays that the compiled code takes."""

    data: Arrays
    """The target's."""
    whitening: tuple[jax.Array, ...]
    """Those of the whitened coordinates; none without."""


def joint_density(
    target: Target, structure: LocalStructure | None
) -> Callable[[jax.Array, Inputs], jax.Array]:
    """Return the log density of the flat vector in its units, or of whitened coordinates."""

    def log_density(v: jax.Array, inputs: Inputs) -> jax.Array:
        if structure is not None:
            v = unwhiten(structure, v, inputs.whitening)
            return target.log_density_fn(v, inputs.data)
        return target.density_in_units(v, inputs.data)

    return log_density


@dataclass(frozen=True)
class Chains:
    """The code of the chains of one configuration.

    What belongs to one fit, such as the numbers of a whitening, is an argument of the code (its
    inputs), which so serves all fits of the target.

    Parameters
    ----------
    log_density
        ``(coordinates, inputs) -> log density``; pure.
    dim
        Coordinates.
    settings
        Of the kernel.
    """

    log_density: Callable[[jax.Array, Any], jax.Array]
    dim: int
    settings: KernelSettings

    def kernel(self, z: jax.Array, inputs: Any) -> tuple[Kernel, Any]:
        """Return NumPyro's kernel, and its state at ``z``; to be traced.

        The kernel takes the data from where it is traced, so they stay arguments of the compiled
        code and are not constants in it.
        """
        kernel = Kernel(
            potential_fn=lambda v: -self.log_density(v, inputs),
            target_accept_prob=self.settings.target_accept_prob,
            max_tree_depth=self.settings.max_tree_depth,
            dense_mass=self.settings.dense_mass,
        )
        return kernel, kernel.init(jax.random.key(0), self.settings.num_warmup, z)

    def begin(self, key: jax.Array, z: jax.Array, inputs: Any) -> Any:
        """Return the initial state of a chain at ``z``, whose stream of numbers is ``key``'s."""
        state = self.kernel(z, inputs)[1]
        # nobody reads the energy before the first step draws a momentum: without it, none is drawn
        return state._replace(rng_key=key, energy=state.potential_energy)

    def make_chunk(self, capacity: int, vectorized: bool) -> Callable[..., Any]:
        """Return ``(state, n, inputs) -> (state, n draws in buffers of length capacity)``.

        Parameters
        ----------
        capacity
            Iterations, at most.
        vectorized
            Whether the state is that of several chains.
        """

        def observe(state: Any) -> dict[str, jax.Array]:
            return {
                "z": state.z,
                "potential_energy": state.potential_energy,
                "energy": state.energy,
                "num_steps": state.num_steps,
                "accept_prob": state.accept_prob,
                "diverging": state.diverging,
                "step_size": state.adapt_state.step_size,
            }

        def chunk(state: Any, n: jax.Array, inputs: Any) -> tuple[Any, dict[str, jax.Array]]:
            # Making the kernel sets it up for sampling; its state here is unused and not computed.
            kernel, _ = self.kernel(jnp.zeros(self.dim), inputs)

            def step(state: Any) -> Any:
                return kernel.sample(state, (), {})

            advance, look = (jax.vmap(step), jax.vmap(observe)) if vectorized else (step, observe)

            def body(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
                state, buffers = carry
                state = advance(state)
                return state, jax.tree.map(lambda b, v: b.at[i].set(v), buffers, look(state))

            buffers = jax.tree.map(
                lambda s: jnp.zeros((capacity, *s.shape), s.dtype), jax.eval_shape(look, state)
            )
            return jax.lax.fori_loop(0, n, body, (state, buffers))

        return chunk
