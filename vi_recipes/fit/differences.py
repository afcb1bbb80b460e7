"""How far a fit's moments are from other ones, in units of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vi_recipes.fit.fitted import Fitted
from vi_recipes.fit.tails import quantiles, unsettled
from vi_recipes.model import Sites
from vi_recipes.posterior import Moments, is_constant

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = (
    "difference",
    "difference_mcse",
    "reference_mcse",
    "sd_ratio",
    "sd_ratio_mcse",
    "reference_sd_mcse",
    "within_error",
)


def moments_of(fit: Fitted, tails: Mapping[str, float] | None = None) -> Moments:
    """Return the moments of a fit that has a result.

    Parameters
    ----------
    fit
        The fit.
    tails
        Label -> khat of scalars that have no moments by what others know of them; by default by
        what the fit knows itself. Quantiles stand in their places.
    """
    named = unsettled(fit) if tails is None else tails
    plain = Moments(fit.mean(), fit.sd(), fit.mcse(), fit.mcse_sd())
    if not named:
        return plain
    labels = fit.labels()
    places = np.array([k for k, label in enumerate(labels) if label in named], int)
    by_quantiles = quantiles(fit, places)

    def placed(values: Sites, some: np.ndarray) -> Sites:
        flat = np.array(fit.flat(values), float)
        flat[places] = some
        ends = np.cumsum([site.size for site in fit.sites])[:-1]
        return {
            site.name: part.reshape(site.shape)
            for site, part in zip(fit.sites, np.split(flat, ends), strict=True)
        }

    none = {site.name: np.full(site.shape, np.nan) for site in fit.sites}
    return Moments(
        placed(plain.mean, by_quantiles.median),
        placed(plain.sd, by_quantiles.width),
        placed(plain.mcse_mean, by_quantiles.median_error),
        placed(plain.mcse_sd, by_quantiles.width_error),
        placed(none, np.array([named[labels[k]] for k in places])),
    )


def _named(fit: Fitted, values: Mapping[str, np.ndarray]) -> dict[str, float]:
    if not values:
        return {}
    every = {s.name: values.get(s.name, np.full(s.shape, np.nan)) for s in fit.sites}
    return dict(zip(fit.labels(), map(float, fit.flat(every)), strict=True))


def differences(fit: Fitted, other: Moments, sites: Sequence[str] | None = None) -> pd.DataFrame:
    """Return how far the moments of ``fit`` are from ``other``, a row a scalar.

    Columns ``difference`` (of means, in sds of ``other``), ``difference_mcse``, which is the Monte
    Carlo error of both, ``reference_mcse``, which is that of ``other`` alone, ``sd_ratio`` (the
    fit's over the other), ``sd_ratio_mcse``, ``reference_sd_mcse``, and ``within_error``: the
    difference is at most twice the Monte Carlo error of both.

    Where either has no mean or sd (:attr:`Moments.tails`), both are compared by their medians and
    half-widths of the central 68 %; by nothing, where one has none of them.

    A scalar that is the same constant in both, up to rounding, such as the first diagonal element
    of a Cholesky factor of correlations, has no difference: NaN.
    """
    import pandas as pd

    def flat(values: Sites) -> np.ndarray:
        return np.asarray(fit.flat(values, sites), float)

    tails = {label: shape for label, shape in _named(fit, other.tails).items() if shape == shape}
    known = set(tails)
    tails |= {k: v for k, v in unsettled(fit).items() if k not in known}
    moments = moments_of(fit, tails)
    lacking = np.array([label in tails and label not in known for label in fit.labels(sites)])
    sd = np.where(lacking, np.nan, flat(other.sd))
    size = np.maximum(np.abs(flat(moments.mean)), np.abs(flat(other.mean)))
    spread = np.fmax(flat(moments.sd), sd)  # a point has none
    apart = np.abs(flat(moments.mean) - flat(other.mean))
    constant = is_constant(np.maximum(spread, apart), size, fit.provenance.dtype)
    scale = np.where((sd > 0) & ~constant, sd, np.nan)
    difference = (flat(moments.mean) - flat(other.mean)) / scale
    theirs = flat(other.mcse_mean) / scale
    error = np.hypot(theirs, flat(moments.mcse_mean) / scale)
    ratio = flat(moments.sd) / scale
    of_theirs = ratio * flat(other.mcse_sd) / scale
    ratio_error = np.hypot(of_theirs, flat(moments.mcse_sd) / scale)
    within = np.abs(difference) <= 2 * error
    values = (difference, error, theirs, ratio, ratio_error, of_theirs, within)
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)), index=fit.labels(sites))
