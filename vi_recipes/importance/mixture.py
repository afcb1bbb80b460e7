"""Mixtures of proposals, with parts put where all others leave a density short."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import logsumexp

from vi_recipes.importance.triangular import Proposed, around

DEFENCE = 0.1
"""Share of the points from a wide proposal, where a fitted tail is too thin."""

AIMED = 0.25
"""Share of the points from a proposal for one figure alone."""

SHORT = 3.0
"""Times the density over the proposals', both of mass 1, from which these leave it short."""

MOST_PARTS = 4
"""Parts that are put where they do, at most."""

A_PART = 0.05
"""Share of the points that each has."""

NEAR, NEAR_A_COORDINATE = 1 / 16, 10
"""Of the points, and times the coordinates, those around a place whose spread a part has."""


@dataclass(frozen=True)
class Mixture:
    """Several proposals, each with a share of the points.

    Parameters
    ----------
    parts, shares
        Proposals, and their shares, which sum to 1.
    """

    parts: tuple[Proposed, ...]
    shares: tuple[float, ...]

    def points(self, u: Float[np.ndarray, "points axes"]) -> Float[np.ndarray, "points dim"]:
        """Return points; the last uniform number says from which of the parts."""
        chosen = np.searchsorted(np.cumsum(self.shares)[:-1], u[:, -1], side="right")
        x = np.empty((len(u), u.shape[1] - 1))
        for k, part in enumerate(self.parts):
            x[chosen == k] = part.points(u[chosen == k])
        return x

    def log_prob(self, x: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """Return the log density of the mixture."""
        logs = [np.log(s) + p.log_prob(x) for p, s in zip(self.parts, self.shares, strict=True)]
        return np.asarray(logsumexp(np.stack(logs), axis=0))


def defended(narrow: Proposed, wide: Proposed) -> Mixture:
    """Return a proposal with a tenth of the points from a wide one: that bounds the weights."""
    return Mixture((wide, narrow), (DEFENCE, 1 - DEFENCE))


def aimed(proposal: Mixture, part: Proposed) -> Mixture:
    """Return a proposal with a quarter of the points from one that is for a single figure."""
    shares = *((1 - AIMED) * s for s in proposal.shares), AIMED
    return Mixture((*proposal.parts, part), shares)


def filled(
    proposal: Mixture,
    x: Float[np.ndarray, "points dim"],
    log_p: Float[np.ndarray, " points"],
    log_mixture: Float[np.ndarray, " points"],
    leads: Bool[np.ndarray, " dim"],
) -> Mixture:
    """Return a proposal with parts where it and the points so far leave a density short.

    Part after part is put at the point where the density is largest over that of all proposals,
    with the spread of the points around. Far out that counts as many times as squares are larger
    there than in the middle: points are for sds, too.

    Parameters
    ----------
    proposal
        For the next points, as many as there are.
    x
        Points of proposals so far.
    log_p, log_mixture
        The log density, up to a constant, and that of their mixture.
    leads
        See :func:`~vi_recipes.importance.around`.

    References
    ----------
    Raftery, A. E. and Bao, L. (2010). Estimating and projecting trends in HIV/AIDS generalized
    epidemics using incremental mixture importance sampling. Biometrics 66(4).
    doi:10.1111/j.1541-0420.2010.01399.x
    """
    count, dim = x.shape
    log_w = log_p - log_mixture
    w = np.exp(log_w - logsumexp(log_w))
    log_p = log_p - logsumexp(log_w) + np.log(count)
    away = x - w @ x
    cov = (away * w[:, None]).T @ away
    try:
        whiten = np.linalg.inv(np.linalg.cholesky(cov + 1e-10 * np.diag(np.diag(cov)))).T
    except np.linalg.LinAlgError:  # of so few points that they have no spread in some direction
        return proposal
    squares = np.square(away @ whiten).sum(1) / (dim + 2)
    wanted = log_p + np.log(np.maximum(squares, 1.0)) - np.log(SHORT)
    near = min(count, max(int(NEAR * count), NEAR_A_COORDINATE * dim))
    own = proposal.log_prob(x)
    parts: list[Proposed] = []
    while len(parts) < MOST_PARTS:
        left = (1 - A_PART * len(parts)) / 2
        there = [np.log(left) + own, np.log(0.5) + log_mixture]
        there += [np.log(A_PART / 2) + p.log_prob(x) for p in parts]
        short = wanted - logsumexp(there, axis=0)
        top = int(np.argmax(short))
        if not short[top] > 0:
            break
        steps = x - x[top]
        some = np.argpartition(np.square(steps @ whiten).sum(1), near - 1)[:near]
        v = w[some] + 1 / count
        spread = (steps[some] * v[:, None]).T @ steps[some] / v.sum()
        try:
            parts.append(around(x[top], spread + 1e-8 * np.diag(np.diag(spread)), leads))
        except np.linalg.LinAlgError:  # they all lie in one place, to double precision
            break
    left = 1 - A_PART * len(parts)
    shares = *(left * s for s in proposal.shares), *[A_PART] * len(parts)
    return Mixture((*proposal.parts, *parts), shares)
