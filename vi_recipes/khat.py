"""How far an approximation's draws can be reweighted into the posterior's: Pareto's k-hat."""

from __future__ import annotations

from typing import Any

import numpy as np

from vi_recipes.importance.adapt import smooth

MIN_DRAWS = 100
"""Draws below which the tail has too few to judge."""


def khat(log_weights: Any) -> float:
    """Return the estimated shape of the tail of importance weights.

    Below 0.5 the weights have a finite variance; above 0.7 no practicable number of draws gives a
    reliable reweighted mean, and q is far from p, at least somewhere. It says nothing of where q
    has no draws.

    Parameters
    ----------
    log_weights
        log p(x, y) - log q(x) at independent draws x from q, up to a constant, shape (num_draws,);
        minus infinity where p has no density.

    Returns
    -------
    float
        Minus infinity where the largest weights are the same, to rounding: there is no tail.

    Raises
    ------
    ValueError
        For fewer than 100 draws, a weight that is NaN or plus infinity, or none that is finite.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. JMLR 25(72).
    Yao, Y., Vehtari, A., Simpson, D. and Gelman, A. (2018). Yes, but did it work? Evaluating
    variational inference. ICML.
    """
    values = np.asarray(log_weights, float)
    if values.ndim != 1 or values.size < MIN_DRAWS:
        raise ValueError(
            f"log_weights: got shape {values.shape}, expected one dimension of at least "
            f"{MIN_DRAWS} draws"
        )
    if (bad := int((np.isnan(values) | np.isposinf(values)).sum())) > 0:
        raise ValueError(
            f"log_weights: {bad} of {values.size} are NaN or plus infinity, expected numbers, or "
            "minus infinity where p has no density"
        )
    top = values.max()
    if np.isneginf(top):
        raise ValueError("log_weights: all are minus infinity: p has no density at any draw")
    tail = np.sort(values)[-max(values.size // 5, 2) :]
    if tail[-1] - tail[0] <= 1e-9 * max(1.0, abs(top)):
        return -np.inf
    return smooth(values).khat
