"""Points of theta in rounds, weighed by the mixture of their proposals, and what they come to."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from vi_recipes.core import MethodFailure, Status
from vi_recipes.fit import weighed_far_out
from vi_recipes.importance import (
    FINITE_VARIANCE,
    KHAT_LIMIT,
    Mixture,
    Proposed,
    khat,
    scrambled_sobol,
    smooth,
)
from vi_recipes.methods.nested.records import ThetaRows

NUM_SCRAMBLES = 8
"""Independent scrambles of every round: how much they differ is the error."""


UNSURE = 3.0
"""Times the spread of scrambles that an error is where what it is of has no finite variance: the
weights, or these times the distances from the mean that a mean, or an sd, adds up.

Most samples have less than its share of such a tail, all scrambles alike.
"""

CHANGE = 0.5
"""Of what the last round, which doubles the points, changed: an error is no less. It is two of its
sds where scrambles tell it, and half of what is left where each round halves what proposals lack,
all scrambles alike."""

COVERED = 20.0
"""Times the density of its points that a posterior may have at a mode of its own for the points to
have come near it."""

FEW = 0.3
"""Of the points that are effective, those that are for a figure below which it is made by few of
them; a half are for the sd of a normal law."""

MAX_PART = 0.05
"""Of a variance, what a single point may hold for no tail to be looked at."""

RARE = 5e-3
"""Of the posterior: where less holds half of what a variance, or a mean, adds up, the tail there is
looked at. It is an eighth for the variance of a normal law."""

FAR_OUT = (0.5, 0.9, 0.99)
"""Shares of what is added up, counted from the furthest, that less than :data:`RARE` holds."""

ENDLESS = 0.9
"""Pareto's shape of what is added up there, by Hill's estimate, from which the sum has no end to be
seen: of 1 it is infinite, as the variance of a t of 2 degrees is; 0.9 is that of 2.2.

