"""What EM and coordinate-ascent VB share: many starts, and an objective that only rises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.status import MethodFailure, Status
from vi_recipes.target import Target

ROUNDING = 1e-9
"""Relative decrease of the objective that rounding explains."""


def stacked_starts(start: Callable[..., Any], target: Target, key: jax.Array, count: int) -> Any:
    """Return ``count`` starting points of a model's own, stacked along a new leading axis."""
    starts = [
        jax.tree.map(lambda v: jnp.asarray(v, float), start(k, **target.data))
        for k in jax.random.split(key, count)
    ]
    return jax.tree.map(lambda *v: jnp.stack(v), *starts)


def check_monotone(path: np.ndarray, starts: list[int], what: str, who: str, advice: str) -> None:
    """Fail if an objective falls from one iteration to the next, beyond rounding.

    Parameters
    ----------
    path
        The objective, shape (iterations, starts).
    starts
        The starts to check; what is not finite is passed over.
    what, who, advice
        Name of the objective, what cannot make it fall, and what to do.

    Raises
    ------
    MethodFailure
        ``FAILED``, naming iteration and start.
    """
    with np.errstate(invalid="ignore"):
        fall = path[:-1, starts] - path[1:, starts]
        relative = np.nan_to_num(fall / np.maximum(1.0, np.abs(path[1:, starts])), nan=0.0)
    if relative.max(initial=0.0) > ROUNDING:
        iteration, place = np.unravel_index(relative.argmax(), fall.shape)
        raise MethodFailure(
            Status.FAILED,
            f"{what} fell by {fall[iteration, place]:.3g} at iteration {int(iteration) + 1} of "
            f"start {starts[int(place)] + 1}; {who} cannot do that",
            advice,
        )
