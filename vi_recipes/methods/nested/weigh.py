"""What a fit's draws of theta weigh, with every member integrated out."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from scipy.special import softmax

from vi_recipes.core import as_key, one_at_a_time
from vi_recipes.fit import Fit
from vi_recipes.importance import MIN_DRAWS, khat
from vi_recipes.methods.nested.posterior import NestedPosterior

NUM_DRAWS = 1_000
"""Of theta, at most."""

MAX_WORK = 1e8
"""Numbers that all of them may read at their nodes: fewer of larger models."""


@dataclass(frozen=True)
class ThetaWeights:
    """Weights p(y, theta) / q(theta) of draws of theta from an approximation q.

    Parameters
    ----------
    num_draws
        How many.
    khat
        Pareto shape of the weights. It rises with the number of parameters, and not with that of
        members.
    share
        Effective share of the draws. A q that is too narrow in a scale may have a khat below the
        limit: below a half, moments that are reweighted so keep much of its error.
    """

    num_draws: int
    khat: float
    share: float


@one_at_a_time
def theta_weights(fit: Fit, nested: Fit, *, key: jax.Array | int = 0) -> ThetaWeights | None:
    """Return what draws of theta from an approximation weigh, by the density of a nested fit.

    Parameters
    ----------
    fit
        An approximation, of this session.
    nested
        A fit of the same target by :class:`NestedQuadrature`, of this session.
    key
        Seeds the draws.

    Returns
    -------
    ThetaWeights or None
        ``None`` where the approximation's law of theta has no density, as of a point or a sampler;
        where members are integrated out by Laplace's approximation or by weighed points, or no
        theta is left; or where a point of theta is too dear for 100 of them.
    """
    by = nested.posterior
    if not isinstance(by, NestedPosterior) or fit.posterior is None or fit is nested:
        return None
    density = by.density
    if not density.dim or density.is_laplace or density.is_noisy:
        return None
    count = min(NUM_DRAWS, int(MAX_WORK / (density.size * density.nodes.count)))
    if count < MIN_DRAWS:
        return None
    drawn = fit.posterior.marginal_draws(density.split.border, count, as_key(key))
    if drawn is None or not np.isfinite(drawn[1]).all():
        return None
    theta, log_q = drawn
    log_p = density.given(theta)[0]
    # plus infinity is a normalising constant that was rounded to 0, far out
    log_ratios = np.where(np.isfinite(log_p), log_p, -np.inf) - log_q
    if np.isneginf(log_ratios).all():
        return ThetaWeights(count, np.inf, 0.0)
    raw = softmax(log_ratios)
    return ThetaWeights(count, khat(log_ratios), float(1 / np.square(raw).sum() / count))
