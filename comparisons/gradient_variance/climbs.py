"""Ways up the ELBO, in steps and in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .clock import Clocked, clocked
from .estimators import Conjugate

NUM_STEPS = 10_000
STEP_SIZES = (0.1, 0.03, 0.01, 0.003, 0.001)
"""Of Adam; every estimator has the one of these with which it arrives soonest."""

WINDOW = 50
"""Steps over which distances from the top are averaged."""

GAP = 0.1
"""Nats below the highest ELBO: who stays closer than this, window by window, has arrived."""


@dataclass(frozen=True)
class Climb:
    """A way up.

    Parameters
    ----------
    step_size
        Adam's.
    gaps
        Nats below the top, by window.
    again
        Takes all steps again.
    """

    step_size: float
    gaps: np.ndarray
    again: Callable[[], object]

    @property
    def shown(self) -> int:
        """Steps whose seconds are shown: until it arrives, else all."""
        return self.steps or NUM_STEPS

    @property
    def steps(self) -> int | None:
        """Steps after which it stays within :data:`GAP`; ``None`` if it does not."""
        away = np.flatnonzero(self.gaps >= GAP)
        last = int(away[-1]) + 1 if away.size else 0
        return WINDOW * (last + 1) if last < len(self.gaps) else None


def climb(conjugate: Conjugate, name: str, seed: int) -> Climb:
    """Return the quickest of Adam's ways up, in steps."""
    estimate = conjugate.estimator(name)

    def run(key: jax.Array, step_size: jax.Array) -> jax.Array:
        optimizer = optax.inject_hyperparams(optax.adam)(step_size)

        def step(carry: Any, key: jax.Array) -> Any:
            eta, state = carry
            slope = jax.tree.map(jnp.negative, estimate(key, eta))
            change, state = optimizer.update(slope, state)
            eta = optax.apply_updates(eta, change)
            return (eta, state), conjugate.gap(eta)

        eta = conjugate.start()
        first = (eta, optimizer.init(eta))
        return jax.lax.scan(step, first, jax.random.split(key, NUM_STEPS))[1]

    key = jax.random.key(seed)
    compiled = jax.jit(run).lower(key, jnp.asarray(0.1)).compile()
    climbs = []
    for step_size in STEP_SIZES:
        size = jnp.asarray(step_size)
        gaps = np.asarray(compiled(key, size)).reshape(-1, WINDOW).mean(axis=1)
        climbs.append(
            Climb(step_size, gaps, lambda size=size: jax.block_until_ready(compiled(key, size)))
        )
    return min(climbs, key=lambda climb: (climb.steps or np.inf, climb.gaps[-1]))


def arrivals(climbs: dict[str, Climb]) -> Clocked:
    """Return seconds without compilation until each arrives; of all steps where one does not."""
    return clocked(
        {name: climb.again for name, climb in climbs.items()},
        {name: climb.shown / NUM_STEPS for name, climb in climbs.items()},
    )
