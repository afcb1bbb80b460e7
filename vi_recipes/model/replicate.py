"""Observed sites drawn again, and their log-likelihood, at given draws."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro import handlers
from numpyro.infer import Predictive, init_to_uniform
from numpyro.infer import log_likelihood as numpyro_log_likelihood
from numpyro.primitives import Messenger

from vi_recipes.core import one_at_a_time
from vi_recipes.model.bound import Arrays
from vi_recipes.model.density import FlatDensity
from vi_recipes.model.sites import Site, Sites, read_trace

MAX_NUMBERS = 2**25
"""Draws times observations, at most: 256 MiB in float64."""


BLOCK = 2**21
"""Numbers that one call of compiled code returns."""


@one_at_a_time
def log_likelihood_at(target: FlatDensity, samples: Mapping[str, np.ndarray]) -> Sites:
    """Return the pointwise log-likelihood at draws shaped ``(chain, draw, *site shape)``."""

    def evaluate(latents: dict[str, Array], _: Array, arrays: Arrays) -> dict[str, Array]:
        pointwise = numpyro_log_likelihood(target.seeded, latents, **target.keywords(arrays))
        return {site.name: pointwise[site.name] for site in target.observed}

    return _in_blocks("log_likelihood", evaluate, target, samples, jax.random.key(0))


@one_at_a_time
def replicate_at(target: FlatDensity, samples: Mapping[str, np.ndarray], key: jax.Array) -> Sites:
    """Return replications at draws shaped ``(chain, draw, *site shape)``."""
    names = list(observed_sites(target))
    if not names:
        raise ValueError(
            f"model '{target.name}' observes nothing, so it predicts nothing: its likelihood lives "
            "in numpyro.factor terms. Give it an observed site (obs=...) to have replications"
        )
    fresh = handlers.uncondition(_Whole(target.complete_model.function))

    def replicate(latents: dict[str, Array], key: Array, arrays: Arrays) -> dict[str, Array]:
        predict = Predictive(fresh, latents, return_sites=names)
        return dict(predict(key, **target.keywords(arrays)))

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


@one_at_a_time
def observed_sites(target: FlatDensity) -> dict[str, Site]:
    """Return the observed sites by name, of a model whose discrete variables are summed out too."""
    if target.observed or target.complete_model is target.model:
        return {site.name: site for site in target.observed}
    return target.compiled_for_any_data("observed sites", lambda: _trace_observed_sites(target))


def _trace_observed_sites(target: FlatDensity) -> dict[str, Site]:
    trace: dict[str, Any] = {}
    with jax.enable_x64(True):
        jax.eval_shape(lambda arrays: trace.update(_trace(target, arrays)), target.arrays())
    return {name: s for name, s in read_trace(trace).items() if s.kind == "observed"}


@one_at_a_time
def observed_data(target: FlatDensity) -> Sites:
    """Return what the model observes, by site: the data as they reach their distributions.

    Raises
    ------
    ValueError
        For a target whose rows are divided over hosts, or filled up.
    """
    target.check_undivided()
    names = list(observed_sites(target))

    def values(arrays: Arrays) -> dict[str, Array]:
        trace = _trace(target, arrays)
        return {name: jnp.asarray(trace[name]["value"]) for name in names}

    compiled = target.compiled_for_any_data("observed data", lambda: jax.jit(values))
    with jax.enable_x64(True):
        return {name: np.asarray(v) for name, v in compiled(target.arrays()).items()}


def _trace(target: FlatDensity, arrays: Arrays) -> dict[str, Any]:
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
    function: Callable[..., dict[str, Array]],
    target: FlatDensity,
    samples: Mapping[str, np.ndarray],
    key: jax.Array,
) -> Sites:
    """Apply ``function(latents, key, arrays)`` to blocks of the draws of all chains.

    One shape, so one compilation: the last block is filled up with its last draw.
    """
    target.check_undivided()
    flat = {s.name: samples[s.name].reshape(-1, *samples[s.name].shape[2:]) for s in target.latents}
    chains, draws = next(iter(samples.values())).shape[:2]
    total = chains * draws
    size = sum(site.size for site in observed_sites(target).values())
    block = min(max(BLOCK // max(size, 1), 1), total)
    parts = []
    with jax.enable_x64(True):
        compiled = target.compiled_for_any_data((name, block), lambda: jax.jit(function))
        for first in range(0, total, block):
            rows = np.minimum(np.arange(first, first + block), total - 1)
            latents = {n: jnp.asarray(v[rows], float) for n, v in flat.items()}
            values = compiled(latents, jax.random.fold_in(key, first), target.arrays())
            parts.append({n: np.asarray(v)[: total - first] for n, v in values.items()})
    joined = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
    return {n: v.reshape(chains, draws, *v.shape[1:]) for n, v in joined.items()}
