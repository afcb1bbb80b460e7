"""Whether the search ended at a mode, and what there is instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from vi_recipes.core import MethodFailure, Status
from vi_recipes.modes.edges import levels_out, no_mode, require_mode
from vi_recipes.modes.objective import JointObjective

Solver = Literal["auto", "newton", "l-bfgs"]


COLLAPSED = 0.25
"""Members of a plate that differ by less than this, in the sd of each given the rest, are one."""


STIRRED = 0.2
"""Relative change of a member's curvature by which a hyperparameter counts as its scale."""


FLAT = 1e-10
"""Smallest over largest eigenvalue of a Hessian that counts as zero."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where and why a solver stopped, on the unconstrained scale."""

    z: Float[np.ndarray, " dim"]
    start: Float[np.ndarray, " dim"]
    """Where it began."""
    last_step: Float[np.ndarray, " dim"]
    """The last move that was of some size."""
    far: Bool[np.ndarray, " dim"]
    """Which coordinates have run away from the start."""
    first: float
    """The objective at the start."""
    trace: list[float]
    """The log density after each step."""
    solver: Solver
    """Which solver it was."""
    why: str
    """What the solver said."""


@dataclass(frozen=True, kw_only=True)
class Mode:
    """Where an optimisation ended, on the unconstrained scale."""

    z: Float[np.ndarray, " dim"]
    value: float
    """Minus the log density."""
    gradient_max: float
    decrement: float
    """The Newton decrement; NaN where no Hessian was formed."""
    trace: list[float]
    status: Status
    message: str
    advice: str = ""


def judge_stop(objective: JointObjective, stop: Stop, tolerance: float) -> Mode:
    """Say whether a solver stopped at a minimum, by gradient and curvature and not by its word.

    Raises
    ------
    NoMode
        ``DEGENERATE`` where coordinates run to an edge of their support, or the density levels out.
    MethodFailure
        ``DIVERGED`` where the objective or its Hessian is not finite.
    """
    z, steps = stop.z, len(stop.trace)
    value, gradient = objective.value_and_grad(z)
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        raise MethodFailure(
            Status.DIVERGED,
            f"log density {-value}, gradient {np.abs(gradient).max()} after {steps} steps",
            "rescale the data, or start elsewhere with Model(init=...)",
        )
    gradient_max = float(np.abs(gradient).max())
    decrement = float("nan")

    def mode(status: Status, message: str, advice: str = "") -> Mode:
        return Mode(
            z=z,
            value=value,
            gradient_max=gradient_max,
            decrement=decrement,
            trace=stop.trace,
            status=status,
            message=message,
            advice=advice,
        )

    def one_of_many(along: str) -> Mode:
        return mode(
            Status.UNCONVERGED,
            f"the density is flat along {along}, so the mode is one of many",
            f"give {along} a prior that falls, or leave out what the data do not tell apart",
        )

    curvature = None
    if stop.solver == "newton":
        curvature = objective.curvature(z)
        if curvature is None:
            raise MethodFailure(
                Status.DIVERGED,
                f"the Hessian is not finite where the search stopped, after {steps} steps: log "
                f"density {-value:.6g}, largest entry of its gradient {gradient_max:.3g}",
                "rescale the data, start elsewhere with Model(init=...), or take a density that "
                "has second derivatives",
            )
        decrement = curvature.decrement(gradient)
        converged = decrement <= tolerance
        measure = f"Newton decrement {decrement:.2g}"
        stuck = not converged and not stop.far.any() and gradient_max <= tolerance
        if stuck and (ridge := require_mode(objective, z, stop.start, stop.last_step, curvature)):
            return one_of_many(ridge)
        smallest, largest, vector = curvature.extreme_eigenvalues() if stuck else (1.0, 1.0, z)
        if stuck and abs(smallest) <= FLAT * largest:
            return one_of_many(", ".join(objective.target.sites_along(vector)))
    else:
        # the first value bounds the scale: a density that grows without end does not excuse slopes
        steepest = float(np.abs(gradient * objective.target.units).max())
        relative = steepest / max(1.0, min(abs(value), abs(stop.first)))
        converged = relative <= tolerance
        measure = f"relative gradient {relative:.2g}"
    if converged:
        if ridge := require_mode(objective, z, stop.start, stop.last_step, curvature):
            return one_of_many(ridge)
        if stop.solver == "newton" and (collapse := collapsed_plates(objective, z)):
            return mode(
                Status.COLLAPSED,
                f"{collapse} ({measure} after {steps} steps)",
                "integrate over the members (mean-field VB with linear response, NUTS); or use "
                "space='unconstrained', a non-centred model, or a prior that keeps the scale up",
            )
        return mode(Status.OK, f"{measure} after {steps} steps")
    if stop.far.any():
        levels = levels_out(objective, z, stop.start, stop.far)
        raise no_mode(objective, z, stop.far, levels)
    return mode(
        Status.UNCONVERGED,
        f"{measure} after {steps} steps, tolerance {tolerance:.2g}; the solver said: "
        f"{stop.why.strip().rstrip('.')}",
        "raise max_steps or num_starts, or try another solver",
    )


def collapsed_plates(objective: JointObjective, z: Float[np.ndarray, " dim"]) -> str:
    """Say which plates have all their members at one value with a scale that allows no other.

    That is so where the members differ by far less than the sd each has given everything else, and
    that sd is set by a hyperparameter.
    """
    target = objective.target
    curvature = objective.curvature(z)
    if curvature is None:  # what was found to be finite is so again
        return ""
    diagonal = curvature.diagonal()
    sentences = []
    for site in target.latents:
        if not site.plates or site.unconstrained_shape != site.shape:
            continue
        place = target.slices[site.name]
        axis = max(site.plates, key=lambda p: p[1])[2]
        members = z[place].reshape(site.shape)
        if members.shape[axis] < 2:  # one is what it is
            continue
        spread = members.std(axis=axis, ddof=1)
        sd_given_rest = 1 / np.sqrt(np.median(diagonal[place].reshape(site.shape), axis=axis))
        share = float(np.max(spread / sd_given_rest))
        if share > COLLAPSED:
            continue
        scales, prior = [], objective.curvature_of_site(site.name, z)[place]
        for other in target.latents:
            if other.plates or other.name == site.name:
                continue
            moved = z.copy()
            moved[target.slices[other.name]] += 1.0
            stirred = np.abs(objective.curvature_of_site(site.name, moved)[place] / prior - 1)
            if np.median(stirred) > STIRRED:
                scales.append(other)
        if scales:
            point = target.constrain(z)
            values = ", ".join(f"{s.name} = {np.ravel(point[s.name])[0]:.4g}" for s in scales)
            sentences.append(
                f"the {members.size} values of {site.name} are one, to {share:.1g} of the sd that "
                f"each has given the rest, at {values}: the joint mode has collapsed, and says "
                "nothing about the spread of a typical draw"
            )
    return "; ".join(sentences)
