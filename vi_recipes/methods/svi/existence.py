"""Whether Renyi's bound has a value at the answer: whether powers of the weights have a mean."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.core import Status, Timing
from vi_recipes.importance import MIN_DRAWS, khat
from vi_recipes.methods.base import Result
from vi_recipes.model import Target
from vi_recipes.posterior import GaussianPosterior, Posterior

RADII = 2.0 ** np.arange(1, 21)
"""Distances from a normal's mean at which the tails are looked at, in its sds: to a million."""

MOST_COORDINATES = 40
"""Coordinates whose own directions are looked along, at most; the first of every site is."""

NUM_DRAWS = 8
"""Draws whose directions are looked along besides."""

STEEP, SLOW = 2.5, 1.5
"""Powers of the distance that minus log p grows by, from which, and up to which, it is not that of
a normal, 2, but beats it, or is beaten by it, whatever its sd."""

NO_MEAN = 1.0
"""Pareto shape from which what has such a tail has no finite mean."""


def mind_no_value(
    result: Result,
    alpha: float,
    num_particles: int,
    estimates: Float[np.ndarray, " estimates"] | None,
    target: Target,
    timing: Timing,
) -> Result:
    """Return a result as it is, or as unconverged where Renyi's bound has no value at the answer.

    The bound of order alpha is log E_q[(p / q)^(1 - alpha)] / (1 - alpha). For alpha between 0 and
    1 the mean is finite, for others that depends on the tails. A run averages finitely many draws,
    whose bound is finite either way: where the mean is not, its optimum depends on their number.

    Parameters
    ----------
    result
        What the run came to.
    alpha
        Order of the divergence.
    num_particles
        Draws a step.
    estimates
        Of the bound at the answer, each from ``num_particles`` fresh draws; ``None`` for points.
    target, timing
        What was fitted, and the clock.
    """
    if 0 <= alpha <= 1 or estimates is None or not result.status.has_result:
        return result
    with timing.running_compiled():
        found = _in_tails(result.posterior, alpha, target) or _in_draws(estimates, alpha)
    if not found:
        return result
    power = f"(p / q)^{1 - alpha:g}"
    message = (
        f"the Renyi bound of order {alpha:g} has no finite value at this guide: the mean of "
        f"{power} under q {found}. The answer is that of {num_particles} draws a "
        f"step and moves with their number; {result.message}"
    )
    advice = "use alpha between 0 and 1, where the bound has a value for every guide; or the ELBO"
    status = Status.UNCONVERGED if result.status.ok else result.status
    return replace(result, status=status, message=message, advice=advice)


def _in_tails(posterior: Posterior | None, alpha: float, target: Target) -> str:
    """Say where the tails of a normal make the mean infinite; nothing where they do not.

    Along a line the terms q^alpha p^(1 - alpha) of the integral must fall far out.
    """
    if not isinstance(posterior, GaussianPosterior):
        return ""
    ways, names = _directions(posterior, target)
    rows = (posterior.loc + RADII[:, None, None] * ways).reshape(-1, target.dim)
    log_q = posterior.log_density(np.concatenate([posterior.loc[None], rows]))
    if log_q is None:
        return ""
    log_p = target.log_densities(np.concatenate([posterior.loc[None], rows]), nan=np.nan)
    down_q, down_p = (
        (values[0] - values[1:]).reshape(RADII.size, len(ways)) for values in (log_q, log_p)
    )

    terms = (alpha - 1) * down_p - alpha * down_q
    rising = [k for k, column in enumerate(terms.T) if _grows(column)]
    if not rising:
        return ""
    along = list(dict.fromkeys(names[k] for k in rising if names[k]))
    text = f"is infinite, as q^{alpha:g} p^{1 - alpha:g} grows without end along "
    text += ", ".join(along[:3]) or "lines through several sites"
    if len(along) > 3:
        text += f" and {len(along) - 3} more"
    powers = [_power(down_p[:, k]) for k in rising]
    if max(powers) > STEEP if alpha > 1 else min(powers) < SLOW:
        text += ", whatever the normal"
    return text


def _directions(
    posterior: GaussianPosterior, target: Target
) -> tuple[Float[np.ndarray, "lines dim"], list[str]]:
    """Return steps of one sd to both sides, of coordinates and of draws, and sites.

    The lines through draws have no site.
    """
    firsts = [place.start for place in target.slices.values()][:MOST_COORDINATES]
    others = np.setdiff1d(np.arange(target.dim), firsts)
    room = max(MOST_COORDINATES - len(firsts), 0)
    spread = others[np.unique(np.linspace(0, others.size - 1, min(room, others.size), dtype=int))]
    chosen = np.concatenate([firsts, spread]).astype(int)
    own = np.zeros((chosen.size, target.dim))
    own[np.arange(chosen.size), chosen] = posterior.scale[chosen]
    drawn = posterior.unconstrained_draws(NUM_DRAWS, jax.random.key(52_711)) - posterior.loc
    drawn /= np.sqrt(np.square(drawn / posterior.scale).sum(axis=1, keepdims=True))
    site = {j: name for name, place in target.slices.items() for j in range(target.dim)[place]}
    names = [site[j] for j in chosen] + [""] * NUM_DRAWS
    ways = np.concatenate([own, drawn])
    return np.concatenate([ways, -ways]), 2 * names


def _grows(terms: Float[np.ndarray, " radii"]) -> bool:
    """Whether terms, 0 at the centre, rise between the last two radii at which they are finite.

    Where numbers overflow or underflow a density of 0 may be none.
    """
    known = terms[np.isfinite(terms)]
    return bool(known.size > 1 and known[-1] > max(known[-2], 0.0))


def _power(down: Float[np.ndarray, " radii"]) -> float:
    """Return by which power of the distance minus log p grows at the last finite radii; 2 unknown.

    Each radius is twice the one before.
    """
    known = down[np.isfinite(down) & (down > 0)]
    return float(np.log2(known[-1] / known[-2])) if known.size > 1 else 2.0


def _in_draws(estimates: Float[np.ndarray, " estimates"], alpha: float) -> str:
    """Say what tail the averages of the powers have, where theirs has no mean."""
    logs = (1 - alpha) * estimates
    if logs.size < MIN_DRAWS or not np.isfinite(logs).all():
        return ""
    shape = khat(logs)
    if shape < NO_MEAN:
        return ""
    return (
        f"looks infinite by the tail of {logs.size} estimates (khat {shape:.2g}, and a mean needs "
        f"less than {NO_MEAN:g})"
    )
