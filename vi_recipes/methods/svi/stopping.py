"""When SVI may stop: what the iterates say of the average of their second half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vi_recipes.methods.guides.family import Params, Scales

MAX_R_HAT = 1.1
"""Split R-hat of the iterates below which they count as stationary."""


MIN_STEPS = 3_000

MIN_CHUNKS = 12
"""Steps and chunks before the rule is asked: six chunks in the second half."""


MIN_BATCHES = 4

NUM_WINDOWS = 4

SLACK = 0.05
"""ELBO, in nats, that is no matter while there are steps to come."""

SMALL = 1 / 3
"""Share of what matters that the Monte Carlo error of a gain may be."""


def average_error(means: np.ndarray) -> np.ndarray:
    """Return the standard errors of the average of chunk means, the chunk leading.

    Neighbouring chunks may be correlated, so batches of 1, 2, 4 and so on of them are tried and the
    largest error is taken.
    """
    if len(means) < 2:
        return np.full(means.shape[1:], np.inf)
    largest, size = np.zeros(means.shape[1:]), 1
    while size == 1 or len(means) // size >= MIN_BATCHES:
        count = len(means) // size
        batches = means[len(means) - count * size :].reshape(count, size, *means.shape[1:]).mean(1)
        largest = np.maximum(largest, batches.std(axis=0, ddof=1) / np.sqrt(count))
        size *= 2
    return largest


def split_r_hat(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return R-hat of iterates over windows, from means and variances by chunk, which leads."""
    windows = np.array_split(np.arange(len(means)), NUM_WINDOWS)
    within = np.mean([variances[w].mean(0) + means[w].var(0) for w in windows], axis=0)
    between = np.var([means[w].mean(0) for w in windows], axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.nan_to_num(np.sqrt(1 + between / within), nan=1.0, posinf=np.inf))


@dataclass(frozen=True)
class Stationarity:
    """What the second half of the iterates says.

    Parameters
    ----------
    r_hat
        The largest split R-hat of a location, as it would be at the first step size.
    error
        The largest Monte Carlo error of an averaged location, in sds of the guide.
    """

    r_hat: float
    error: float

    def within(self, tolerance: float) -> bool:
        """Whether the iterates are stationary, and their average known to ``tolerance``."""
        return bool(self.r_hat < MAX_R_HAT and self.error < tolerance)

    def after(self, fall: float) -> Stationarity:
        """Return what was found after the step size has fallen by so much.

        The variance of the iterates is in proportion to it, and R-hat squared less one, a ratio to
        that variance, to its inverse.
        """
        return Stationarity(float(np.sqrt(1 + (self.r_hat**2 - 1) / fall)), self.error)

    def __str__(self) -> str:
        return (
            f"the locations' R-hat over windows of the second half is at most {self.r_hat:.3g} "
            f"(limit {MAX_R_HAT}, at the first step size), and the Monte Carlo error of their "
            f"average {self.error:.2g} of the guide's sd"
        )


def judge_iterates(
    scales: Scales,
    means: Sequence[Params],
    variances: Sequence[Params],
    constrain: Callable[[Any], Params],
) -> Stationarity:
    """Return what the second half of the chunks says of the locations.

    Parameters
    ----------
    scales
        From :func:`~vi_recipes.methods.guides.families.location_scales`.
    means, variances
        Of the unconstrained parameters, or at least the locations, by chunk.
    constrain
        From unconstrained to constrained parameters.
    """
    half = len(means) // 2
    last = {name: np.asarray(value, float) for name, value in constrain(means[-1]).items()}
    r_hat, error = 1.0, 0.0
    for name, scale in scales.items():
        series, spread = (
            np.stack([np.asarray(chunk[name], float) for chunk in chunks[half:]])
            for chunks in (means, variances)
        )
        if series[0].size:
            r_hat = max(r_hat, float(split_r_hat(series, spread).max()))
            relative = average_error(series) / np.asarray(scale(last), float)
            error = max(error, float(relative.max()))
    return Stationarity(r_hat, error)


@dataclass(frozen=True)
class Plateau:
    """How far the objective still climbs.

    Parameters
    ----------
    gain
        Of the last quarter on an earlier one.
    error
        Its Monte Carlo error.
    draws
        Fresh draws at the averages of both quarters that gave it; 0 where it is that of the steps.
    """

    gain: float
    error: float
    draws: int = 0

    @property
    def may_be_flat(self) -> bool:
        """Whether the gain is within its error, or too small to matter: the error may be large."""
        return self.gain <= max(SLACK, 3 * self.error)

    def known(self, limit: float) -> bool:
        """Whether the error is small against ``limit``, in nats."""
        return self.error <= SMALL * limit

    def climbs(self, limit: float) -> bool:
        """Whether the gain is above ``limit`` for all that its error says."""
        return self.gain - 3 * self.error > limit

    def flat(self, limit: float) -> bool:
        """Whether the gain is at most ``limit``, and known well enough to say so."""
        return self.gain <= limit and (self.known(limit) or self.gain + 2 * self.error <= limit)

    def __str__(self) -> str:
        how = f", from {self.draws} fresh draws" if self.draws else ""
        return f"gained {self.gain:.2g} (Monte Carlo error {self.error:.2g}{how})"


def judge_series(values: np.ndarray, apart: int = 1) -> Plateau:
    """Return how far the last quarter of ``values`` has gained on the one ``apart`` before."""
    if values.size < 4:
        return Plateau(float("nan"), float("inf"))
    quarters = np.array_split(values, 4)
    before, last = quarters[3 - apart], quarters[3]
    error = np.hypot(_batch_error(last), _batch_error(before))
    return Plateau(float(last.mean() - before.mean()), float(error))


def _batch_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of an autocorrelated series.

    From the batch means, less their linear trend: a series that still climbs is not noise.
    """
    batches = np.array([b.mean() for b in np.array_split(values, 20) if b.size])
    if batches.size < 4:
        return float("inf")
    step = np.arange(batches.size) - (batches.size - 1) / 2
    residual = batches - batches.mean() - step * (step @ batches) / (step @ step)
    return float(np.sqrt(residual @ residual / (batches.size - 2) / batches.size))
