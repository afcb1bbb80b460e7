"""Coordinates whose maximum lies at an edge of their support."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vi_recipes.algebra import Dense
from vi_recipes.latent.objective import MarginalObjective

SUSPECT = 2.0
"""Standard error on the unconstrained scale from which it is looked whether an edge is better."""


OUTWARD = (3.0, 6.0, 12.0)
"""How far out, on the unconstrained scale, it is looked for an edge that is better."""


SAME = 1e-3
"""Nats by which an edge may be worse and still be as good: far out there is rounding."""


def decrement(
    objective: MarginalObjective, theta: np.ndarray, fixed: np.ndarray | None = None
) -> float:
    """Return how far theta is from the maximum, in standard errors; infinite where it is none.

    Coordinates at the places ``fixed`` are left as they are.
    """
    curvature = objective.curvature(theta)
    if curvature is None:
        return float("inf")
    gradient = objective.value_and_grad(theta)[1]
    if fixed is not None:
        free = np.setdiff1d(np.arange(theta.size), fixed)
        bend = (curvature.vectors * curvature.values) @ curvature.vectors.T
        curvature, gradient = Dense(bend[np.ix_(free, free)]), gradient[free]
    return curvature.decrement(gradient)


def join(objective: MarginalObjective, theta: np.ndarray, z: np.ndarray | None) -> np.ndarray:
    """Return the target's flat vector; zeros for latent variables that are not given."""
    split = objective.marginal.split
    flat = np.zeros(objective.target.dim)
    flat[split.border] = theta
    if z is not None:
        flat[split.local] = z
    return flat


class Edge(NamedTuple):
    """Parameters that are best at the edge of their support."""

    where: str
    places: np.ndarray
    """Their places in theta."""
    rise: float
    """What the log-likelihood gains further out."""
    outward: float
    """What it is there."""


def edges(objective: MarginalObjective, theta: np.ndarray, curvature: Dense) -> Edge | None:
    """Return the parameters that are best at the edge of their support, if there are any."""
    target, split = objective.target, objective.marginal.split
    bounded = np.zeros(target.dim, bool)
    for site in target.latents:
        bounded[target.slices[site.name]] = site.bounded
    diagonal = curvature.diagonal()
    value = objective.value_and_grad(theta)[0]
    modes, found = objective.modes, []
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
                found.append((j, value - finite[-1], -finite[-1]))
    objective.value_and_grad(theta)
    if not found:
        return None
    values = target.constrain(join(objective, theta, None))
    words = []
    for j in dict.fromkeys(j for j, _, _ in found):
        place = int(split.border[j])
        name = next(n for n, p in target.slices.items() if p.start <= place < p.stop)
        size = values[name].size
        k = place - target.slices[name].start
        same = size == target.slices[name].stop - target.slices[name].start
        label = target.labels([name], coords=True)[k] if same else name
        number = f"{values[name].ravel()[k]:.2g}" if same else "an edge"
        words.append(f"{label} runs to {number}")
    best = max(found, key=lambda f: f[1])
    places = np.array(list(dict.fromkeys(j for j, _, _ in found)))
    return Edge(", ".join(dict.fromkeys(words)), places, float(best[1]), float(best[2]))
