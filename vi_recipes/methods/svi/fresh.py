"""The objective at given parameters of a guide: fresh draws, by the compiled chunk of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.infer import SVI as Engine

from vi_recipes.core import split_key
from vi_recipes.methods.minibatch.feed import Feed
from vi_recipes.methods.svi.chunks import Taken


@dataclass
class Fresh:
    """Draws of the objective; the loss of a step is taken before the step, so nothing is compiled.

    Parameters
    ----------
    engine
        NumPyro's.
    advance
        The compiled chunk.
    feed
        What the steps see of the data.
    like
        A state of the engine.
    key
        Seeds the draws.
    falling
        Whether the step size is part of the optimiser's state: steps of size zero then give as many
        draws as a chunk has steps.
    count
        Draws so far, of all parameters together.
    """

    engine: Engine
    advance: Callable[..., Taken]
    feed: Feed
    like: Any
    key: jax.Array
    falling: bool
    count: int = 0

    def draw(self, points: Sequence[Any], count: int) -> np.ndarray:
        """Return estimates at several unconstrained parameters, shaped (points, ``count``).

        All of them have the same random numbers and the same rows of the data, so that differences
        are known better than what they are differences of.
        """
        self.key, key = split_key(self.key)
        states = [self._state(params, key) for params in points]
        found: list[list[np.ndarray]] = [[] for _ in points]
        for n, arrays in self._stretches(count):
            for k, state in enumerate(states):
                taken = self.advance(state, np.int32(n), arrays)
                # stretches hand on their stream of random numbers, and nothing else
                states[k] = state._replace(rng_key=taken.state.rng_key)
                found[k].append(-np.asarray(taken.losses, float)[:n])
        self.count += count * len(points)
        return np.array([np.concatenate(values) for values in found])

    def _state(self, params: Any, key: jax.Array) -> Any:
        optim_state = self.engine.optim.init(jax.tree.map(jnp.asarray, params))
        if self.falling:
            size = jnp.zeros_like(optax.tree.get(optim_state, "learning_rate"))
            optim_state = optax.tree.set(optim_state, learning_rate=size)
        return self.like._replace(optim_state=optim_state, rng_key=key)

    def _stretches(self, count: int) -> Iterator[tuple[int, Any]]:
        """Yield how many steps are taken at a time, and what they see of the data."""
        if not self.falling:
            yield from ((1, arrays) for arrays in self.feed.singles(count))
            return
        while count > 0:
            n = min(self.feed.size, count)
            yield n, self.feed.next()
            count -= n
