"""Members whose density given theta has another mode, which nodes around the one found miss."""

from __future__ import annotations

from itertools import product

import numpy as np
from jaxtyping import Float

from vi_recipes.latent import MAX_QUADRATURE
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.nodes import powers
from vi_recipes.methods.nested.records import Conditional

FAR = (6.0, 24.0, 96.0)
"""Sds from the members' modes, to both sides, from which others are sought."""

APART = 3.0
"""Sds between two modes from which they are two."""

MOVED = 0.1
"""Sds by which the nodes around two modes may disagree on a member's mean."""

DEPTH = 7.0
"""Nats by which a mode has less mass than the one found, from which it counts for nothing."""

MOST = 8
"""Members that are looked at one by one, at most."""

CHEAP = 2e4
"""Numbers of the data and the members up to which it is looked."""


def hidden_mode(density: ThetaDensity, theta: Float[np.ndarray, " G"]) -> str:
    """Say which mode of a member its nodes do not cover, given theta; empty where none is found.

    Modes are sought from afar. A member that has another is integrated over from there: nodes that
    reach over both give the same mean from either.
    """
    by_nodes = (
        density.has_members and not density.is_normal and density.split.width <= MAX_QUADRATURE
    )
    if not by_nodes or density.size > CHEAP:
        return ""
    kept = density.place
    density.place = kept._replace(theta=theta)
    try:
        return _hidden(density, theta)
    finally:
        density.place = kept


def hidden_modes(density: ThetaDensity, rows: Float[np.ndarray, "rows G"]) -> str:
    """Say the first that is found at rows of theta; empty where none is."""
    return next(filter(None, (hidden_mode(density, theta) for theta in rows)), "")


def _hidden(density: ThetaDensity, theta: Float[np.ndarray, " G"]) -> str:
    log_p, given = density.given(theta[None])
    if not np.isfinite(log_p[0]):
        return ""
    modes, axes = given.modes[0], given.axes[0]
    sd = np.sqrt((axes**2).sum(axis=-1))
    means, looked = _means(given), 0
    for far, axis in product(FAR, np.concatenate([np.eye(sd.shape[1]), -np.eye(sd.shape[1])])):
        begun = modes + far * sd * axis
        ends = _from(density, theta, begun)[1].modes[0]
        other = (np.abs(ends - modes) > APART * sd).any(axis=1) & (ends != begun).any(axis=1)
        for member in np.flatnonzero(other)[: MOST - looked]:
            looked += 1
            alone = modes.copy()
            alone[member] = ends[member]
            value, there = _from(density, theta, alone)
            moved = np.abs(_means(there) - means)[member] > MOVED * sd[member]
            if value[0] > log_p[0] - DEPTH and moved.any():
                where = ", ".join(f"{z:.3g}" for z in alone[member])
                return f"member {member} has another mode, at {where}"
    return ""


def _from(
    density: ThetaDensity, theta: Float[np.ndarray, " G"], modes: Float[np.ndarray, "members d"]
) -> tuple[Float[np.ndarray, " one"], Conditional]:
    """Return what is found at theta where the members' modes are sought from some place."""
    density.move_to(theta, modes, None)
    return density.given(theta[None])


def _means(given: Conditional) -> Float[np.ndarray, "members d"]:
    """Return the members' means given theta, by their nodes."""
    d = given.modes.shape[-1]
    order = powers(d)
    first = [int(np.flatnonzero((order == unit).all(axis=1))[0]) for unit in np.eye(d, dtype=int)]
    mean: np.ndarray = given.modes[0] + np.einsum(
        "tij,tj->ti", given.axes[0], given.moments[0][:, first]
    )
    return mean
