"""Members whose density given theta has another mode, or none, at rows of theta."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vi_recipes.latent import CHEAP, MAX_QUADRATURE, AtModes, level_member, other_mode
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.nodes import powers
from vi_recipes.methods.nested.records import Conditional, Doubt


class _Members:
    """The members' densities given a theta."""

    def __init__(self, density: ThetaDensity, theta: Float[np.ndarray, " G"]) -> None:
        self._density, self._theta = density, theta

    def _from(
        self, begun: Float[np.ndarray, "members d"]
    ) -> tuple[Float[np.ndarray, " one"], Conditional]:
        self._density.move_to(self._theta, begun, None)
        return self._density.given(self._theta[None])

    def sought(self, begun: Float[np.ndarray, "members d"]) -> Float[np.ndarray, "members d"]:
        """Return where a search for their modes ends that begins so."""
        return np.asarray(self._from(begun)[1].modes[0])

    def around(self, modes: Float[np.ndarray, "members d"]) -> AtModes:
        """Return what nodes around the modes next to these come to."""
        log_p, given = self._from(modes)
        sds = np.sqrt((given.axes[0] ** 2).sum(axis=-1))
        return AtModes(float(log_p[0]), np.asarray(given.modes[0]), _means(given), sds)


def hidden_mode(density: ThetaDensity, theta: Float[np.ndarray, " G"]) -> str:
    """Say which mode of a member its nodes do not cover, given theta; empty where none is found."""
    if not _by_nodes(density) or density.size > CHEAP:
        return ""
    kept = density.place
    density.place = kept._replace(theta=theta)
    try:
        found = np.asarray(density.given(theta[None])[1].modes[0])
        return other_mode(_Members(density, theta), found)
    finally:
        density.place = kept


def hidden_modes(density: ThetaDensity, rows: Float[np.ndarray, "rows G"]) -> str:
    """Say the first that is found at rows of theta; empty where none is."""
    return next(filter(None, (hidden_mode(density, theta) for theta in rows)), "")


def level_members(density: ThetaDensity, theta: Float[np.ndarray, " G"]) -> Doubt | None:
    """Say of which member the density has no end, given theta; ``None`` where none is found."""
    if not _by_nodes(density) or density.split.num_members == 1:
        return None
    _, given = density.given(theta[None])
    modes, axes = np.asarray(given.modes[0]), np.asarray(given.axes[0])
    sds = np.sqrt((axes**2).sum(axis=-1))
    if not np.isfinite(sds).all():
        return None
    found = level_member(density.split, theta, modes, sds, density.timing.compile)
    if not found:
        return None
    return Doubt(
        f"{found}, which leaves infinite mass there: the posterior is improper, as where a "
        "member's outcomes are separated under a flat prior",
        f"give {', '.join(density.split.latents)} a prior that falls to both sides",
    )


def _by_nodes(density: ThetaDensity) -> bool:
    narrow = density.split.width <= MAX_QUADRATURE
    return density.has_members and not density.is_normal and narrow


def _means(given: Conditional) -> Float[np.ndarray, "members d"]:
    """Return the members' means given theta, by their nodes."""
    d = given.modes.shape[-1]
    order = powers(d)
    first = [int(np.flatnonzero((order == unit).all(axis=1))[0]) for unit in np.eye(d, dtype=int)]
    mean: np.ndarray = given.modes[0] + np.einsum(
        "tij,tj->ti", given.axes[0], given.moments[0][:, first]
    )
    return mean
