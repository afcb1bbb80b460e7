"""Scalars without moments: what the tails of draws say of means and sds, and quantiles instead."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from vi_recipes.fit.draws import plain_draws
from vi_recipes.fit.fitted import Fitted
from vi_recipes.importance import FINITE_VARIANCE, KHAT_LIMIT
from vi_recipes.model import Sites
from vi_recipes.posterior import held_draws, per_scalar

LIGHT = 10.0
"""Interquartile ranges from the median that the furthest draw may be away, and no tail is looked
at: by several thousand draws of a normal it is 3, by those of a t whose variance is infinite 20 and
more."""

OUTER = (0.05, 0.95)
"""Of the interval that stands in the place of an sd."""

ONE_SD = (float(ndtr(-1)), float(ndtr(1)))
"""Between them lies what within one sd of the mean does of a normal."""


def far_out(draws: Float[np.ndarray, "draws ..."]) -> np.ndarray:
    """Return which scalars have a draw beyond :data:`LIGHT`, and so a tail to look at.

    The first dimension is that of the draws; the result has the others.
    """
    with np.errstate(invalid="ignore"):
        low, middle, high = np.quantile(draws, [0.25, 0.5, 0.75], axis=0)
        away: np.ndarray = np.abs(draws - middle).max(axis=0) > LIGHT * (high - low)
    return away


def weighed_far_out(
    draws: Float[np.ndarray, " draws"], weights: Float[np.ndarray, " draws"], which: int
) -> bool:
    """Return whether one of the draws of a scalar lies beyond :data:`LIGHT` of the weighed ones."""
    order = np.argsort(draws)
    at = np.cumsum(weights[order]) - weights[order] / 2
    low, middle, high = np.interp([0.25, 0.5, 0.75], at, draws[order])
    return bool(high > low and abs(draws[which] - middle) > LIGHT * (high - low))


def tail_shapes(samples: Mapping[str, np.ndarray]) -> Sites:
    """Return Pareto's khat of draws by scalar, the larger of both tails.

    A mean exists below 1 and a variance below 1/2; from 0.7 no practicable number of draws gives a
    mean, as with importance weights.

    Parameters
    ----------
    samples
        Site -> draws, shape ``(chain, draw, *site shape)``.

    Returns
    -------
    dict
        By site, of its shape; NaN where no draw is far out, and no tail is looked at.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. JMLR 25(72), section 3.
    """
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]

    shapes = {}
    for name, values in samples.items():
        found = np.full(values.shape[2:], np.nan)
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            shapes[name] = found
            continue
        for place in map(tuple, np.argwhere(far_out(values.reshape(-1, *values.shape[2:])))):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tails that are shorter than it would like
                try:
                    one = values[(..., *place)].astype(float)
                    found[place] = array_stats.pareto_khat(one)  # type: ignore[no-untyped-call]
                except ValueError:  # the whole tail is one number
                    continue
        shapes[name] = found
    return shapes


def shapes_of(fit: Fitted) -> Sites:
    """Return :func:`tail_shapes` of a sampler's draws; of other fits what they know themselves."""
    if not fit.is_sampler:
        return fit.known_posterior().tails()
    draws = held_draws(fit.known_posterior()) or {}
    shapes: Sites = fit.once("tails", lambda: tail_shapes(draws))
    return shapes


def unsettled(fit: Fitted) -> dict[str, float]:
    """Return the scalars whose mean or sd does not exist, or is not told, by a sampler's draws.

    Or by weighed points of the parameters. An approximation has moments of its own, whatever the
    posterior's are (:func:`doubted`).

    Returns
    -------
    dict
        Label -> khat, from 0.5; from 0.7 there is no mean either.
    """
    return _labelled(fit, shapes_of(fit)) if fit.has_result else {}


def none_settled(fit: Fitted) -> bool:
    """Whether no scalar at all has a mean and an sd: errors of them then mean nothing."""
    return fit.has_result and len(unsettled(fit)) == fit.flat(fit.mean()).size


def doubted(fit: Fitted) -> dict[str, float]:
    """Return the scalars whose posterior mean the weights of an approximation do not tell.

    Returns
    -------
    dict
        Label -> khat. Empty for samplers, and where no weights can be relied on.
    """
    if not fit.has_result or fit.is_sampler or fit.assessment is None:
        return {}
    correction = fit.assessment.correction
    return {} if correction is None else _labelled(fit, correction.moments.tails)


