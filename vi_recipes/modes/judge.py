"""Whether the search ended at a mode, and what there is instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vi_recipes.core import MethodFailure, Status
from vi_recipes.model import Target
from vi_recipes.modes.objective import Objective

Solver = Literal["auto", "newton", "l-bfgs"]


COLLAPSED = 0.25
"""Members of a plate that differ by less than this, in the sd of each given the rest, are one."""


STIRRED = 0.2
"""Relative change of a member's curvature by which a hyperparameter counts as its scale."""


FLAT = 1e-10
"""Smallest over largest eigenvalue of a Hessian that counts as zero."""


@dataclass
class Mode:
    """Where an optimisation ended, on the unconstrained scale."""

    z: np.ndarray
    value: float
    gradient_max: float
    decrement: float
    trace: list[float]
    status: Status
    message: str
    advice: str = ""


def _judge(
    objective: Objective,
    z: np.ndarray,
    far: np.ndarray,
    first: float,
    trace: list[float],
    solver: Solver,
    tolerance: float,
    message: str,
) -> Mode:
    """Say whether ``z`` is a minimum, from the gradient and curvature rather than the solver."""
    value, gradient = objective.value_and_grad(z)
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        raise MethodFailure(
            Status.DIVERGED,
            f"log density {-value}, gradient {np.abs(gradient).max()} after {len(trace)} steps",
            "rescale the data, or start elsewhere with Model(init=...)",
        )
    gradient_max = float(np.abs(gradient).max())
    decrement = float("nan")
    if solver == "newton":
        curvature = objective.curvature(z)
        assert curvature is not None
        decrement = curvature.decrement(gradient)
        converged = decrement <= tolerance
        measure = f"Newton decrement {decrement:.2g}"
        stuck = not converged and not far.any() and gradient_max <= tolerance
        smallest, largest, vector = curvature.extreme_eigenvalues() if stuck else (1.0, 1.0, z)
        if stuck and abs(smallest) <= FLAT * largest:
            along = ", ".join(objective.target.sites_along(vector))
            return Mode(
                z,
                value,
                gradient_max,
                decrement,
                trace,
                Status.UNCONVERGED,
                f"the density is flat along {along} (eigenvalue {smallest:.2g}), so the mode "
                "is one of many",
                "give the site a prior that curves, or use space='unconstrained'",
            )
    else:
        # the first value bounds the scale: a density that grows without end does not excuse slopes
        relative = gradient_max / max(1.0, min(abs(value), abs(first)))
        converged = relative <= tolerance
        measure = f"relative gradient {relative:.2g}"
    if converged:
        if solver == "newton" and (collapse := _one_value(objective, z)):
            return Mode(
                z,
                value,
                gradient_max,
                decrement,
                trace,
                Status.COLLAPSED,
                f"{collapse} ({measure} after {len(trace)} steps)",
                "integrate over the members (mean-field VB with linear response, NUTS); or use "
                "space='unconstrained', a non-centred model, or a prior that keeps the scale up",
            )
        return Mode(
            z,
            value,
            gradient_max,
            decrement,
            trace,
            Status.OK,
            f"{measure} after {len(trace)} steps",
        )
    if far.any():
        raise _collapse(objective.target, z, far, value, gradient_max)
    return Mode(
        z,
        value,
        gradient_max,
        decrement,
        trace,
        Status.UNCONVERGED,
        f"{measure} after {len(trace)} steps, tolerance {tolerance:.2g}; the solver said: "
        f"{message.strip().rstrip('.')}",
        "raise max_steps or num_starts, or try another solver",
    )


def _one_value(objective: Objective, z: np.ndarray) -> str:
    """Say which plates have all their members at one value with a scale that allows no other.

    That is so where the members differ by far less than the sd each has given everything else, and
    that sd is set by a hyperparameter.
    """
    target = objective.target
    curvature = objective.curvature(z)
    assert curvature is not None
    diagonal = curvature.diagonal()
    found = []
    for site in target.latents:
        if not site.plates or site.unconstrained_shape != site.shape:
            continue
        place = target.slices[site.name]
        axis = max(site.plates, key=lambda p: p[1])[2]
        members = z[place].reshape(site.shape)
        spread = members.std(axis=axis, ddof=1)
        own = 1 / np.sqrt(np.median(diagonal[place].reshape(site.shape), axis=axis))
        share = float(np.max(spread / own))
        if share > COLLAPSED:
            continue
        scales, prior = [], objective.own_curvature(site.name, z)[place]
        for other in target.latents:
            if other.plates or other.name == site.name:
                continue
            moved = z.copy()
            moved[target.slices[other.name]] += 1.0
            stirred = np.abs(objective.own_curvature(site.name, moved)[place] / prior - 1)
            if np.median(stirred) > STIRRED:
                scales.append(other)
        if scales:
            point = target.constrain(z)
            values = ", ".join(f"{s.name} = {np.ravel(point[s.name])[0]:.4g}" for s in scales)
            found.append(
                f"the {members.size} values of {site.name} are one, to {share:.1g} of the sd that "
                f"each has given the rest, at {values}: the joint mode has collapsed, and says "
                "nothing about the spread of a typical draw"
            )
    return "; ".join(found)


class NoMode(MethodFailure):
    """The density has no maximum; ``z`` is where the solver stopped."""

    z: np.ndarray


def _collapse(
    target: Target, z: np.ndarray, far: np.ndarray, value: float, gradient_max: float
) -> NoMode:
    """Return the failure that says which sites run to the edge of their support."""
    values = target.constrain(z)
    reports = []
    for site in target.latents:
        moved = far[target.slices[site.name]]
        if moved.any():
            constrained = np.ravel(values[site.name])
            if constrained.size != moved.size:
                reports.append(f"{site.name} runs to an edge of its support")
                continue
            index = int(np.argmax(moved))
            label = target.labels([site.name], coords=True)[index]
            reports.append(f"{label} runs to {constrained[index]:.2g}")
    failure = NoMode(
        Status.DEGENERATE,
        f"{'; '.join(reports)} while the log density still rises (now {-value:.6g}, gradient "
        f"{gradient_max:.2g}): the joint density has no maximum there",
        "integrate the latent variables instead of maximising over them (EM, mean-field VB with "
        "linear response, NUTS), "
        "or use a prior that keeps the scale from zero",
    )
    failure.z = z
    return failure
