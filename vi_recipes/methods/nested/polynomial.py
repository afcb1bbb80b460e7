"""The integral over theta by a polynomial near log p(y, theta), and what that misses by points.

The polynomial is integrated over by as many points as it takes, and the difference between it and
log p(y, theta) by the points themselves, each with the polynomial that was fitted to those of all
other scrambles: that has no bias, and little error where the difference is small. Moments given
theta follow by weights with which every cubic in theta, or quadratic, has the mean found so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vi_recipes.importance import scrambled_sobol
from vi_recipes.methods.nested.rounds import NUM_SCRAMBLES, Integral, Rounds, moments
from vi_recipes.methods.nested.surrogate import (
    Surrogate,
    degree_of,
    fit_surrogate,
    monomials,
    whitened,
)

RESIDUAL = 0.3
"""Nats by which a polynomial may miss log p(y, theta), as an sd over the posterior, for it to be of
use: the difference has less than a third of the error."""

QUIET_RESIDUAL = 0.01
"""The same where what it misses is not integrated over. A mean is then off by at most as many
posterior sds, by Cauchy and Schwarz."""

NOISY_RESIDUAL = 0.1
"""Nats that noise may add to that: its error is in those over scrambles."""

NUM_POINTS = 2**14
"""Points at which a polynomial is integrated over. Each of those that correct one another has a
scramble of its own: what these leave is in the error."""

MOST_BELOW = 0.1
"""Sum of weights below 0, in a sum of 1, from which a polynomial is another density than its points
say: it runs up beside one of them."""

LEAST_SHARE = 0.1
"""Effective share of them below which a polynomial is no density to be integrated over."""


class _Points:
    """Points, fits to some of them, and controls: powers of whitened coordinates, the first 1.

    Integrals are over e to the ``top``.
    """

    def __init__(self, rounds: Rounds, found: Integral, *, lots: bool) -> None:
        self.theta, self.swept, self.weights = found.theta, found.swept, found.weights
        self.log_mixture = rounds.log_mixture()
        self.top = float((self.swept.log_p - self.log_mixture).max())
        self.scrambles, every = rounds.scrambles(), np.arange(len(self.theta))
        self.others = [np.setdiff1d(every, rows) for rows in self.scrambles]
        """Without one scramble after the other."""
        sizes = np.array(rounds.sizes) // NUM_SCRAMBLES
        lot = np.repeat(np.arange(NUM_SCRAMBLES * len(sizes)), np.repeat(sizes, NUM_SCRAMBLES))
        self._lot = lot if lots else None
        self._loc, self._whiten = whitened(self.theta, self.weights)
        self.controls = self._controls(self.theta)
        self._proposal = rounds.proposals[-1]

    def _controls(self, theta: np.ndarray) -> np.ndarray:
        return monomials((theta - self._loc) @ self._whiten, degree_of(theta.shape[1]) - 1)

    def fit(self, rows: np.ndarray, values: np.ndarray) -> Surrogate | None:
        """Return a polynomial fitted to some of the points."""
        w = self.weights[rows]
        lot = None if self._lot is None else self._lot[rows]
        return fit_surrogate(self.theta[rows], values[rows], w / w.sum(), lot)

    def integral(self, of: Surrogate, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a polynomial's integrals of the controls, by a scramble of its own.

        All of them, and what of them lies beyond its reach. Not numbers where a few points have all
        of the weight: it runs up where none was fitted.
        """
        many = self._proposal.points(scrambled_sobol(len(self._loc) + 1, NUM_POINTS, [seed]))
        log_p, far = of.and_beyond(many)
        weights = np.exp(log_p - self._proposal.log_prob(many) - self.top)
        if not weights.sum() ** 2 >= LEAST_SHARE * NUM_POINTS * np.square(weights).sum():
            nothing = np.full(self.controls.shape[1], np.nan)
            return nothing, nothing
        controls = self._controls(many)
        return weights @ controls / NUM_POINTS, weights[far] @ controls[far] / NUM_POINTS

    def calibrated(
        self, rows: Int[np.ndarray, " rows"], integrals: Float[np.ndarray, " controls"]
    ) -> Float[np.ndarray, " points"]:
        """Return weights of some points, near their own, that give all controls such integrals.

        They sum to 1, and some may be a little below 0.
        """
        own = self.weights[rows] / self.weights[rows].sum()
        root, controls = np.sqrt(own), self.controls[rows]
        short = integrals / integrals[0] - own @ controls
        weights = np.zeros(len(self.theta))
        weights[rows] = own + root * (np.linalg.pinv(controls * root[:, None]).T @ short)
        return weights

    def log_evidence(self, integrals: Float[np.ndarray, " controls"]) -> float:
        return float(self.top + np.log(integrals[0]))


