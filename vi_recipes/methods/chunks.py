"""NumPyro's SVI in compiled chunks of steps, with the moments of the iterates of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI as Engine

from vi_recipes.methods.minibatch import Feed
from vi_recipes.methods.stopping import Stationarity

NUM_CHUNKS = 40
MAX_CHUNK = 250
MAX_CHUNKS = 400


@dataclass
class Run:
    """What a run of SVI has done so far."""

    state: Any
    elbo: list[np.ndarray] = field(default_factory=list)
    means: list[Any] = field(default_factory=list)
    variances: list[Any] = field(default_factory=list)
    iterates: Stationarity | None = None
    looked: int = 0
    stopped: bool = False
    interrupted: bool = False


def chunk_size(num_steps: int) -> int:
    """Return the steps of a chunk: few enough to stop in time, and not too many chunks to keep."""
    return max(1, min(MAX_CHUNK, -(-num_steps // NUM_CHUNKS)), num_steps // MAX_CHUNKS)


def make_chunk(engine: Engine, feed: Feed, watched: Iterable[str]) -> Callable[..., Any]:
    """Return ``(state, n, arrays) -> (state, losses, means, variances)``; ``arrays`` of the feed.

    The means over the ``n`` steps are those of the unconstrained parameters, the variances those of
    the ``watched`` ones.
    """
    names, size = tuple(watched), feed.size

    def chunk(state: Any, n: jax.Array, arrays: Any) -> tuple[Any, jax.Array, Any, Any]:
        # moments about the first iterate, for the sake of single precision
        origin = engine.optim.get_params(state.optim_state)

        def body(i: jax.Array, carry: Any) -> Any:
            state, losses, total, squares = carry
            state, loss = feed.update(engine, state, arrays, i)
            away = jax.tree.map(jnp.subtract, engine.optim.get_params(state.optim_state), origin)
            total = jax.tree.map(jnp.add, total, away)
            squares = {name: squares[name] + away[name] ** 2 for name in names}
            return state, losses.at[i].set(loss), total, squares

        zeros = jax.tree.map(jnp.zeros_like, origin)
        first = (state, jnp.zeros(size), zeros, {name: zeros[name] for name in names})
        state, losses, total, squares = jax.lax.fori_loop(0, n, body, first)
        away = jax.tree.map(lambda t: t / n, total)
        variances = {name: jnp.maximum(squares[name] / n - away[name] ** 2, 0) for name in names}
        return state, losses, jax.tree.map(jnp.add, origin, away), variances

    return chunk
