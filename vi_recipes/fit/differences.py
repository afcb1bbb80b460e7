"""How far a fit's moments are from other ones, in units of those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vi_recipes.fit.fitted import Fitted
from vi_recipes.model import Sites
from vi_recipes.posterior import Moments, is_constant

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = ("difference", "difference_mcse", "sd_ratio", "sd_ratio_mcse", "within_error")


def moments_of(fit: Fitted) -> Moments:
    """Return the moments of a fit that has a result."""
    return Moments(fit.mean(), fit.sd(), fit.mcse(), fit.mcse_sd())


def differences(fit: Fitted, other: Moments, sites: Sequence[str] | None = None) -> pd.DataFrame:
    """Return how far the moments of ``fit`` are from ``other``, a row a scalar.

    Columns ``difference`` (of means, in sds of ``other``), ``difference_mcse``, ``sd_ratio``
    (the fit's over the other), ``sd_ratio_mcse``, and ``within_error``: the difference is at most
    twice its Monte Carlo error, which is that of both.

    A scalar that is the same constant in both, up to rounding, such as the first diagonal element
    of a Cholesky factor of correlations, has no difference: NaN.
    """
    import pandas as pd

    def flat(values: Sites) -> np.ndarray:
        return np.asarray(fit.flat(values, sites), float)

    moments = moments_of(fit)
    sd = flat(other.sd)
    size = np.maximum(np.abs(flat(moments.mean)), np.abs(flat(other.mean)))
    spread = np.fmax(flat(moments.sd), sd)  # a point has none
    apart = np.abs(flat(moments.mean) - flat(other.mean))
    constant = is_constant(np.maximum(spread, apart), size, fit.provenance.dtype)
    scale = np.where((sd > 0) & ~constant, sd, np.nan)
    difference = (flat(moments.mean) - flat(other.mean)) / scale
    error = np.hypot(flat(other.mcse_mean), flat(moments.mcse_mean)) / scale
    ratio = flat(moments.sd) / scale
    ratio_error = np.hypot(ratio * flat(other.mcse_sd), flat(moments.mcse_sd)) / scale
    within = np.abs(difference) <= 2 * error
    values = (difference, error, ratio, ratio_error, within)
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)), index=fit.labels(sites))
