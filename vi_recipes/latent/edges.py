"""Coordinates whose maximum lies at an edge of their support."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vi_recipes.algebra import Dense
from vi_recipes.latent.objective import MarginalObjective

SUSPECT = 2.0
"""Standard error on the unconstrained scale from which it is looked whether an edge is better."""


OUTWARD = (3.0, 6.0, 12.0)
"""How far out, on the unconstrained scale, it is looked for an edge that is better."""


SAME = 1e-3
"""Nats by which an edge may be worse and still be as good: far out there is rounding."""


class Edge(NamedTuple):
    """Parameters that are best at the edge of their support."""

    where: str
    """Which parameters, and the values they run to."""
    places: Int[np.ndarray, " places"]
    """Their places in theta."""
    rise: float
    """What the log-likelihood gains further out."""
    outward: float
    """What it is there."""


class _Outward(NamedTuple):
    """A move of one coordinate towards an edge that is as good as where it was, or better."""

    place: int
    """The coordinate's place in theta."""
    rise: float
    """What the log-likelihood gains furthest out."""
    value: float
    """What it is there."""


def find_edge(
    objective: MarginalObjective, theta: Float[np.ndarray, " G"], curvature: Dense
) -> Edge | None:
    """Return the parameters that are best at the edge of their support, if there are any."""
    target, split = objective.target, objective.marginal.split
    bounded = np.zeros(target.dim, bool)
    for site in target.latents:
        bounded[target.slices[site.name]] = site.bounded
    diagonal = curvature.diagonal()
    value = objective.value_and_grad(theta)[0]
    modes, moves = objective.modes, list[_Outward]()
    for j in np.flatnonzero(bounded[split.border]):
        if diagonal[j] > 1 / SUSPECT**2:
            continue
        for sign in (-1.0, 1.0):
            there = []
            for distance in OUTWARD:
                moved = theta.copy()
                moved[j] += sign * distance
                there.append(objective.value_and_grad(moved)[0])
                objective.modes = modes
            finite = [v for v in there if np.isfinite(v)]  # very far out nothing may be
            if finite and max(finite) <= value + SAME:
                moves.append(_Outward(int(j), value - finite[-1], -finite[-1]))
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
    best = max(moves, key=lambda move: move.rise)
    places = np.array(list(dict.fromkeys(move.place for move in moves)))
    return Edge(", ".join(dict.fromkeys(words)), places, float(best.rise), float(best.value))
