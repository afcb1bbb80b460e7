"""What a fit says of the data: their pointwise log-likelihood, and replications of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import Predictive, init_to_uniform
from numpyro.infer import log_likelihood as numpyro_log_likelihood
from numpyro.primitives import Messenger

from vi_recipes.fit.fit import Fit, as_key, held_draws
from vi_recipes.model.sites import Site, read_trace
from vi_recipes.model.target import Arrays, Target
from vi_recipes.posterior.base import Sites

NUM_DRAWS = 2_000
"""Of approximations that can give any number."""

NUM_POINT_DRAWS = 4
"""Copies of a point that stand for its draws: as few as ArviZ summarises."""

MAX_NUMBERS = 2**25
"""Draws times observations, at most: 256 MiB in float64."""

BLOCK = 2**21
"""Numbers that one call of compiled code returns."""


@dataclass(frozen=True)
class FitDraws:
    """Draws of a fit, at which everything else is computed.

    Parameters
    ----------
    samples
        Site -> values on the constrained scale, shape (chain, draw, *site shape).
    kept
        Which of the draws that the fit holds these are, shape (draw,); ``None`` for fresh ones.
    z, log_q
        Where an approximation has a density: the flat unconstrained vectors, shape (draw, dim), and
        their log density over the unconstrained scale, shape (draw,). There is one chain then.
    """

    samples: Sites
    kept: np.ndarray | None = None
    z: np.ndarray | None = None
    log_q: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of chains and of draws in each."""
        first = next(iter(self.samples.values()))
        return first.shape[0], first.shape[1]


