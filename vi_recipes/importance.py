"""Importance sampling on the flat unconstrained density: proposals, and Pareto-smoothed weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import MultivariateStudentT
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

from vi_recipes.target import Target

KHAT_LIMIT = 0.7
"""Pareto shape from which weights are not to be relied on. Vehtari et al. (2024)."""

FINITE_VARIANCE = 0.5
"""Pareto shape from which weights have no finite variance, and errors made from it mean nothing."""

DEGREES = 5.0
"""Of freedom of the proposals: their tails are heavier than a normal's, their variance finite."""

MIN_SHARE = 0.02
"""Effective share of the draws below which weights are tempered while the proposal adapts."""

MIN_PER_COORDINATE = 2
"""Effective draws a coordinate below which they are too: a covariance takes more than one."""


@dataclass(frozen=True)
class Weights:
    """Self-normalised importance weights.

    Parameters
    ----------
    values
        They sum to 1; shape (num_draws,).
    khat
        Pareto shape of the largest ratios; below 0.7 estimates can be relied on.
    """

    values: np.ndarray
    khat: float = float("nan")

    @property
    def ess(self) -> float:
        """Effective number of draws, 1 / sum of squares."""
        return float(1 / np.square(self.values).sum())

    def moments(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance of draws ``z``, shapes (dim,) and (dim, dim)."""
        mean = self.values @ z
        away = z - mean
        return mean, (away * self.values[:, None]).T @ away


def smooth(log_ratios: np.ndarray) -> Weights:
    """Return Pareto-smoothed weights of log p - log q.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. JMLR 25(72). arXiv:1507.02646.
    """
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]

    # ArviZ takes log-likelihoods and negates them to have ratios
    log_weights, khat = array_stats.psislw(log_ratios.max() - log_ratios)  # type: ignore[no-untyped-call]
    return Weights(softmax(np.asarray(log_weights)), float(khat))


def temper(log_ratios: np.ndarray, dim: int) -> tuple[Weights, float]:
    """Return weights of the largest power up to 1 that leaves enough of them effective.

    Parameters
    ----------
    log_ratios
        Of log p to log q, some of them finite; shape (num_draws,).
    dim
        Coordinates of a draw.
    """
    known = np.isfinite(log_ratios)
    floor = min(max(MIN_SHARE * known.size, MIN_PER_COORDINATE * dim), known.sum() / 2)

    def short(power: float) -> float:
        return Weights(softmax(np.where(known, power * log_ratios, -np.inf))).ess - floor

    power = 1.0
    if short(1.0) < 0:
        power = float(brentq(short, 1e-3 / np.ptp(log_ratios[known]), 1.0))
    return Weights(softmax(np.where(known, power * log_ratios, -np.inf))), power


@dataclass(frozen=True)
class Proposal:
    """A multivariate t with five degrees of freedom over the unconstrained vector.

    Parameters
    ----------
    loc, root
        Its mean, shape (dim,), and a lower triangular root of its scale matrix, shape (dim, dim).
    """

    loc: np.ndarray
    root: np.ndarray


def make_round(target: Target, num_draws: int) -> Callable[..., Any]:
    """Return ``(key, loc, root, arrays) -> (z, log_ratios)``, draws of a proposal weighed.

    A log density that is not a number counts as none.
    """

    def weigh(key: jax.Array, loc: jax.Array, root: jax.Array, arrays: Any) -> tuple[Any, Any]:
        q = MultivariateStudentT(DEGREES, loc, root)
        z = q.sample(key, (num_draws,))
        log_p = jax.vmap(target.log_density_fn, in_axes=(0, None))(z, arrays)
        ratios = log_p - q.log_prob(z)
        return z, jnp.where(jnp.isnan(ratios), -jnp.inf, ratios)

    return weigh


def log_mean(log_ratios: np.ndarray) -> tuple[float, float]:
    """Return the log of the mean ratio, an estimate of log p(y), and its standard error."""
    value = float(logsumexp(log_ratios) - np.log(log_ratios.size))
    relative = np.exp(log_ratios - value)
    return value, float(relative.std(ddof=1) / np.sqrt(log_ratios.size))
