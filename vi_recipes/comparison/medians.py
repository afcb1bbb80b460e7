"""Scalars without a mean or an sd, over several fits: which they are, and what stands for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from vi_recipes.fit import Fit, doubted, moments_of, quantiles, unsettled


def unsettled_in(fits: Mapping[str, Fit]) -> dict[str, float]:
    """Return label -> khat of what has no mean or sd by what the fits know.

    By any sampler's draws. By the weights of approximations where no fit knows the posterior
    itself: neither a sampler that met its criteria, nor one that states the errors of its moments.
    """
    found: dict[str, float] = {}
    knows = any(
        fit.has_result and fit.status.ok and (fit.is_sampler or fit.stated_error is not None)
        for fit in fits.values()
    )
    for fit in fits.values():
        for label, shape in (unsettled(fit) | ({} if knows else doubted(fit))).items():
            found[label] = max(shape, found.get(label, shape))
    return found


def quantile_table(fits: Mapping[str, Fit], named: Mapping[str, float]) -> pd.DataFrame:
    """Return quantiles of the scalars that are named, a row a scalar and fit."""
    rows = {}
    for name, fit in fits.items():
        if not fit.has_result or not named:
            continue
        labels = fit.labels()
        places = np.array([k for k, label in enumerate(labels) if label in named], int)
        found = quantiles(fit, places)
        for k, place in enumerate(places):
            values = (found.low[k], found.median[k], found.high[k], named[labels[place]])
            rows[labels[place], name] = tuple(map(float, values))
    columns = ["5 %", "50 %", "95 %", "khat"]
    if not rows:
        return pd.DataFrame(columns=columns)
    index = pd.MultiIndex.from_tuples(list(rows), names=["parameter", "method"])
    return pd.DataFrame(list(rows.values()), columns=columns, index=index)


def with_medians(fits: Mapping[str, Fit], named: Mapping[str, float], what: str) -> pd.DataFrame:
    """Return the means, or the sds, with quantiles in the places of those that are named.

    Parameters
    ----------
    fits
        Name -> fit.
    named
        Label -> khat.
    what
        ``"mean"`` or ``"sd"``.
    """
    labels = next(iter(fits.values())).labels()
    columns = {}
    for name, fit in fits.items():
        moments = moments_of(fit, named) if fit.has_result else None
        columns[name] = np.nan if moments is None else fit.flat(getattr(moments, what))
    return pd.DataFrame(columns, index=labels, dtype=float)


def told(fit: Fit, values: np.ndarray, labels: list[str]) -> np.ndarray:
    """Return values with NaN for scalars whose mean or sd a sampler's draws do not tell."""
    unknown = unsettled(fit)
    if not unknown:
        return values
    return np.where([label not in unknown for label in labels], values, np.nan)
