"""Points that look like modes and are none: edges of supports, and densities that level out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from vi_recipes.algebra import (
    LEVEL,
    SAME,
    BlockArrow,
    Dense,
    as_good_outward,
    flattest,
    looks_flat,
    moves_to_edges,
)
from vi_recipes.core import MethodFailure, Status
from vi_recipes.modes.objective import JointObjective

MAX_DENSE = 300
"""Largest dimension for which a Hessian is formed to look at where a search without one ended."""

AFAR = 5.0
"""Units that such a search has gone in some coordinate, or it is not looked at."""

MOST = 20
"""Coordinates of bounded sites that are moved towards their edges, those of least curvature."""

STEEP_CONDITION = 1e4
"""Condition number at unit diagonal from which on up a structured Hessian counts as flat."""

EDGE = "an edge of its support"


class NoMode(MethodFailure):
    """The density has no maximum; ``z`` is where the solver stopped."""

    z: np.ndarray


class ByDifferences:
    """Hessian-vector products from differences of gradients, where no Hessian is formed."""

    def __init__(self, objective: JointObjective, z: Float[np.ndarray, " dim"]) -> None:
        self._objective, self._z = objective, z

    def dot(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return about the Hessian times a vector."""
        step = 1e-4 * float(np.abs(self._z).max() + 1e-3) / float(np.abs(vector).max())
        up, down = (
            self._objective.value_and_grad(self._z + sign * step * vector)[1] for sign in (1, -1)
        )
        return np.asarray((up - down) / (2 * step))


def require_mode(
    objective: JointObjective,
    z: Float[np.ndarray, " dim"],
    start: Float[np.ndarray, " dim"],
    last_step: Float[np.ndarray, " dim"],
    curvature: Dense | BlockArrow | None,
) -> str:
    """Raise :class:`NoMode` where the density gets no lower on a way out from where a search ended.

    Returns the sites along which it gets lower neither way, so that the mode is one of many; "" if
    there are none.

    Parameters
    ----------
    objective
        Minus the log density.
    z
        Where the gradient is as good as zero.
    start
        Where the search began.
    last_step
        The last move that changed much: where there is no mode it leads on out.
    curvature
        The Hessian at ``z``; ``None`` where none is formed.
    """

    def value(z: np.ndarray) -> float:
        return objective.value_and_grad(z)[0]

    target, edged = objective.target, objective.target.edged
    moved = np.abs(z - start)
    if curvature is None and target.dim <= MAX_DENSE and (moved > AFAR * target.units).any():
        curvature = objective.curvature(z)
    directions = [last_step, z - start, z]
    if curvature is None:
        flat = np.zeros(z.size, bool)
        directions = [d for d in directions if (np.abs(d) > AFAR * target.units).any()]
    else:
        diagonal = curvature.diagonal()
        places = np.flatnonzero(edged)
        places = places[np.argsort(diagonal[places])][:MOST]
        if moves := moves_to_edges(value, z, diagonal, places):
            far = np.zeros(z.size, bool)
            far[[move.place for move in moves]] = True
            raise no_mode(objective, z, far, all(move.levels for move in moves))
        flat = looks_flat(z, start, diagonal) & ~edged
        directions = [np.where(flat, d, 0.0) for d in directions] + directions
        if isinstance(curvature, Dense):
            smallest, vector = flattest(curvature.matrix)
            leaning = smallest < LEVEL
            directions += [vector, -vector]
        else:
            leaning = not curvature.positive or curvature.condition() > STEEP_CONDITION
        if not (flat.any() or leaning):
            return ""
    hessian = curvature or ByDifferences(objective, z)
    directions = [np.where(edged, 0.0, d) for d in directions] + directions
    here = value(z)
    along = as_good_outward(value, z, hessian, directions)
    if along is None:
        return ""
    if as_good_outward(value, z, hessian, [-along]) is not None:
        return _named(objective, along)
    raise _failure(
        z,
        f"the log density ({-here:.6g}) gets no lower along {_named(objective, along)}, however "
        "far out: it levels out and has no maximum, as where outcomes are separated and the prior "
        "is flat",
        "give those sites priors that fall, or leave out what separates the outcomes",
    )


def no_mode(
    objective: JointObjective,
    z: Float[np.ndarray, " dim"],
    far: Bool[np.ndarray, " dim"],
    levels: bool,
) -> NoMode:
    """Return the failure that says which sites run to the edge of their support.

    ``levels`` says whether the density comes to an end there.
    """
    target = objective.target
    values = target.constrain(z)
    reports = []
    for site in target.latents:
        moved = far[target.slices[site.name]]
        if moved.any():
            constrained = np.ravel(values[site.name])
            if constrained.size != moved.size:
                reports.append(f"{site.name} runs to {EDGE}")
                continue
            index = int(np.argmax(moved))
            label = target.labels([site.name], coords=True)[index]
            reports.append(f"{label} runs to {constrained[index]:.2g}")
    runs = "; ".join(reports)
    said = "" if runs.endswith(EDGE) else f", {EDGE}"
    value, gradient = objective.value_and_grad(z)
    if levels:
        return _failure(
            z,
            f"{runs}{said}, where the log density is highest ({-value:.6g}): "
            "there is no maximum inside, and the edge says nothing of typical values",
            "use space='unconstrained', a prior that keeps the site from its edge, or NUTS",
        )
    message = (
        f"{runs} while the log density still rises (now {-value:.6g}, gradient "
        f"{np.abs(gradient).max():.2g}): the joint density has no maximum there"
    )
    if _grow(objective, z, far):
        return _failure(
            z,
            message,
            "give it a prior that falls as it grows, without which the posterior may be improper, "
            "or leave it out, by the law that it tends to",
        )
    return _failure(
        z,
        message,
        "integrate the latent variables instead of maximising over them (EM, mean-field VB with "
        "linear response, NUTS), or use a prior that keeps the scale from zero",
    )


def _grow(
    objective: JointObjective, z: Float[np.ndarray, " dim"], far: Bool[np.ndarray, " dim"]
) -> bool:
    """Whether all that runs to an edge grows without end on the way."""
    target = objective.target
    here, further = target.constrain(z), target.constrain(z + np.where(far, np.sign(z), 0.0))
    sites = [s.name for s in target.latents if far[target.slices[s.name]].any()]
    grown = [np.abs(further[name]) > 2 * np.abs(here[name]) for name in sites]
    return bool(grown) and all(some.any() for some in grown)


def levels_out(
    objective: JointObjective,
    z: Float[np.ndarray, " dim"],
    start: Float[np.ndarray, " dim"],
    far: Bool[np.ndarray, " dim"],
) -> bool:
    """Whether the density comes to an end on the way that some coordinates of bounded sites go."""
    if not objective.target.edged[far].all():
        return False
    away = np.where(far, np.sign(z - start), 0.0)
    there = [objective.value_and_grad(z + distance * away)[0] for distance in (0.0, 6.0, 12.0)]
    return bool(np.isfinite(there).all() and abs(there[2] - there[1]) <= SAME)


def _named(objective: JointObjective, direction: Float[np.ndarray, " dim"]) -> str:
    return ", ".join(objective.target.sites_along(direction / objective.target.units))


def _failure(z: Float[np.ndarray, " dim"], message: str, advice: str) -> NoMode:
    failure = NoMode(Status.DEGENERATE, message, advice)
    failure.z = z
    return failure