Weights do not show it where points are put where the figure is made: they find as much of such a
tail as they reach, all scrambles alike.
"""

ENOUGH = 8_192
"""Points from which a tail says that there is no sd to be had: more may tell what few do not."""

COLUMNS = 256
"""Scalars that are looked at together."""


@dataclass(frozen=True)
class Integral:
    """Points of theta, weighed by p(y, theta), and the moments that follow.

    Parameters
    ----------
    theta, weights
        Shapes (points, G) and (points,); the weights sum to 1.
    swept
        log p(y, theta) and moments given theta at the points.
    khat
        Shape of the tail of the weights.
    share
        Effective share of the points.
    mean, sd
        Of every reported scalar, constrained scale, the mean less the reference.
    mean_error, sd_error
        Their standard errors, from independent scrambles, :data:`UNSURE` times as large where what
        they are of has no finite variance.
    log_evidence, log_evidence_error
        log p(y), in nats.
    """

    theta: Float[np.ndarray, "points G"]
    weights: Float[np.ndarray, " points"]
    swept: ThetaRows
    khat: float
    share: float
    mean: Float[np.ndarray, " scalars"]
    sd: Float[np.ndarray, " scalars"]
    mean_error: Float[np.ndarray, " scalars"]
    sd_error: Float[np.ndarray, " scalars"]
    log_evidence: float
    log_evidence_error: float
    tails: Float[np.ndarray, " scalars"] | None = None
    """Pareto's khat of scalars whose sd does not exist or is not told by the points (from 0.5), or
    the mean neither (from 0.7); NaN of others."""
    residual: float | None = None
    """Nats by which a polynomial misses log p(y, theta), where one was made use of."""
    beside: float = 0.0
    """Posterior sds by which a mean may be off beside its error."""
    rounds: Rounds | None = None
    """What the points are of, where they are several."""

    def some(self, count: int) -> Int[np.ndarray, " {count}"]:
        """Return the numbers of so many points, spread over the posterior."""
        total = np.cumsum(np.maximum(self.weights, 0.0))
        places = (np.arange(count) + 0.5) / count * total[-1]
        return np.minimum(np.searchsorted(total, places), len(total) - 1)

    def covers(self, theta: Float[np.ndarray, " G"], log_p: float) -> bool:
        """Whether points lie near a mode, at which log p(y, theta) is known."""
        if self.rounds is None or not np.isfinite(log_p):
            return False
        ratio = log_p - self.log_evidence - self.rounds.log_mixture_at(theta[None])[0]
        return bool(ratio <= np.log(COVERED))

    @property
    def failed(self) -> Bool[np.ndarray, " points"]:
        """Points at which log p(y, theta) was not found; it may be minus infinity where it was."""
        return np.isneginf(self.swept.log_p) & ~np.isneginf(self.swept.smooth)

    @property
    def lost(self) -> float:
        """Share of the posterior that points may hold at which log p(y, theta) was not found."""
        return float(self.as_neighbours[self.failed].sum())

    @cached_property
    def as_neighbours(self) -> Float[np.ndarray, " points"]:
        """Weights, of points at which log p(y, theta) was not found their nearest neighbours'."""
        failed, weights = self.failed, np.maximum(self.weights, 0.0)
        if failed.all():
            return np.full(failed.size, 1 / failed.size)
        if not failed.any():
            return weights / weights.sum()
        w = weights[~failed]
        mean = w @ self.theta[~failed] / w.sum()
        sd = np.sqrt(w @ (self.theta[~failed] - mean) ** 2 / w.sum())
        unit = np.where(sd > 0, sd, 1.0)
        near = cKDTree(self.theta[~failed] / unit).query(self.theta[failed] / unit)[1]
        weights[failed] = w[near]
        return weights / weights.sum()

    def worst_error(self, known: Bool[np.ndarray, " scalars"]) -> float:
        """Return the largest error, of means in sds or relative of sds, among known scalars.

        Those without an sd do not count.
        """
        return float(np.max(self._errors(known), initial=self.beside))

    @np.errstate(over="ignore", invalid="ignore")
    def _errors(self, known: Bool[np.ndarray, " scalars"]) -> Float[np.ndarray, "two scalars"]:
        """Return errors of means in sds, and relative ones of sds, 0 of those that do not count."""
        if self.tails is not None:
            known = known & np.isnan(self.tails)
        sd = np.where(self.sd > 0, self.sd, np.inf)
        errors = np.where(known, np.stack([self.mean_error, self.sd_error]) / sd, 0.0)
        return np.nan_to_num(errors, nan=0.0, posinf=np.inf)

    @np.errstate(over="ignore", invalid="ignore")
    def counted(self, known: Bool[np.ndarray, " scalars"]) -> Float[np.ndarray, " points"] | None:
        """Return how much a posterior's worth of each point counts for the figure known least.

        That is its distance from the mean in sds, or where it is an sd that squared, less 1;
        ``None`` where many points count, as many do wherever the scalar has no long tail.
        """
        errors = self._errors(known)
        power, scalar = np.unravel_index(int(errors.argmax()), errors.shape)
        if not self.sd[scalar] > 0:
            return None
        away = self.swept.mean[:, scalar] - self.mean[scalar]
        square = (self.swept.variance[:, scalar] + away**2) / self.sd[scalar] ** 2
        counted = np.abs(square - 1) if power else np.sqrt(square)
        w = np.where(self.weights > 0, self.weights, 0.0)
        part = w * np.where(w > 0, counted, 0.0)
        effective = part.sum() ** 2 / np.square(part).sum() * np.square(w).sum()
        return counted if effective < FEW else None

    @np.errstate(over="ignore", invalid="ignore")
    def settled_since(self, earlier: Integral | None) -> Integral:
        """Return it with errors that are no less than what its last round changed allows for.

        Parameters
        ----------
        earlier
            What half of its points had come to; ``None`` where there was nothing.
        """
        if earlier is None:
            return self
        change = abs(self.log_evidence - earlier.log_evidence)
        return replace(
            self,
            mean_error=np.maximum(self.mean_error, CHANGE * np.abs(self.mean - earlier.mean)),
            sd_error=np.maximum(self.sd_error, CHANGE * np.abs(self.sd - earlier.sd)),
            log_evidence_error=max(self.log_evidence_error, CHANGE * change),
        )


