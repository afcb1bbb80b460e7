"""What a fit says of the data: their pointwise log-likelihood, and replications of them."""

from __future__ import annotations

import jax
import numpy as np
from numpyro.infer import Predictive

from vi_recipes.core import as_key, check_arguments, one_at_a_time
from vi_recipes.fit.draws import check_num_draws, fit_draws, target_of
from vi_recipes.fit.fit import Fit
from vi_recipes.model import Model, Sites, Target, as_target, log_likelihood_at, replicate_at

# -- log-likelihood --------------------------------------------------------------------------


@check_arguments("fit")
@one_at_a_time
def log_likelihood(fit: Fit, target: Target | Model, *, num_draws: int | None = None) -> Sites:
    """Return the pointwise log-likelihood at draws of a fit, in float64.

    ``numpyro.factor`` terms are no part of it: they count as the prior's.

    Parameters
    ----------
    fit
        A fit of ``target``.
    target
        The model with its data; of a formula what :func:`glmm` returns will do.
    num_draws
        Draws, at most; of those that a sampler holds every k-th is taken. By default all of a
        sampler's and 2,000 of an approximation, or as many as take 256 MiB.

    Returns
    -------
    dict
        Observed site -> array of shape ``(chain, draw, *observations)``; an observation of a
        multivariate distribution is one. Minus infinity where the likelihood is zero.

    Raises
    ------
    ValueError
        For a target of another model or other data, a model without a pointwise likelihood, or
        more draws than memory allows.
    FitError
        For a fit without a result.
    """
    target = target_of(fit, target)
    target.check_pointwise()
    drawn = fit_draws(fit, target, num_draws)
    return log_likelihood_at(target, drawn.samples)


# -- before the data -------------------------------------------------------------------------


@check_arguments("target")
@one_at_a_time
def prior_predictive(
    target: Target | Model, *, num_draws: int = 1_000, key: jax.Array | int = 0
) -> dict[str, np.ndarray]:
    """Return data that the model would make: one set at each draw of its prior.

    Parameters
    ----------
    target
        The model; of its data the sizes and covariates are used.
    num_draws, key
        How many sets, and a JAX key or an integer seed.

    Returns
    -------
    dict
        Observed site -> array of shape ``(1, draw, *site shape)``.

    Raises
    ------
    ValueError
        For a model that observes nothing, an improper prior, or a distribution that cannot be
        sampled.
    """
    check_num_draws(num_draws)
    target = as_target(target)
    prior = Predictive(target.model.function, num_samples=num_draws, batch_ndims=1)
    fresh = [site.name for site in target.latents]
    prior.return_sites = fresh
    try:
        with jax.enable_x64(True):
            drawn = prior(as_key(key), **target.data)
    except NotImplementedError:
        raise ValueError(
            f"model '{target.name}' has an improper prior, which nothing can be drawn from; give "
            "its parameters proper ones"
        ) from None
    samples = {name: np.asarray(drawn[name])[None] for name in fresh}
    return replicate_at(target, samples, jax.random.fold_in(as_key(key), 1))


# -- replications ----------------------------------------------------------------------------


@check_arguments("fit")
@one_at_a_time
def posterior_predictive(
    fit: Fit,
    target: Target | Model,
    *,
    num_draws: int | None = None,
    key: jax.Array | int = 0,
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
        Observed site -> array of shape ``(chain, draw, *site shape)``, of the data's own kind:
        whole numbers for counts.

    Raises
    ------
    ValueError
        As :func:`log_likelihood`; for a model that observes nothing, or a distribution that cannot
        be sampled.
    FitError
        For a fit without a result.
    """
    target = target_of(fit, target)
    drawn = fit_draws(fit, target, num_draws, predictive=True)
    return replicate_at(target, drawn.samples, as_key(key))
