"""What a fit says of the data: their pointwise log-likelihood, and replications of them."""

from __future__ import annotations

import jax

from vi_recipes.core import as_key, one_at_a_time
from vi_recipes.fit.draws import (
    check_same,
    fit_draws,
)
from vi_recipes.fit.fit import Fit
from vi_recipes.model import Sites, Target, log_likelihood_at, replicate_at

# -- log-likelihood --------------------------------------------------------------------------


@one_at_a_time
def log_likelihood(fit: Fit, target: Target, *, num_draws: int | None = None) -> Sites:
    """Return the pointwise log-likelihood at draws of a fit, in float64.

    ``numpyro.factor`` terms are no part of it: they count as the prior's.

    Parameters
    ----------
    fit
        A fit of ``target``.
    target
        The model with its data.
    num_draws
        Draws, at most; of those that a sampler holds every k-th is taken. By default all of a
        sampler's and 2,000 of an approximation, or as many as take 256 MiB.

    Returns
    -------
    dict
        Observed site -> array of shape (chain, draw, *observations); an observation of a
        multivariate distribution is one. Minus infinity where the likelihood is zero.

    Raises
    ------
    ValueError
        For a target of another model or other data, a model without a pointwise likelihood, or
        more draws than memory allows.
    FitError
        For a fit without a result.
    """
    check_same(fit, target)
    target.check_pointwise()
    drawn = fit_draws(fit, target, num_draws)
    return log_likelihood_at(target, drawn.samples)


# -- replications ----------------------------------------------------------------------------


@one_at_a_time
def posterior_predictive(
    fit: Fit, target: Target, *, num_draws: int | None = None, key: jax.Array | int = 0
) -> Sites:
    """Return replications of the data, one at each draw of a fit.

    The observed sites are drawn anew from their distributions, given the draw of all continuous
    latent variables. Discrete ones, which fits sum out, are drawn anew with them, given the draw
    and not the data: such a replication is of new members. A model that reads the data elsewhere
    too, such as an autoregression its past values, goes on reading them there.

    Parameters
    ----------
    fit, target, num_draws
        As in :func:`log_likelihood`. Of a point all draws are equal, and their replications are
        not.
    key
        A JAX key or an integer seed.

    Returns
    -------
    dict
        Observed site -> array of shape (chain, draw, *site shape), of the data's own kind: whole
        numbers for counts.

    Raises
    ------
    ValueError
        As :func:`log_likelihood`; for a model that observes nothing, or a distribution that cannot
        be sampled.
    FitError
        For a fit without a result.
    """
    drawn = fit_draws(fit, target, num_draws, predictive=True)
    return replicate_at(target, drawn.samples, as_key(key))
