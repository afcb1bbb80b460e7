"""Members whose density given theta has another mode, which nodes around the one found miss."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

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


class AtModes(NamedTuple):
    """What nodes around some modes of the members come to, given theta."""

    log_p: float
    """Log-likelihood, or log density of theta."""
    modes: Float[np.ndarray, "members d"]
    means: Float[np.ndarray, "members d"]
    sds: Float[np.ndarray, "members d"]


class Members(Protocol):
    """The members' densities, given theta."""

    def sought(self, begun: Float[np.ndarray, "members d"]) -> Float[np.ndarray, "members d"]:
        """Return where a search for their modes ends that begins so."""

    def around(self, modes: Float[np.ndarray, "members d"]) -> AtModes:
        """Return what nodes around the modes next to these come to."""


def other_mode(members: Members, modes: Float[np.ndarray, "members d"]) -> str:
    """Say which mode of a member its nodes do not cover; empty where none is found.

    Modes are sought from afar. A member that has another is integrated over from there: nodes that
    reach over both give the same mean from either.

    Parameters
    ----------
    members
        Their densities, unconstrained scale.
    modes
        Those found.
    """
    here, looked = members.around(modes), 0
    if not np.isfinite(here.log_p):
        return ""
    modes, sd = here.modes, here.sds
    axes = np.eye(sd.shape[1])
    for far, axis in product(FAR, np.concatenate([axes, -axes])):
        begun = modes + far * sd * axis
        ends = members.sought(begun)
        other = (np.abs(ends - modes) > APART * sd).any(axis=1) & (ends != begun).any(axis=1)
        for member in np.flatnonzero(other)[: MOST - looked]:
            looked += 1
            alone = modes.copy()
            alone[member] = ends[member]
            there = members.around(alone)
            moved = np.abs(there.means - here.means)[member] > MOVED * sd[member]
            if there.log_p > here.log_p - DEPTH and moved.any():
                where = ", ".join(f"{z:.3g}" for z in alone[member])
                return f"member {member} has another mode, at {where}"
    return ""