def _labelled(fit: Fitted, shapes: Mapping[str, np.ndarray]) -> dict[str, float]:
    known = {s.name: shapes.get(s.name, np.full(s.shape, np.nan)) for s in fit.sites}
    values = fit.flat(known)
    high = np.flatnonzero(values >= FINITE_VARIANCE)
    labels = fit.labels() if high.size else []
    return {labels[k]: float(values[k]) for k in high}


def say_unsettled(shapes: Mapping[str, float], source: str) -> str:
    """Return a sentence on scalars without moments, and ``source``, which does not tell them."""
    if not shapes:
        return ""
    worst = max(shapes.values())
    names = list(shapes)
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    what = "mean and the sd" if worst >= KHAT_LIMIT else "sd, and perhaps the mean,"
    return (
        f"The {what} of {listed} do not exist, or {source} not tell them (Pareto khat {worst:.2f})"
    )


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of some scalars of a fit, in the order in which they were asked for.

    Parameters
    ----------
    median, low, high
        50 %, 5 % and 95 %; of a point the point itself, and no interval.
    width
        Half of what the central 68 % span: the sd, of a normal.
    median_error, width_error
        Monte Carlo standard errors.
    """

    median: Float[np.ndarray, " scalars"]
    low: Float[np.ndarray, " scalars"]
    high: Float[np.ndarray, " scalars"]
    width: Float[np.ndarray, " scalars"]
    median_error: Float[np.ndarray, " scalars"]
    width_error: Float[np.ndarray, " scalars"]


def quantiles(fit: Fitted, places: np.ndarray) -> Quantiles:
    """Return quantiles of the scalars at ``places`` of the order of :meth:`Fitted.labels`.

    NaN where a fit has moments alone.
    """
    none = np.full(len(places), np.nan)
    if fit.is_point:
        point = np.asarray(fit.flat(fit.mean()), float)[places]
        return Quantiles(point, none, none, none, np.zeros(len(places)), none)
    try:
        samples = plain_draws(fit).samples
    except ValueError:  # moments without draws
        return Quantiles(none, none, none, none, none, none)
    chains, draws = next(iter(samples.values())).shape[:2]
    flat = [samples[s.name].reshape(chains, draws, -1) for s in fit.sites if s.name in samples]
    columns = np.concatenate(flat, axis=-1)[..., places].astype(float)
    count = np.full(len(places), float(chains * draws))
    if fit.is_sampler:
        count = per_scalar("ess", {"x": columns}, method="bulk")["x"]
    rows = columns.reshape(-1, len(places))
    return from_sorted(np.sort(rows, axis=0), None, count)


def from_sorted(
    rows: Float[np.ndarray, "draws scalars"],
    weights: Float[np.ndarray, "draws scalars"] | None,
    count: Float[np.ndarray, " scalars"],
) -> Quantiles:
    """Return quantiles of draws that are sorted column by column.

    Parameters
    ----------
    rows
        The draws, sorted.
    weights
        Of each, summing to 1 in a column; ``None`` where all are the same.
    count
        Effective draws of each column. The error of a quantile is half of what lies between those
        one binomial standard error below and above it.
    """
    num_draws, num_scalars = rows.shape
    if weights is None:
        weights = np.full(rows.shape, 1 / num_draws)
    at = np.cumsum(weights, axis=0) - weights / 2

    def quantile(p: float | np.ndarray) -> np.ndarray:
        wanted = np.broadcast_to(p, num_scalars)
        return np.array([np.interp(wanted[k], at[:, k], rows[:, k]) for k in range(num_scalars)])

    def error(p: float) -> np.ndarray:
        step = np.sqrt(p * (1 - p) / np.maximum(count, 1.0))
        return (quantile(np.minimum(p + step, 1)) - quantile(np.maximum(p - step, 0))) / 2

    low, high = map(quantile, OUTER)
    below, above = map(quantile, ONE_SD)
    width_error = np.hypot(error(ONE_SD[0]), error(ONE_SD[1])) / 2
    return Quantiles(quantile(0.5), low, high, (above - below) / 2, error(0.5), width_error)
