"""Importance weights: smoothing, Pareto's khat, tempering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

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
        Minus infinity where there is no tail to judge: the weights hardly vary (see :data:`LEVEL`),
        or the largest are the same, to rounding.

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
    return smooth(values).khat


KHAT_LIMIT = 0.7
"""Pareto shape from which weights are not to be relied on. Vehtari et al. (2024)."""


FINITE_VARIANCE = 0.5
"""Pareto shape from which weights have no finite variance, and errors made from it mean nothing."""


LEVEL = 0.1
"""Sd of weights, their mean being 1, up to which they are level and no tail is looked for.

By Cauchy and Schwarz no mean under p is further from that under q than the sd of the weights times
its sd under q, so that every mean is within 0.1 sds. What is left of the weights is noise, and a
Pareto's shape fitted to noise is any number."""


MIN_SHARE = 0.02
"""Effective share of the draws below which weights are tempered while the proposal adapts."""


GOOD_SHARE = 0.25
"""Effective share of the draws from which their weights are good enough as they are."""


OWN_SHARE = 0.75
"""Effective share from which weights of an approximation's own draws vouch for it. Where it is too
narrow, or lacks a tail, they never see what it has not, and leave sds too small: with a khat below
the limit, by 7 % at a share of 0.7, 13 % at 0.6, and half at 0.1, many times the errors that they
tell."""


VOUCHING_SHARE = 0.5
"""The same of draws of which half have the tails of a t: of a normal posterior as many count."""


MIN_PER_COORDINATE = 2
"""Effective draws a coordinate below which they are too: a covariance takes more than one."""


class Marginals(NamedTuple):
    """Moments of every scalar of weighted draws, each of the shape of a draw.

    Parameters
    ----------
    mean, sd
        Weighted.
    mcse_mean, mcse_sd
        Monte Carlo standard errors of both, by the delta method, of ratios of sums.
    """

    mean: np.ndarray
    sd: np.ndarray
    mcse_mean: np.ndarray
    mcse_sd: np.ndarray


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

    values: Float[np.ndarray, " draws"]
    khat: float = float("nan")

    @property
    def ess(self) -> float:
        """Effective number of draws, 1 / sum of squares."""
        return float(1 / np.square(self.values).sum())

    def moments(
        self, z: Float[np.ndarray, "draws dim"]
    ) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]:
        """Return mean and covariance of draws ``z``, shapes (dim,) and (dim, dim)."""
        mean = self.values @ z
        away = z - mean
        return mean, (away * self.values[:, None]).T @ away

    def marginals(self, z: Shaped[np.ndarray, " draws *shape"]) -> Marginals:
        """Return means and sds of draws ``z``, and Monte Carlo errors of both."""
        mean = np.tensordot(self.values, z, axes=1)
        square = np.square(z - mean)
        variance = np.tensordot(self.values, square, axes=1)
        sd, power = np.sqrt(variance), np.square(self.values)
        error = np.sqrt(np.tensordot(power, square, axes=1))
        error_variance = np.sqrt(np.tensordot(power, np.square(square - variance), axes=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            error_sd = np.where(sd > 0, error_variance / (2 * sd), 0.0)
        return Marginals(*map(np.asarray, (mean, sd, error, error_sd)))


def smooth(log_ratios: Float[np.ndarray, " draws"]) -> Weights:
    """Return Pareto-smoothed weights of log p - log q.

    They are left as they are, with a shape of minus infinity, where there is no tail: weights that
    are level (see :data:`LEVEL`), and a largest weight that a fifth of the draws share.

    The Pareto distribution is fitted to what the largest weights exceed a threshold by. Where the
    ratio p / q has a maximum or a plateau within q, many weights lie within a hair of it, and a fit
    to excesses of every order of magnitude has a shape of 3 and more, however nearly q is p. A tail
    of that shape would show in its largest weights themselves, so of shapes above
    :data:`WITHOUT_MEAN` Hill's estimate from a fifth of the tail, two standard errors added, is an
    upper limit; weights that it overrules, or that have no Pareto fit for ties, are not smoothed.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. JMLR 25(72). arXiv:1507.02646.
    Hill, B. M. (1975). A simple general approach to inference about the tail of a distribution.
    Annals of Statistics 3(5). doi:10.1214/aos/1176343247
    """
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]

    plain = softmax(log_ratios)
    largest = np.sort(log_ratios)[-max(log_ratios.size // 5, 2) :]
    tied = largest[-1] - largest[0] <= 1e-9 * max(1.0, abs(largest[-1]))
    if tied or sd_of_weights(plain) <= LEVEL:
        return Weights(plain, -np.inf)
    most = _largest_shape(log_ratios)
    try:
        # ArviZ takes log-likelihoods and negates them to have ratios
        smoothed, shape = array_stats.psislw(log_ratios.max() - log_ratios)  # type: ignore[no-untyped-call]
    except ValueError:  # the whole tail is one number
        return Weights(plain, most)
    if shape <= max(most, WITHOUT_MEAN):
        return Weights(softmax(np.asarray(smoothed)), float(shape))
    return Weights(plain, most)


WITHOUT_MEAN = 1.0
"""Shape from which on a Pareto distribution has no mean, as all weights have: more is a misfit."""


def _largest_shape(log_ratios: Float[np.ndarray, " draws"]) -> float:
    """Return Hill's estimate of the shape of the tail, two standard errors added."""
    tail = min(log_ratios.size / 5, 3 * np.sqrt(log_ratios.size))
    count = max(int(tail) // 5, 10)
    top = np.sort(log_ratios)[-count - 1 :]
    if np.isneginf(top[0]):
        return np.inf
    return float((top[1:] - top[0]).mean() * (1 + 2 / np.sqrt(count)))


def sd_of_weights(values: Float[np.ndarray, " draws"]) -> float:
    """Return the sd of weights in units of their mean; they sum to 1."""
    return float(np.sqrt(max(values.size * np.square(values).sum() - 1, 0.0)))


def temper(log_ratios: Float[np.ndarray, " draws"], dim: int) -> tuple[Weights, float]:
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


def log_mean(log_ratios: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """Return the log of the mean ratio, an estimate of log p(y), and its standard error."""
    value = float(logsumexp(log_ratios) - np.log(log_ratios.size))
    relative = np.exp(log_ratios - value)
    return value, float(relative.std(ddof=1) / np.sqrt(log_ratios.size))


def shape_in_words(khat: float) -> str:
    """Return a Pareto shape as words, as part of a sentence: ``"khat 0.31"``."""
    return f"khat {khat:.2f}" if khat > -np.inf else "weights without a tail"


def khat_limit(num_draws: int) -> float:
    """Return the Pareto shape from which so few weights are not to be relied on.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. JMLR 25(72), section 3.2.4: min(1 - 1 / log10 S, 0.7).
    """
    return float(min(1 - 1 / np.log10(num_draws), KHAT_LIMIT))
