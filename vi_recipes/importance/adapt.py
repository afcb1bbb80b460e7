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

from vi_recipes.core.progress import Progress
from vi_recipes.core.status import MethodFailure, Status
from vi_recipes.model.target import Target

KHAT_LIMIT = 0.7
"""Pareto shape from which weights are not to be relied on. Vehtari et al. (2024)."""

FINITE_VARIANCE = 0.5
"""Pareto shape from which weights have no finite variance, and errors made from it mean nothing."""

GAIN = 1.1
"""Rise of the effective share from one round to the next below which a proposal is good."""

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

    def marginals(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return means and sds of draws ``z``, and Monte Carlo errors of both.

        Each of the shape of a draw; the errors by the delta method, of ratios of sums.
        """
        mean = np.tensordot(self.values, z, axes=1)
        square = np.square(z - mean)
        variance = np.tensordot(self.values, square, axes=1)
        sd, power = np.sqrt(variance), np.square(self.values)
        error = np.sqrt(np.tensordot(power, square, axes=1))
        error_variance = np.sqrt(np.tensordot(power, np.square(square - variance), axes=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            error_sd = np.where(sd > 0, error_variance / (2 * sd), 0.0)
        return mean, sd, error, error_sd


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


def root_of(cov: np.ndarray, target: Target) -> np.ndarray:
    """Return the lower triangular root of the covariance of draws of the unconstrained vector.

    Raises
    ------
    MethodFailure
        ``SINGULAR`` if it is not positive definite, with its smallest eigenvalue and the sites
        along it.
    """
    sd = np.sqrt(np.diagonal(cov))
    unit = cov / np.maximum(np.outer(sd, sd), np.finfo(float).tiny)
    values, vectors = np.linalg.eigh(unit)
    if not values[0] > 1e-12 * len(values):
        raise MethodFailure(
            Status.SINGULAR,
            "the draws have no spread in every direction: at unit diagonal the smallest eigenvalue "
            f"of their covariance is {values[0]:.3g}, along "
            f"{', '.join(target.sites_along(vectors[:, 0]))}",
            "give more draws than coordinates, and not those of a point",
        )
    return np.asarray(sd[:, None] * np.linalg.cholesky(unit))


@dataclass(frozen=True)
class Adapted:
    """The last round of adaptive importance sampling.

    Parameters
    ----------
    z, log_ratios
        Its draws, shape (num_draws, dim), with log p - log q, shape (num_draws,).
    power
        To which its weights had to be raised; 1 where the proposal has reached the posterior.
    shares
        Effective share of the draws of every round; 0 where weights were tempered.
    """

    z: np.ndarray
    log_ratios: np.ndarray
    power: float
    shares: np.ndarray


def adapt(
    target: Target,
    weigh: Callable[[int, Proposal], tuple[np.ndarray, np.ndarray]],
    proposal: Proposal,
    num_rounds: int,
    progress: Progress,
) -> Adapted:
    """Draw round after round, each from the weighted moments of the one before.

    Weights are tempered while few of them matter. It ends when the effective share of the draws no
    longer rises.

    Parameters
    ----------
    target
        What is sampled.
    weigh
        ``(round, proposal) -> (z, log_ratios)``, rounds counted from 1.
    proposal
        The first one.
    num_rounds
        Rounds, at most.
    progress
        Told of every round.

    Raises
    ------
    MethodFailure
        ``DIVERGED`` if no draw of a round has a finite density, ``SINGULAR`` if draws have no
        spread in some direction.

    References
    ----------
    Cappé, O., Douc, R., Guillin, A., Marin, J.-M. and Robert, C. P. (2008). Adaptive importance
    sampling in general mixture classes. Statistics and Computing 18. doi:10.1007/s11222-008-9059-x
    """
    share, shares = 0.0, []
    for done in range(1, num_rounds + 1):
        z, ratios = weigh(done, proposal)
        if not np.isfinite(ratios).any() or np.isposinf(ratios).any():
            raise MethodFailure(
                Status.DIVERGED,
                f"no draw of round {done} has a finite density",
                "change scatter, or give the model an init",
            )
        weights, power = temper(ratios, z.shape[1])
        previous, share = share, weights.ess / len(z) if power == 1 else 0.0
        shares.append(share)
        progress(done, num_rounds, f"effective share {share:.2g}, power {power:.2g}")
        if power == 1 and previous > 0 and share < GAIN * previous:
            break
        mean, cov = weights.moments(z)
        proposal = Proposal(mean, root_of(cov, target))
    return Adapted(z, ratios, power, np.array(shares))


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
