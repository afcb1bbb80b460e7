"""What a fit's own draws, weighed by the posterior's density, say of how far it can be trusted."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from vi_recipes.algebra import MAX_DENSE
from vi_recipes.core import MethodFailure, as_key
from vi_recipes.fit import Assessment, Fit
from vi_recipes.importance import MAX_DRAWS, MIN_DRAWS, kernel_stein, khat, wasserstein_bounds
from vi_recipes.model import Sites, Target
from vi_recipes.posterior import FactorPosterior, Posterior, ResponsePosterior, is_constant
from vi_recipes.trust.correct import NoCorrection, correct
from vi_recipes.trust.evidence import evidences

NUM_DRAWS = 4_000

MAX_WORK = 2.5e8
"""Numbers of the data that all draws may read: fewer draws of larger models."""


FEW = 400
"""Draws that there are at least, and of more coordinates than ``MAX_DENSE``."""


def assess(
    fit: Fit, target: Target, *, key: jax.Array | int = 0, num_draws: int | None = None
) -> Assessment:
    """Weigh fresh draws of a fit by the posterior's density.

    Parameters
    ----------
    fit
        A fit of ``target``, of this session: one that was read back from disk has no density.
    target
        The model conditioned on the same data.
    key
        Seeds the draws.
    num_draws
        At least 100; by default 4,000, and fewer of models with much data or more than 1,000
        coordinates.

    Raises
    ------
    ValueError
        For another target, or too few draws.
    """
    made_for = (fit.provenance.model, fit.provenance.data_fingerprint)
    if made_for != (target.name, target.fingerprint):
        raise ValueError(
            f"target: got model '{target.name}' with data {target.fingerprint}, expected that of "
            f"the fit, '{made_for[0]}' with {made_for[1]}"
        )
    if num_draws is not None and num_draws < MIN_DRAWS:
        raise ValueError(f"num_draws: got {num_draws}, expected at least {MIN_DRAWS}")
    start = time.perf_counter()
    fields: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    if not fit.has_result or fit.posterior is None:
        unknown["weights"] = "there is no result"
    elif fit.is_sampler:
        unknown["weights"] = "a sampler's draws have no density of their own: its audit stands"
        fields["evidence"] = tuple(evidences(fit, target, None, None, key))
    else:
        fields = _weigh(fit, fit.posterior, target, as_key(key), num_draws, unknown)
        if (ratio := _response_ratio(fit.posterior, unknown)) is not None:
            fields["response_ratio"] = ratio
    return Assessment(**fields, unknown=unknown, seconds=time.perf_counter() - start)


def _weigh(
    fit: Fit,
    posterior: Posterior,
    target: Target,
    key: jax.Array,
    num_draws: int | None,
    unknown: dict[str, str],
) -> dict[str, Any]:
    draw_key, block_key, correct_key, stein_key = jax.random.split(key, 4)
    count = num_draws or default_draws(target)
    drawn = posterior.weighed_draws(count, draw_key)
    if drawn is None:
        unknown["weights"] = _why_none(posterior, target)
        return {"evidence": tuple(evidences(fit, target, None, None))}
    log_p = target.log_densities(drawn.z)
    if not np.isfinite(drawn.log_q).all() or np.isposinf(log_p).any():
        unknown["weights"] = "its draws, or the posterior's density at them, are not finite"
        return {"evidence": tuple(evidences(fit, target, None, None))}
    log_ratios = log_p - drawn.log_q
    fields: dict[str, Any] = {
        "num_draws": len(log_ratios),
        "evidence": tuple(evidences(fit, target, drawn, log_p)),
    }
    if np.isneginf(log_p).all():
        unknown["correction"] = "the posterior has no density at any of its draws"
        return fields | {"khat": np.inf}
    try:
        fields["khat"] = khat(log_ratios)
        fields["correction"] = correct(target, drawn.z, drawn.values, log_ratios, correct_key)
    except (NoCorrection, ValueError) as reason:
        unknown["correction"] = str(reason)
    bounds = wasserstein_bounds(drawn.z, log_ratios)
    if bounds.reason:
        unknown["bounds"] = bounds.reason
    else:
        fields["bounds"] = bounds
    if target.dim > MAX_DENSE:
        unknown["stein"] = f"it has no power in {target.dim} coordinates"
    else:
        some = drawn.z[:MAX_DRAWS]
        stein = kernel_stein(some, target.scores(some), drawn.z.std(axis=0), stein_key)
        if stein.reason:
            unknown["stein"] = stein.reason
        else:
            fields["stein"] = stein
    blocks = {}
    for k, (name, place) in enumerate(target.slices.items()):
        if place.stop - place.start > MAX_DENSE:
            unknown[f"khat of {name}"] = f"more than {MAX_DENSE} coordinates"
            continue
        site_key = jax.random.fold_in(block_key, k)
        alone = posterior.block_draws(place, num_block_draws(count), site_key)
        if alone is not None:
            try:
                blocks[name] = khat(target.log_densities(alone[0]) - alone[1])
            except ValueError as reason:
                unknown[f"khat of {name}"] = str(reason)
    return fields | {"block_khat": blocks}


def num_block_draws(num_draws: int) -> int:
    """Return how many draws of each site alone go with so many of all."""
    return max(MIN_DRAWS, num_draws // 2)


def default_draws(target: Target) -> int:
    """Return how many draws are weighed of a model of this size."""
    if target.dim > MAX_DENSE:
        return FEW
    return int(np.clip(MAX_WORK / target.size, FEW, NUM_DRAWS))


def _why_none(posterior: Posterior, target: Target) -> str:
    if all(np.isnan(sd).all() for sd in posterior.sd().values()):
        return "a point has no density"
    if isinstance(posterior, FactorPosterior):
        if posterior.factors.points.any():
            return "points have no density"
        return f"its covariance of {target.dim} coordinates has no density that is quick to compute"
    if any((sd == 0).any() for sd in posterior.sd().values()):
        return "some of it has no spread"
    return "its draws come without their density"


def _response_ratio(posterior: Posterior, unknown: dict[str, str]) -> Sites | None:
    """Return the sds by linear response over mean field's own, by site."""
    if type(posterior) is not FactorPosterior or posterior.kl is None:
        return None
    kl = posterior.kl
    try:
        with jax.enable_x64(True):
            hessian = kl.full_hessian(posterior.eta.ravel())
    except MethodFailure as failure:
        unknown["linear response"] = failure.message
        return None
    if not hessian.positive:
        unknown["linear response"] = "the Hessian of the KL divergence is indefinite"
        return None
    repaired = ResponsePosterior(
        posterior.target,
        posterior.factors,
        posterior.eta,
        posterior.eta_mcse,
        kl,
        hessian=hessian,
    ).sd()
    ratio, mean = {}, posterior.mean()
    for name, sd in posterior.sd().items():
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio[name] = np.where(is_constant(sd, mean[name]), np.nan, repaired[name] / sd)
    return ratio
