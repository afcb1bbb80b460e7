"""Leave-one-out results of rows that stand for several observations, or for none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

if TYPE_CHECKING:
    from arviz_stats.utils import ELPDDataLOO

MOST_COPIES = 10**7
"""Observations that models are weighed by, where rows stand for several."""


class LOOError(ValueError):
    """A fit or a model without leave-one-out cross-validation, with the reason."""


def copies_of(weights: np.ndarray) -> np.ndarray:
    """Return how many observations rows stand for: one where some weight is not whole."""
    return weights if (weights % 1 == 0).all() else np.ones_like(weights)


def counted(result: ELPDDataLOO, values: np.ndarray, weights: np.ndarray) -> ELPDDataLOO:
    """Return a result of as many observations as rows stand for.

    Of a row that stands for none nothing is left out: its density is the predictive one as it is.

    Parameters
    ----------
    result
        By row: of one of the observations that it stands for.
    values
        Log-likelihoods, the chain and the draw leading.
    weights
        Of rows.
    """
    copies = np.broadcast_to(copies_of(weights), values.shape[2:])
    if (copies == 1).all():
        return result
    density = logsumexp(values, axis=(0, 1)) - np.log(values.shape[0] * values.shape[1])
    none = copies == 0
    result.elpd_i[...] = np.where(none, density, result.elpd_i)
    result.pareto_k[...] = np.where(none, 0.0, result.pareto_k)
    each, count = result.elpd_i.to_numpy(), copies.sum()
    result["elpd"], result["se"] = _sum_of(each, copies)
    result["p"] = float((copies * (density - each)).sum())
    result["n_data_points"] = int(count)
    result["warning"] = bool((result.pareto_k > result.good_k).any())
    return result


def _sum_of(each: np.ndarray, copies: np.ndarray) -> tuple[float, float]:
    """Return the sum over observations and its standard error, as ArviZ has them."""
    total = float((copies * each).sum())
    return total, float(np.sqrt((copies * (each - total / copies.sum()) ** 2).sum()))


def repeated(result: ELPDDataLOO, copies: np.ndarray) -> ELPDDataLOO:
    """Return a result by observation, which ArviZ compares models by."""
    import xarray as xr

    if (copies == 1).all():
        return result
    if copies.sum() > MOST_COPIES:
        raise LOOError(
            f"its rows stand for {copies.sum():,.0f} observations, and models are weighed by "
            f"{MOST_COPIES:,} at most"
        )
    times = copies.astype(int).ravel()
    for what in ("elpd_i", "pareto_k"):
        rows = np.repeat(result[what].to_numpy().ravel(), times)
        result[what] = xr.DataArray(rows, dims="observation")
    return result


def differences(
    results: Mapping[str, ELPDDataLOO], base: str | None, weights: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Return name -> difference from ``base``, or else from the best, and its standard error."""
    if not results:
        return {}
    best = base or max(results, key=lambda name: results[name].elpd)
    each = {name: result.elpd_i.to_numpy() for name, result in results.items()}
    copies = np.broadcast_to(copies_of(weights), each[best].shape)
    return {name: _sum_of(own - each[best], copies) for name, own in each.items()}
