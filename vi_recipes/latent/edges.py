"""Coordinates whose maximum lies at an edge of their support."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vi_recipes.algebra import Dense, moves_to_edges
from vi_recipes.latent.objective import MarginalObjective


class BestAtEdge(NamedTuple):
    """Parameters that are best at the edge of their support."""

    where: str
    """Which parameters, and the values they run to."""
    places: Int[np.ndarray, " places"]
    """Their places in theta."""
    rise: float
    """What the log-likelihood gains further out."""
    outward: float
    """What it is there."""


def find_edge(
    objective: MarginalObjective, theta: Float[np.ndarray, " G"], curvature: Dense
) -> BestAtEdge | None:
    """Return the parameters that are best at the edge of their support, if there are any."""
    target, split = objective.target, objective.marginal.split
    moves = moves_to_edges(
        objective.value_near(theta), theta, curvature.diagonal(), np.flatnonzero(objective.bounded)
    )
    objective.value_and_grad(theta)
    if not moves:
        return None
    values = target.constrain(objective.flat(theta))
    words = []
    for place in dict.fromkeys(int(split.border[move.place]) for move in moves):
        name = next(n for n, p in target.slices.items() if p.start <= place < p.stop)
        size = values[name].size
        k = place - target.slices[name].start
        same = size == target.slices[name].stop - target.slices[name].start
        label = target.labels([name], coords=True)[k] if same else name
        number = f"{values[name].ravel()[k]:.2g}" if same else "an edge"
        words.append(f"{label} runs to {number}")
    best = max(moves, key=lambda move: move.gain)
    places = np.array(list(dict.fromkeys(move.place for move in moves)))
    return BestAtEdge(", ".join(dict.fromkeys(words)), places, float(best.gain), -float(best.value))
