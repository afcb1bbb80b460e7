"""Bounds on log p(y) and estimates of it from weighted draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from vi_recipes.importance.weights import (
    FINITE_VARIANCE,
    MIN_DRAWS,
    log_mean,
    shape_in_words,
    smooth,
)


class Bound(Enum):
    """What a number is to log p(y). The value is how it is put."""

    EXACT = "exact"
    ESTIMATE = "estimate"
    LOWER = "lower bound"
    APPROXIMATION = "approximation"
    """Of unknown error."""
    UNRELIABLE = "unreliable estimate"
    MISSING = "not available"


@dataclass(frozen=True)
class LogEvidence:
    """An estimate of, or bound on, log p(y).

    Parameters
    ----------
    value
        In nats.
    se
        Monte Carlo standard error, or the numerical error of a quadrature; 0 when there is none.
    bound
        What it is to log p(y).
    how
        What it was had by, such as ``"ELBO"`` or ``"bridge sampling"``; why there is none where it
        is not available.
    """

    value: float
    se: float
    bound: Bound
    how: str

    @property
    def kind(self) -> str:
        """What it is, in words: ``"Laplace approximation"``, ``"lower bound (ELBO)"``."""
        if self.bound is Bound.APPROXIMATION:
            return f"{self.how} {self.bound.value}"
        return f"{self.bound.value} ({self.how})"

    def to_dict(self) -> dict[str, Any]:
        """Return value, error and kind, as files keep them."""
        return {"value": self.value, "se": self.se, "kind": self.kind}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> LogEvidence:
        """Return what :meth:`to_dict` was made of."""
        lead, _, rest = stored["kind"].partition(" (")
        for bound in Bound:
            if lead == bound.value:
                return cls(stored["value"], stored["se"], bound, rest.removesuffix(")"))
        how = stored["kind"].removesuffix(f" {Bound.APPROXIMATION.value}")
        return cls(stored["value"], stored["se"], Bound.APPROXIMATION, how)


NUM_PARTICLES = 10
"""Draws a group of the importance-weighted bound, where nothing is said."""


def elbo(log_ratios: Any) -> LogEvidence:
    """Return the mean log ratio of fresh draws: a lower bound on log p(y), up to its error.

    Parameters
    ----------
    log_ratios
        log p(y, z) - log q(z) at independent draws z of q, shape (num_draws,); minus infinity where
        p has no density.

    Returns
    -------
    LogEvidence
        Minus infinity, with an error that is NaN, where p has no density at some draw.

    Raises
    ------
    ValueError
        For fewer than 2 draws, or ratios that are NaN or plus infinity.
    """
    values = _checked(log_ratios, 2)
    return LogEvidence(*_mean(values), Bound.LOWER, "ELBO")


def importance_weighted(log_ratios: Any, *, num_particles: int = NUM_PARTICLES) -> LogEvidence:
    """Return the importance-weighted bound: the mean over groups of draws of log mean exp(ratio).

    It lies between the ELBO, which is the case of one draw a group, and log p(y), and rises with
    the draws a group.

    Parameters
    ----------
    log_ratios
        As of :func:`elbo`. Draws that do not fill a group are left out.
    num_particles
        Draws a group, k.

    Returns
    -------
    LogEvidence
        Its error is that over the groups.

    Raises
    ------
    ValueError
        For fewer than two groups of draws, or ratios that are NaN or plus infinity.

    References
    ----------
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders. ICLR.
    arXiv:1509.00519.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles: got {num_particles}, expected a positive integer")
    values = _checked(log_ratios, 2 * num_particles)
    groups = values[: values.size // num_particles * num_particles].reshape(-1, num_particles)
    bounds = logsumexp(groups, axis=1) - np.log(num_particles)
    how = f"importance-weighted, k = {num_particles}"
    return LogEvidence(*_mean(bounds), Bound.LOWER, how)


def importance_sampled(log_ratios: Any) -> LogEvidence:
    """Return the log of the mean Pareto-smoothed importance weight, an estimate of log p(y).

    Parameters
    ----------
    log_ratios
        As of :func:`elbo`.

    Returns
    -------
    LogEvidence
        Its error is by the delta method. From a khat of 0.5 the weights have no finite variance
        and that error is too small; the estimate is then called unreliable. From 0.7 neither
        says much. Nothing warns of a part of the posterior where q has no draws.

    Raises
    ------
    ValueError
        For fewer than 100 draws, ratios that are NaN or plus infinity, or none that is finite.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. JMLR 25(72). arXiv:1507.02646.
    """
    values = _checked(log_ratios, MIN_DRAWS)
    if np.isneginf(values.max()):
        raise ValueError("log_ratios: all are minus infinity: p has no density at any draw")
    smoothed = smooth(values)
    shape, weights = smoothed.khat, smoothed.values
    bound = Bound.ESTIMATE if shape < FINITE_VARIANCE else Bound.UNRELIABLE
    how = f"importance sampling, {shape_in_words(shape)}"
    # at most a fifth of the draws are smoothed: the next one below keeps its weight, which tells
    # the scale of all, as they add up to one
    place = int(np.argsort(values)[-(values.size // 5) - 1])
    if np.isfinite(shape) and np.isfinite(values[place]) and weights[place] > 0:
        value = float(values[place] - np.log(weights[place]) - np.log(values.size))
        se = float(weights.std(ddof=1) * np.sqrt(values.size))
        return LogEvidence(value, se, bound, how)
    return LogEvidence(*log_mean(values), bound, how)


def _checked(log_ratios: Any, fewest: int) -> Float[np.ndarray, " draws"]:
    """Return the ratios as an array, if they are what they should be."""
    values = np.asarray(log_ratios, float)
    if values.ndim != 1 or values.size < fewest:
        raise ValueError(
            f"log_ratios: got shape {values.shape}, expected one dimension of at least {fewest} "
            "draws"
        )
    if (bad := int((np.isnan(values) | np.isposinf(values)).sum())) > 0:
        raise ValueError(
            f"log_ratios: {bad} of {values.size} are NaN or plus infinity, expected numbers, or "
            "minus infinity where p has no density"
        )
    return values


def _mean(values: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """Return the mean and its standard error, which is NaN where the mean is minus infinity."""
    if np.isneginf(values).any():
        return -np.inf, float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))