def plain_draws(fit: Fit, num_draws: int | None = None) -> FitDraws:
    """Return draws of ``fit`` without a density, at most ``num_draws``.

    Of the draws that a fit holds every k-th of each chain is taken, and by default all; others give
    2,000, and a point four times itself.
    """
    posterior = fit.known_posterior()
    mean = fit.mean() if fit.is_point else {}
    # one read from a file holds few copies of itself, and one from outside may lack some sites
    if mean and all(np.isfinite(value).all() for value in mean.values()):
        number = num_draws or NUM_POINT_DRAWS
        return FitDraws({n: np.repeat(v[None, None], number, axis=1) for n, v in mean.items()})
    held = held_draws(posterior)
    if held is None:
        number = num_draws or NUM_DRAWS
        return FitDraws({n: v[None] for n, v in posterior.draws(number, as_key(0)).items()})
    chains, draws = next(iter(held.values())).shape[:2]
    step = 1 if num_draws is None else -(-draws // max(num_draws // chains, 1))
    kept = np.arange(0, draws, step)
    return FitDraws({name: value[:, kept] for name, value in held.items()}, kept)


def fit_draws(
    fit: Fit, target: Target, num_draws: int | None = None, *, predictive: bool = False
) -> FitDraws:
    """Return draws of ``fit``, with their density where it has one.

    Parameters
    ----------
    fit, target
        A fit, and what it is a fit of.
    num_draws
        At most. By default all that a fit holds, and 2,000 of others, or as many as memory allows.
    predictive
        Whether they are for replications of the data, of which four of a point are few.

    Raises
    ------
    ValueError
        For a target that is not the fit's, or a number that is not positive, or with more values
        than memory allows.
    """
    check_same(fit, target)
    size = sum(site.size for site in observed_sites(target).values())
    limit = max(MAX_NUMBERS // max(size, 1), 1)
    if num_draws is not None:
        check_num_draws(num_draws)
        if num_draws > limit:
            raise ValueError(
                f"num_draws: got {num_draws:,}, expected at most {limit:,}: the values at every "
                f"draw of {size:,} observations have to fit in memory"
            )
    posterior = fit.known_posterior()
    held = held_draws(posterior)
    own = NUM_DRAWS
    if fit.is_point:
        own = NUM_DRAWS if predictive else NUM_POINT_DRAWS
    elif held is not None:
        own = int(np.prod(next(iter(held.values())).shape[:2]))
    number = min(own, limit) if num_draws is None else num_draws
    weighed = posterior.weighed_draws(number, as_key(0))
    if weighed is None:
        return plain_draws(fit, number)
    samples = {name: value[None] for name, value in weighed.values.items()}
    return FitDraws(samples, z=weighed.z, log_q=weighed.log_q)


def check_num_draws(num_draws: int | None) -> None:
    """Raise a :class:`ValueError` unless it is ``None`` or a positive integer."""
    if num_draws is None or (type(num_draws) is int and num_draws > 0):
        return
    raise ValueError(f"num_draws: got {num_draws!r}, expected a positive integer")


def check_same(fit: Fit, target: Target) -> None:
    """Raise a :class:`ValueError` unless ``fit`` is of ``target``: its model and its data."""
    if not isinstance(target, Target):
        raise ValueError(f"target: got {type(target).__name__}, expected the Target of the fit")
    theirs, ours = ([(s.name, s.shape) for s in q] for q in (fit.sites, target.quantities))
    known = fit.provenance
    if theirs != ours or (known.model and known.model != target.name):
        raise ValueError(
            f"target: got model '{target.name}' with the sites {ours}, expected that of the fit, "
            f"'{known.model}' with {theirs}"
        )
    if known.data_fingerprint and known.data_fingerprint != target.fingerprint:
        raise ValueError(
            f"target: got data with the fingerprint {target.fingerprint}, but '{fit.method}' was "
            f"fitted to other data, {known.data_fingerprint}; make the Target of those"
        )


# -- log-likelihood --------------------------------------------------------------------------


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


def log_likelihood_at(target: Target, samples: Mapping[str, np.ndarray]) -> Sites:
    """Return the pointwise log-likelihood at draws shaped (chain, draw, *site shape)."""

    def evaluate(latents: dict[str, jax.Array], _: jax.Array, arrays: Arrays) -> Any:
        found = numpyro_log_likelihood(target.seeded, latents, **target.keywords(arrays))
        return {site.name: found[site.name] for site in target.observed}

    return _in_blocks("log_likelihood", evaluate, target, samples, jax.random.key(0))


# -- replications ----------------------------------------------------------------------------


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


def replicate_at(target: Target, samples: Mapping[str, np.ndarray], key: jax.Array) -> Sites:
    """Return replications at draws shaped (chain, draw, *site shape)."""
    names = list(observed_sites(target))
    if not names:
        raise ValueError(
            f"model '{target.name}' observes nothing, so it predicts nothing: its likelihood lives "
            "in numpyro.factor terms. Give it an observed site (obs=...) to have replications"
        )
    fresh = handlers.uncondition(_Whole(target.complete_model.function))

    def replicate(latents: dict[str, jax.Array], key: jax.Array, arrays: Arrays) -> Any:
        predict = Predictive(fresh, latents, return_sites=names)
        return predict(key, **target.keywords(arrays))

    try:
        return _in_blocks("posterior_predictive", replicate, target, samples, key)
    except (NotImplementedError, ValueError) as error:
        why = f": {error}" if str(error) else ""
        raise ValueError(
            f"model '{target.name}' observes a distribution that cannot be sampled "
            f"({', '.join(names)}), so there are no replications of its data{why}"
        ) from None


class _Whole(Messenger):  # type: ignore[misc]
    """Give observed sites distributions of the data's whole shape.

    A scalar distribution observed at an array has the right density, and one draw.
    """

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or not msg["is_observed"] or isinstance(msg["fn"], dist.Unit):
            return
        shape = jnp.shape(msg["value"])
        batch = shape[: len(shape) - msg["fn"].event_dim]
        if msg["fn"].batch_shape != batch:
            msg["fn"] = msg["fn"].expand(batch)


# -- the data --------------------------------------------------------------------------------


def observed_sites(target: Target) -> dict[str, Site]:
    """Return the observed sites by name, of a model whose discrete variables are summed out too."""
    if target.observed or target.complete_model is target.model:
        return {site.name: site for site in target.observed}
    trace: dict[str, Any] = {}
    with jax.enable_x64(True):
        jax.eval_shape(lambda arrays: trace.update(_trace(target, arrays)), target.arrays())
    return {name: s for name, s in read_trace(trace).items() if s.kind == "observed"}


def observed_data(target: Target) -> Sites:
    """Return what the model observes, by site: the data as they reach their distributions."""
    names = list(observed_sites(target))

    def values(arrays: Arrays) -> dict[str, jax.Array]:
        trace = _trace(target, arrays)
        return {name: jnp.asarray(trace[name]["value"]) for name in names}

    with jax.enable_x64(True):
        return {name: np.asarray(v) for name, v in jax.jit(values)(target.arrays()).items()}


def _trace(target: Target, arrays: Arrays) -> dict[str, Any]:
    """Return a trace of the model as it was given."""
    # init_to_uniform, because improper distributions cannot be sampled
    seeded = handlers.seed(target.complete_model.function, jax.random.key(0))
    model = handlers.substitute(seeded, substitute_fn=init_to_uniform())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return dict(handlers.trace(model).get_trace(**target.keywords(arrays)))


# -- blocks ----------------------------------------------------------------------------------


def _in_blocks(
    name: str,
    function: Callable[..., Any],
    target: Target,
    samples: Mapping[str, np.ndarray],
    key: jax.Array,
) -> Sites:
    """Apply ``function(latents, key, arrays)`` to blocks of the draws of all chains.

    One shape, so one compilation: the last block is filled up with its last draw.
    """
    flat = {s.name: samples[s.name].reshape(-1, *samples[s.name].shape[2:]) for s in target.latents}
    chains, draws = next(iter(samples.values())).shape[:2]
    total = chains * draws
    size = sum(site.size for site in observed_sites(target).values())
    block = min(max(BLOCK // max(size, 1), 1), total)
    parts = []
    with jax.enable_x64(True):
        compiled = target.compiled.setdefault((name, block), jax.jit(function))
        for first in range(0, total, block):
            rows = np.minimum(np.arange(first, first + block), total - 1)
            latents = {n: jnp.asarray(v[rows], float) for n, v in flat.items()}
            found = compiled(latents, jax.random.fold_in(key, first), target.arrays())
            parts.append({n: np.asarray(v)[: total - first] for n, v in found.items()})
    joined = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
    return {n: v.reshape(chains, draws, *v.shape[1:]) for n, v in joined.items()}