class _Found(NamedTuple):
    """Integrals of the controls, of all points and without one scramble after the other."""

    whole: Float[np.ndarray, " controls"]
    parts: list[Float[np.ndarray, " controls"]]
    residual: float
    beyond: Float[np.ndarray, " controls"]
    """What of the whole lies where no polynomial was fitted."""


def by_polynomial(rounds: Rounds, found: Integral, *, lots: bool = False) -> Integral | None:
    """Return the integral by a polynomial fitted to the points; ``None`` where none fits.

    Errors are those of leaving out one scramble after the other (the jackknife), and all that lies
    where no polynomial was fitted.

    Parameters
    ----------
    rounds, found
        The points, and what they come to when they are weighed.
    lots
        Whether noise is one for every scramble of every round: a polynomial is then to fit what has
        no noise, and takes its place.

    References
    ----------
    Deville, J.-C. and Sarndal, C.-E. (1992). Calibration estimators in survey sampling. JASA
    87(418). doi:10.1080/01621459.1992.10475217
    Oates, C. J., Girolami, M. and Chopin, N. (2017). Control functionals for Monte Carlo
    integration. JRSS B 79(3). doi:10.1111/rssb.12185
    """
    try:
        points = _Points(rounds, found, lots=lots)
    except np.linalg.LinAlgError:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        sampled = _in_place(points) if lots else _corrected(points)
        inside = sampled.whole - sampled.beyond if sampled is not None else None
    if sampled is None or inside is None:
        return None
    every = [sampled.whole, inside, *sampled.parts]
    if not (np.isfinite(every).all() and min(v[0] for v in every) > 0):
        return None
    swept = points.swept
    weights = points.calibrated(np.arange(len(points.theta)), sampled.whole)
    if not np.minimum(weights, 0.0).sum() >= -MOST_BELOW:
        return None
    mean, sd = moments(weights, swept)
    parts = [
        (*moments(points.calibrated(rows, part), swept), points.log_evidence(part))
        for rows, part in zip(points.others, sampled.parts, strict=True)
    ]
    scale = np.sqrt((NUM_SCRAMBLES - 1) ** 2 / NUM_SCRAMBLES)
    errors = [np.std([p[i] for p in parts], axis=0, ddof=1) * scale for i in range(3)]
    within = moments(points.calibrated(np.arange(len(points.theta)), inside), swept)
    errors[0] = np.hypot(errors[0], within[0] - mean)
    errors[1] = np.hypot(errors[1], within[1] - sd)
    errors[2] = np.hypot(errors[2], np.log(inside[0] / sampled.whole[0]))
    beside = sampled.residual if lots else 0.0
    return replace(
        found,
        weights=weights,
        mean=mean,
        sd=sd,
        mean_error=errors[0],
        sd_error=errors[1],
        log_evidence=points.log_evidence(sampled.whole),
        log_evidence_error=float(np.hypot(errors[2], beside)),
        residual=sampled.residual,
        beside=beside,
    )


def _corrected(points: _Points) -> _Found | None:
    """Return integrals of polynomials, and of what they miss of scrambles left out of their fit."""
    log_p, log_q, top = points.swept.log_p, points.log_mixture, points.top
    found, beyond, residuals = [], [], []
    for seed, (rows, others) in enumerate(zip(points.scrambles, points.others, strict=True)):
        near = points.fit(others, log_p)
        if near is None or not near.residual <= RESIDUAL:
            return None
        known = np.exp(log_p[rows] - log_q[rows] - top)
        missed = known - np.exp(near.log_prob(points.theta[rows]) - log_q[rows] - top)
        every, outside = points.integral(near, seed)
        found.append(every + missed @ points.controls[rows] / len(rows))
        beyond.append(outside)
        residuals.append(near.residual)
    whole, outside = np.mean(found, axis=0), np.mean(beyond, axis=0)
    parts = [whole + (whole - one) / (NUM_SCRAMBLES - 1) for one in found]
    return _Found(whole, parts, float(np.sqrt(np.mean(np.square(residuals)))), outside)


def _in_place(points: _Points) -> _Found | None:
    """Return integrals of polynomials that are in place of log p(y, theta), noise and all."""
    swept, every = points.swept, np.arange(len(points.theta))
    whole = points.fit(every, swept.log_p)
    quiet = points.fit(every, np.where(np.isneginf(swept.log_p), -np.inf, swept.smooth))
    if whole is None or quiet is None:
        return None
    if not (whole.residual <= NOISY_RESIDUAL and quiet.residual <= QUIET_RESIDUAL):
        return None
    points.weights = np.where(whole.used, points.weights, 0.0)
    parts = [points.fit(rows, swept.log_p) for rows in points.others]
    integrals = [points.integral(part, 0)[0] for part in parts if part is not None]
    if len(integrals) < len(parts):
        return None
    every, beyond = points.integral(whole, 0)
    return _Found(every, integrals, quiet.residual, beyond)