class Rounds:
    """Rounds of points, each of a proposal of its own.

    Parameters
    ----------
    dim
        Coordinates of theta.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.proposals: list[Proposed] = []
        self.sizes: list[int] = []
        self._swept: list[ThetaRows] = []
        self.theta = np.zeros((0, 0))
        self._log_q: list[np.ndarray] = []  # of every proposal, at all points

    def points(
        self, proposal: Proposed, size: int, seed: int
    ) -> tuple[Float[np.ndarray, "size G"], list[int]]:
        """Return points of a proposal for the next round, and the seeds of their scrambles."""
        seeds = [seed + 1_000 * len(self.sizes) + s for s in range(NUM_SCRAMBLES)]
        u = scrambled_sobol(self.dim + 1, size // NUM_SCRAMBLES, seeds)
        return proposal.points(u), seeds

    def add(
        self, proposal: Proposed, theta: Float[np.ndarray, "points G"], swept: ThetaRows
    ) -> None:
        """Take a round of points."""
        for k, earlier in enumerate(self.proposals):
            self._log_q[k] = np.concatenate([self._log_q[k], earlier.log_prob(theta)])
        self.theta = np.concatenate([self.theta.reshape(-1, theta.shape[1]), theta])
        self._log_q.append(proposal.log_prob(self.theta))
        self.proposals.append(proposal)
        self.sizes.append(len(theta))
        self._swept.append(swept)

    @property
    def swept(self) -> ThetaRows:
        """What is known at all points."""
        self._swept = [ThetaRows(*(np.concatenate(v) for v in zip(*self._swept, strict=True)))]
        return self._swept[0]

    def having(self, swept: ThetaRows) -> Rounds:
        """Return the same points with something else known at them."""
        made = copy(self)
        made._swept = [swept]
        return made

    def log_ratios(self) -> Float[np.ndarray, " points"]:
        """Return log p(y, theta) less the log density of the mixture of proposals."""
        return np.asarray(self.swept.log_p - self.log_mixture())

    def log_mixture(self) -> Float[np.ndarray, " points"]:
        """Return the log density of the mixture of proposals."""
        shares = np.log(np.array(self.sizes) / len(self.theta))
        return np.asarray(logsumexp(np.stack(self._log_q) + shares[:, None], axis=0))

    def log_mixture_at(self, theta: Float[np.ndarray, "rows G"]) -> Float[np.ndarray, " rows"]:
        """Return the same at other points."""
        shares = tuple(size / len(self.theta) for size in self.sizes)
        return Mixture(tuple(self.proposals), shares).log_prob(theta)

    def scrambles(self) -> list[np.ndarray]:
        """Return the points of every scramble, over all rounds."""
        starts = np.cumsum([0, *self.sizes[:-1]])
        parts = [
            np.split(start + np.arange(size), NUM_SCRAMBLES)
            for start, size in zip(starts, self.sizes, strict=True)
        ]
        return [np.concatenate([p[s] for p in parts]) for s in range(NUM_SCRAMBLES)]


@np.errstate(over="ignore", invalid="ignore")  # what has no sd has squares without end
def weigh(rounds: Rounds) -> Integral:
    """Return what all points of some rounds come to.

    Raises
    ------
    MethodFailure
        ``DIVERGED`` where none of them has any weight.
    """
    log_ratios, theta, swept = rounds.log_ratios(), rounds.theta, rounds.swept
    if not np.isfinite(log_ratios).any():
        raise too_few(len(theta))
    smoothed = smooth(log_ratios)
    top = log_ratios.max()
    raw = np.exp(log_ratios - top)
    mean, sd = moments(smoothed.values, swept)
    parts, evidence = [], []
    for rows in rounds.scrambles():
        # by its own largest: one far below the others would have no weight at all
        own = log_ratios[rows].max()
        w = np.exp(log_ratios[rows] - own)
        evidence.append(np.log(w.mean()) + own)
        few = ThetaRows(*(v[rows] for v in swept))
        parts.append(moments(w / w.sum(), few))
    shapes = _shapes(log_ratios, smoothed.values, swept, mean)
    unsure = np.maximum(shapes, smoothed.khat) >= FINITE_VARIANCE
    share = np.where(unsure, UNSURE, 1.0) / np.sqrt(NUM_SCRAMBLES)
    errors = [np.std([p[i] for p in parts], axis=0, ddof=1) * share[i] for i in range(2)]
    of_evidence = 1.0 if smoothed.khat < FINITE_VARIANCE else UNSURE
    return Integral(
        theta=theta,
        weights=smoothed.values,
        swept=swept,
        khat=smoothed.khat,
        share=float(raw.sum() ** 2 / np.square(raw).sum() / len(raw)),
        mean=mean,
        sd=sd,
        mean_error=errors[0],
        sd_error=errors[1],
        log_evidence=float(top + np.log(raw.mean())),
        rounds=rounds,
        log_evidence_error=float(np.std(evidence, ddof=1) * of_evidence / np.sqrt(NUM_SCRAMBLES)),
        tails=_untold(shapes, len(theta)),
    )


def too_few(num_points: int) -> MethodFailure:
    """Return the failure where too few points have any weight for a proposal to be fitted."""
    return MethodFailure(
        Status.DIVERGED,
        f"of {num_points:,} points of the parameters so few have any weight that nothing can be "
        "fitted to them",
        "start elsewhere with Model(init=...), or use NUTS",
    )


def _untold(
    shapes: Float[np.ndarray, "two scalars"], num_points: int
) -> Float[np.ndarray, " scalars"] | None:
    """Return khat of scalars without an sd, as :attr:`Integral.tails` has it; ``None`` for none."""
    gone = shapes[1] >= KHAT_LIMIT
    if num_points < ENOUGH or not gone.any():
        return None
    return np.where(gone, np.maximum(shapes[0], FINITE_VARIANCE), np.nan)


def _shapes(
    log_ratios: Float[np.ndarray, " points"],
    weights: Float[np.ndarray, " points"],
    swept: ThetaRows,
    mean: Float[np.ndarray, " scalars"],
) -> Float[np.ndarray, "two scalars"]:
    """Return khat of what means, and variances, of scalars add up, minus infinity for light tails.

    That is weights times distances from the mean, and times their squares. A scalar is looked at
    where one point holds much of the variance and lies far out, as for corrected moments. Of a sum
    without an end (:data:`ENDLESS`) it is the limit at least.
    """
    shapes = np.full((2, mean.size), -np.inf)
    used = weights > 0  # a point without density has no moments either
    w, log_w = weights[used], log_ratios[used]
    parts = np.full(used.size, -np.inf)
    for first in range(0, mean.size, COLUMNS):
        some = slice(first, first + COLUMNS)
        values = swept.mean[used, some]
        square = swept.variance[used, some] + (values - mean[some]) ** 2
        part = square * w[:, None]
        for k in np.flatnonzero(part.max(axis=0) > MAX_PART * part.sum(axis=0)):
            if not weighed_far_out(values[:, k], w, int(part[:, k].argmax())):
                continue
            with np.errstate(divide="ignore"):
                log_square = np.log(square[:, k])
            for i, power in enumerate((0.5, 1.0)):
                parts[used] = log_w + power * log_square
                shapes[i, first + k] = khat(parts)
        for i, sizes in enumerate((np.sqrt(square), square)):
            least = np.where(_has_no_end(sizes, w), KHAT_LIMIT, -np.inf)
            shapes[i, some] = np.maximum(shapes[i, some], least)
    return shapes


def _has_no_end(
    sizes: Float[np.ndarray, "points scalars"], w: Float[np.ndarray, " points"]
) -> Bool[np.ndarray, " scalars"]:
    """Whether what weighted sizes add up to is made ever further out, as the points reach."""
    total = w @ sizes
    # by Cauchy and Schwarz less than RARE holds half of no others, and sorting takes long
    found = 4 * RARE * (w @ sizes**2) >= total**2
    for k in np.flatnonzero(found):
        order = np.argsort(-sizes[:, k])
        with np.errstate(divide="ignore"):
            mass, log_size = w[order], np.log(sizes[order, k])
        counts = np.searchsorted(np.cumsum(mass * sizes[order, k]), total[k] * np.array(FAR_OUT))
        far = [(mass[: n + 1], log_size[: n + 1] - log_size[n]) for n in counts]
        found[k] = any(m.sum() < RARE and m @ size >= ENDLESS * m.sum() for m, size in far)
    return found


def moments(weights: np.ndarray, swept: ThetaRows) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds of every scalar."""
    used = weights != 0  # a point without density has no moments either
    w, mean, variance = weights[used], swept.mean[used], swept.variance[used]
    whole = w @ mean
    return whole, np.sqrt(np.maximum(w @ (variance + (mean - whole) ** 2), 0.0))
