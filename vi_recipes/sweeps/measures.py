"""How well methods do over seeds, each figure with its Monte Carlo standard error."""

from __future__ import annotations

import numpy as np
from scipy.stats import beta

GIVEN = 0.95
"""Of the intervals of a coverage that figures show."""


def measures(
    mean: np.ndarray,
    sd: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    known: np.ndarray,
    *,
    simulated: bool,
) -> dict[str, float]:
    """Return the performance of the fits of one scalar, over seeds.

    Parameters
    ----------
    mean, sd, low, high
        Of every fit with a result, shape (n,); NaN where a method has no sd.
    known
        What the mean should be: the truth, or the reference's mean.
    simulated
        Whether ``known`` is what the data were simulated from. Else seeds are the methods' own, and
        errors of one data set say nothing of sds and coverage: these are NaN.

    Returns
    -------
    dict
        ``n``; ``bias``, the mean error; ``error_sd``, the sd of errors (of a fixed truth that is
        the empirical standard error); ``rmse``; ``model_sd``, the root of the mean variance;
        ``sd_ratio``, model_sd over error_sd; ``coverage``. Each has its Monte Carlo standard error
        as ``.._mcse``. That of a coverage of 0 or 1, which the formula says is 0, is taken at one
        more fit within and one more without.

    Notes
    -----
    The errors are those of table 6 of Morris, White and Crowther (2019), doi:10.1002/sim.8086; that
    of the root mean square follows from theirs of the mean square by the delta method.
    """
    n = len(mean)
    error = mean - known
    measured = dict.fromkeys(COLUMNS, float("nan"))
    measured["n"] = float(n)
    if n == 0 or np.isnan(error).any():
        return measured
    measured["bias"] = float(error.mean())
    mse = float((error**2).mean())
    measured["rmse"] = mse**0.5
    spread = float(error.std(ddof=1)) if n > 1 else float("nan")
    measured["error_sd"] = spread
    if n > 1:
        measured["bias_mcse"] = spread / n**0.5
        measured["error_sd_mcse"] = spread / (2 * (n - 1)) ** 0.5
        if mse > 0:
            measured["rmse_mcse"] = float((error**2).std(ddof=1)) / n**0.5 / (2 * mse**0.5)
    if not simulated or np.isnan(sd).any():
        return measured
    variance = float((sd**2).mean())
    measured["model_sd"] = variance**0.5
    if n > 1 and variance > 0 and spread > 0:
        scatter = float((sd**2).var(ddof=1)) / (4 * n * variance)
        measured["model_sd_mcse"] = scatter**0.5
        ratio = variance**0.5 / spread
        measured["sd_ratio"] = ratio
        measured["sd_ratio_mcse"] = ratio * (scatter / variance + 1 / (2 * (n - 1))) ** 0.5
    if not np.isnan(low).any():
        within = int(((low <= known) & (known <= high)).sum())
        measured["coverage"] = within / n
        share = (within + 1) / (n + 2) if within in (0, n) else within / n
        measured["coverage_mcse"] = (share * (1 - share) / n) ** 0.5
    return measured


COLUMNS = (
    "n", "bias", "bias_mcse", "error_sd", "error_sd_mcse", "rmse", "rmse_mcse", "model_sd",
    "model_sd_mcse", "sd_ratio", "sd_ratio_mcse", "coverage", "coverage_mcse",
)  # fmt: skip


def coverage_interval(coverage: float, n: float) -> tuple[float, float]:
    """Return the exact 95 % interval of Clopper and Pearson for a coverage of n fits."""
    within = round(coverage * n)
    tail = (1 - GIVEN) / 2
    low = float(beta.ppf(tail, within, n - within + 1)) if within else 0.0
    high = float(beta.ppf(1 - tail, within + 1, n - within)) if within < n else 1.0
    return low, high
