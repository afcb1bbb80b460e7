"""The posterior's moments by importance sampling that starts at an approximation."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from vi_recipes.algebra import dense_student
from vi_recipes.core import MethodFailure, fold_key, silent
from vi_recipes.fit import Correction, from_sorted, weighed_far_out
from vi_recipes.importance import (
    DEGREES,
    FINITE_VARIANCE,
    GOOD_SHARE,
    KHAT_LIMIT,
    Proposal,
    Weights,
    adapt,
    khat,
    khat_limit,
    root_of,
    smooth,
    temper,
)
from vi_recipes.model import Sites, Target
from vi_recipes.posterior import Moments

NUM_ROUNDS = 15
"""Rounds of adaptation, at most."""


MAX_WORK = 1.5e9
"""Numbers of the data that all rounds may read: fewer rounds of larger models."""


NUM_LOTS = 4
"""Lots of draws of a proposal that has come to where its weights vouch for others."""


MAX_HELD = 4_000_000
"""Numbers that all values of these lots may be: fewer lots of models that derive many."""


MIN_PER_COORDINATE = 20
"""Draws a coordinate below which a proposal is not adapted: its covariance would be noise."""


MAX_PART = 0.05
"""Of a variance, what a single draw may hold for no tail to be looked at."""


class NoCorrection(ValueError):
    """Why importance sampling gives no moments."""


def correct(
    target: Target,
    z: Float[np.ndarray, "draws dim"],
    values: Sites,
    log_ratios: Float[np.ndarray, " draws"],
    key: jax.Array,
) -> Correction:
    """Return the posterior's moments from weighed draws of an approximation.

    Where fewer than three quarters of the draws count, or their weights have no finite variance,
    they are a start: the weights of a q that is too narrow, or lacks a tail, leave its sds too
    small even where khat is low. Rounds of draws from a multivariate t with five degrees of
    freedom follow, which reaches further, each with the weighted moments of the one before. Then
    ``NUM_LOTS`` as many are drawn from what they have come to, half of them from a normal, so that
    what a fit gets wrong can be told from what counts as right; they stand where they vouch for it.

    Parameters
    ----------
    target
        What the approximation is of.
    z, values
        Draws of the approximation, unconstrained, shape (num_draws, dim), and constrained, by site.
    log_ratios
        log p - log q of every draw, shape (num_draws,).
    key
        Seeds further draws.

    Raises
    ------
    NoCorrection
        Saying why there are no weights that can be relied on.
    """
    num_draws = len(z)
    limit = khat_limit(num_draws)
    shape = khat(log_ratios)
    reweighted = _weighted(values, log_ratios, shape, 0) if shape < limit else None
    if reweighted is not None and reweighted.vouches and shape < FINITE_VARIANCE:
        return reweighted
    about = f"khat of its own draws is {shape:.2f} (limit {limit:.2g})"
    numbers = sum(value[0].size for value in values.values())
    try:
        mended = _adapted(target, z, log_ratios, key, limit, about, numbers)
    except NoCorrection:
        if reweighted is None:
            raise
        return reweighted
    if reweighted is None:
        return mended
    noisy = mended.ess < GOOD_SHARE * reweighted.ess
    return reweighted if noisy or (reweighted.vouches and not mended.vouches) else mended


def _adapted(
    target: Target,
    z: Float[np.ndarray, "draws dim"],
    log_ratios: Float[np.ndarray, " draws"],
    key: jax.Array,
    limit: float,
    about: str,
    numbers: int,
) -> Correction:
    num_draws, dim = z.shape
    if target.exchangeable:
        raise NoCorrection(f"{about}, and exchangeable labels keep it from being mended")
    if num_draws < MIN_PER_COORDINATE * dim:
        raise NoCorrection(f"{about}, and {dim} coordinates are too many for it to be mended")

    def weigh(
        done: int, q: Proposal, *, half_normal: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        seed = fold_key(key, done)
        drawn = dense_student(DEGREES, q.loc, q.root, num_draws, seed, half_normal=half_normal)
        return drawn[0], target.log_densities(drawn[0]) - drawn[1]

    most = int(np.clip(MAX_WORK / (num_draws * target.size), 1, NUM_ROUNDS))
    try:
        weights, _ = temper(log_ratios, dim)
        mean, cov = weights.moments(z)
        last = adapt(target, weigh, Proposal(mean, root_of(cov, target)), most, silent)
    except MethodFailure as failure:
        raise NoCorrection(f"{about}, and it was not mended: {failure.message}") from None
    rounds = len(last.shares)
    if last.power < 1:
        raise NoCorrection(
            f"{about}, and {rounds} rounds from there did not bring a proposal to the posterior"
        )
    if (mended := khat(last.log_ratios)) >= limit:
        raise NoCorrection(f"{about}, and after {rounds} rounds from there still {mended:.2f}")
    by_last = _weighted(target.constrain(last.z), last.log_ratios, mended, rounds)
    room = int(min(MAX_WORK / target.size, MAX_HELD / numbers) / num_draws)
    if last.shares[-1] < GOOD_SHARE or room < 1:
        return by_last
    mean, cov = temper(last.log_ratios, dim)[0].moments(last.z)
    found, lots, ratios = Proposal(mean, root_of(cov, target)), list[Sites](), list[np.ndarray]()
    for lot in range(min(NUM_LOTS, room)):
        drawn, ratio = weigh(NUM_ROUNDS + 1 + lot, found, half_normal=True)
        lots.append(target.constrain(drawn))
        ratios.append(ratio)
        log_ratios = np.concatenate(ratios)
        if not np.isfinite(log_ratios).any() or (shape := khat(log_ratios)) >= limit:
            return by_last
        values = {name: np.concatenate([some[name] for some in lots]) for name in lots[0]}
        by_lots = _weighted(values, log_ratios, shape, rounds)
        if not by_lots.vouches:
            return by_last
    return by_lots


def _weighted(
    values: Sites, log_ratios: Float[np.ndarray, " draws"], shape: float, num_rounds: int
) -> Correction:
    weights = smooth(log_ratios) if np.isfinite(shape) else Weights(softmax(log_ratios), shape)
    marginals = {name: weights.marginals(value) for name, value in values.items()}
    moments = Moments(
        mean={name: m.mean for name, m in marginals.items()},
        sd={name: m.sd for name, m in marginals.items()},
        mcse_mean={name: m.mcse_mean for name, m in marginals.items()},
        mcse_sd={name: m.mcse_sd for name, m in marginals.items()},
    )
    if tails := _tails(values, log_ratios, weights):
        moments = _by_quantiles(moments, values, weights, tails)
    return Correction(moments, shape, weights.ess, len(log_ratios), num_rounds)


def _tails(
    values: Sites, log_ratios: Float[np.ndarray, " draws"], weights: Weights
) -> dict[str, np.ndarray]:
    """Return khat of scalars without a mean, by site; nothing of other sites.

    It is that of the weights times the distances from the mean as it is, which a mean adds up. A
    scalar is looked at where one draw holds much of the variance, and lies far out of what the
    weighed draws span. Draws that hold much and do not are uneven weights, which have a khat of
    their own; draws that lie far out and hold nothing are the tails of the proposal alone.
    """
    tails = {}
    for name, draws in values.items():
        flat = draws.reshape(len(draws), -1).astype(float)
        with np.errstate(over="ignore", invalid="ignore"):
            away = np.abs(flat - weights.values @ flat)
            part = away * away * weights.values[:, None]
            total = part.sum(axis=0)
        shapes = np.full(flat.shape[1], np.nan)
        held = np.flatnonzero(np.isfinite(total) & (part.max(axis=0) > MAX_PART * total))
        far = [weighed_far_out(flat[:, k], weights.values, int(part[:, k].argmax())) for k in held]
        heavy = held[np.array(far, bool)]
        for k in heavy:
            with np.errstate(divide="ignore"):
                shape = khat(log_ratios + np.log(away[:, k]))
            if shape >= KHAT_LIMIT:
                shapes[k] = shape
        if not np.isnan(shapes).all():
            tails[name] = shapes.reshape(draws.shape[1:])
    return tails


def _by_quantiles(
    moments: Moments, values: Sites, weights: Weights, tails: dict[str, np.ndarray]
) -> Moments:
    """Return moments with quantiles where there are none."""
    fields = {
        name: {site: np.array(v, float) for site, v in getattr(moments, name).items()}
        for name in ("mean", "sd", "mcse_mean", "mcse_sd")
    }
    for site, shapes in tails.items():
        places = np.flatnonzero(~np.isnan(shapes.ravel()))
        flat = values[site].reshape(len(weights.values), -1)[:, places].astype(float)
        order = np.argsort(flat, axis=0)
        found = from_sorted(
            np.take_along_axis(flat, order, axis=0),
            weights.values[order],
            np.full(len(places), weights.ess),
        )
        instead = {
            "mean": found.median,
            "sd": found.width,
            "mcse_mean": found.median_error,
            "mcse_sd": found.width_error,
        }
        for name, some in instead.items():
            fields[name][site].reshape(-1)[places] = some
    return Moments(**fields, tails=tails)
