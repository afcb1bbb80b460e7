"""Whether the density jumps within reach of a fit."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.core import Timing
from vi_recipes.model import Jump, Target, find_jumps
from vi_recipes.posterior import PointPosterior, Posterior

NUM_LINES = 8
"""Lines along which a density is looked at, each through two draws of the fit."""

STEP = 1e-3
"""Of a difference of slopes, by which the curvature at a point is found."""

NUM_SDS = 4.0
"""How far from a point is looked, in what the curvature there makes an sd."""

ADVICE = (
    "make what jumps a discrete variable, which is summed out exactly; or put something continuous "
    "in its place, such as jax.nn.sigmoid; or use NUTS, which sees jumps but crosses them slowly: "
    "look at its R-hat and effective sample sizes"
)
"""What to do where a density jumps."""


def met_jumps(posterior: Posterior | None, target: Target, timing: Timing) -> str:
    """Say at what the log density jumps within reach of a posterior; nothing where it does not.

    Without a posterior it is looked at around where fits start.
    """
    if not target.flows.stepped:
        return ""
    lines = (
        _lines_through(target.anywhere(), target)
        if posterior is None
        else lines_within(posterior, target)
    )
    jumps = find_jumps(target, lines, timing)
    return "; ".join(_describe(jump, target) for jump in jumps)


def lines_within(posterior: Posterior, target: Target) -> Float[np.ndarray, "lines 2 dim"]:
    """Return lines through pairs of a posterior's draws, unconstrained; those through a point."""
    if isinstance(posterior, PointPosterior):
        try:
            return _lines_through(target.unconstrain(posterior.point), target)
        except ValueError:  # at an edge of a support
            return np.zeros((0, 2, target.dim))
    key = jax.random.key(40_503)
    if hasattr(posterior, "unconstrained_draws"):
        rows = posterior.unconstrained_draws(2 * NUM_LINES, key)
    else:
        rows = target.unconstrain_rows(posterior.draws(2 * NUM_LINES, key))
    lines = np.asarray(rows).reshape(2, NUM_LINES, -1).swapaxes(0, 1)
    return lines[np.isfinite(lines).all(axis=(1, 2))]


def _lines_through(
    z: Float[np.ndarray, " dim"], target: Target
) -> Float[np.ndarray, "lines 2 dim"]:
    """Return lines through a point, of all latent sites and of each alone.

    Each goes as far to both sides as the curvature along it says; in units of one where there is
    none.
    """
    signs = np.random.default_rng(3).choice([-1.0, 1.0], z.size)
    ways: list[np.ndarray] = [signs]
    for place in target.slices.values() if len(target.slices) > 1 else ():
        alone = np.zeros(z.size)
        alone[place] = signs[place]
        ways.append(alone)
    way = np.stack(ways)
    size = np.maximum(1.0, np.abs(z).max())
    ends = np.concatenate([z + STEP * size * way, z - STEP * size * way])
    above, below = np.split(target.scores(ends), 2)
    bend = -((above - below) * way).sum(axis=1) / (2 * STEP * size)
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt((way**2).sum(axis=1) / bend)
    sd = np.where(np.isfinite(sd) & (sd > 0), sd, 1.0)
    away = NUM_SDS / 2 * sd[:, None] * way  # a line goes on through its two points by half as much
    return np.stack([z - away, z + away], axis=1)


def _describe(jump: Jump, target: Target) -> str:
    what = f"of site {jump.site}" if jump.site in target.sites else "of the model"
    move = "moves" if len(jump.latents) == 1 else "move"
    return f"the log density {what} jumps by {jump.size:.2g} as {' and '.join(jump.latents)} {move}"
