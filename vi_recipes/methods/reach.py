"""Whether the density jumps, or ends, within reach of a fit."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.core import Timing
from vi_recipes.model import Jump, Target, find_jumps
from vi_recipes.posterior import GaussianPosterior, PointPosterior, Posterior

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


NUM_DRAWS = 64
"""Draws of a fit that are held against where a density ends."""

FARTHEST_END = 8.0
"""Sds of a normal law within which an end counts."""

MAX_COORDINATES = 50
"""Along which an end is looked for next to a point, at most."""

ADVICE_AT_ENDS = (
    "write what bounds the data as their own extreme and a positive distance from it, such as "
    "theta = y.max() + distance; or use NestedQuadrature or NUTS"
)
"""What to do where a density ends."""


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


class End(NamedTuple):
    """A place where the density ends, and is 0 beyond.

    Parameters
    ----------
    text
        Which, and how near it is, in words.
    is_met
        Whether draws of the fit lie beyond it.
    """

    text: str
    is_met: bool = False


def end_within(posterior: Posterior, target: Target) -> End | None:
    """Return where the log density is minus infinity and a law has mass; ``None`` where nowhere.

    Its ELBO is minus infinity then, and what was maximised leaves that out. Only where the model's
    code says that there may be such places is anything computed.
    """
    if not target.flows.ending:
        return None
    rows = _draws_of(posterior, target, NUM_DRAWS)
    if not np.isfinite(rows).all():
        return None
    outside = int(np.isneginf(target.log_densities(rows)).sum())
    if outside:
        near = f"{outside} of {NUM_DRAWS} draws of its law are there"
    elif _ends_beside(rows.mean(axis=0), FARTHEST_END * rows.std(axis=0), target):
        near = f"that is {FARTHEST_END:g} sds or less from its mean, where its law has mass"
    else:
        return None
    return End(f"{sites_ending(target)}: {near}, so its ELBO is minus infinity", outside > 0)


def end_beside(posterior: Posterior, target: Target) -> End | None:
    """Return where the log density is minus infinity next to a mode; ``None`` where it is not."""
    if isinstance(posterior, GaussianPosterior):
        z, target = posterior.loc, posterior.target
    elif isinstance(posterior, PointPosterior):
        try:
            z = target.unconstrain(posterior.point)
        except ValueError:  # at an edge of a support
            return None
    else:
        return None
    if not _ends_beside(z, STEP * np.maximum(1.0, np.abs(z)), target):
        return None
    return End(f"{sites_ending(target)}: it is highest at that end, where no slope is 0")


def _ends_beside(
    z: Float[np.ndarray, " dim"], step: Float[np.ndarray, " dim"], target: Target
) -> bool:
    """Whether the log density is minus infinity a step away, along what it may end in."""
    names = sorted({name for names in target.flows.ending.values() for name in names})
    places = [np.arange(target.dim)[target.slices[name]] for name in names]
    if not places:
        return False
    along = np.concatenate(places)[:MAX_COORDINATES]
    moves = np.zeros((along.size, z.size))
    moves[np.arange(along.size), along] = step[along]
    rows = np.concatenate([z + moves, z - moves])
    return bool(np.isneginf(target.log_densities(rows)).any())


def sites_ending(target: Target) -> str:
    """Name the sites whose log density ends, and what it ends in."""
    return "; ".join(
        f"the log density of site {name} is minus infinity for some values of "
        f"{' and '.join(latents)}"
        for name, latents in target.flows.ending.items()
    )


def lines_within(posterior: Posterior, target: Target) -> Float[np.ndarray, "lines 2 dim"]:
    """Return lines through pairs of a posterior's draws, unconstrained; those through a point."""
    if isinstance(posterior, PointPosterior):
        try:
            return _lines_through(target.unconstrain(posterior.point), target)
        except ValueError:  # at an edge of a support
            return np.zeros((0, 2, target.dim))
    lines = _draws_of(posterior, target, 2 * NUM_LINES).reshape(2, NUM_LINES, -1).swapaxes(0, 1)
    return lines[np.isfinite(lines).all(axis=(1, 2))]


def _draws_of(posterior: Posterior, target: Target, count: int) -> Float[np.ndarray, "draws dim"]:
    """Return draws on the unconstrained scale, always the same ones."""
    key = jax.random.key(40_503)
    if hasattr(posterior, "unconstrained_draws"):
        return np.asarray(posterior.unconstrained_draws(count, key))
    return np.asarray(target.unconstrain_rows(posterior.draws(count, key)))


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
