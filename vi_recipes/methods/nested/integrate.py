"""Adaptive quasi-Monte Carlo over theta: rounds of points, their weights, moments and errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq
from scipy.spatial import cKDTree
from scipy.special import logsumexp, softmax

from vi_recipes.core import MethodFailure, Progress, Status
from vi_recipes.importance import (
    Defended,
    Proposed,
    around,
    fit_triangular,
    num_parameters,
    scrambled_sobol,
    smooth,
)
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.mode import ThetaMode
from vi_recipes.methods.nested.nodes import make_nodes
from vi_recipes.methods.nested.records import InnerError, Swept
from vi_recipes.methods.nested.surrogate import (
    NUM_POINTS,
    RESIDUAL,
    SPARE,
    Surrogate,
    fit_surrogate,
    num_coefficients,
)

NUM_SCRAMBLES = 8
"""Independent scrambles of every round: how much they differ is the error."""

FIRST = 128
"""Points of the first round, at least."""

A_PARAMETER = 8
"""And as many times the numbers that a proposal has to have fitted."""

WIDER = 1.2
"""By which the first proposal is wider than the curvature at the mode says."""

EFFECTIVE = 0.05
"""Share of all points that weights are tempered to while a proposal is fitted, at least."""

DEAR = 1e8
"""Numbers read at all nodes of all points from which a polynomial is tried in their place."""

MOST_WORK = 4e9
"""Numbers that all points with noise may read, at most: some minutes' work."""

NOISY_RESIDUAL = 0.1
"""Nats that noise may add to what a polynomial misses: its error is in those over scrambles."""

MOST_KEPT = 2**25
"""Moments given theta that are kept, at most: points times reported scalars."""

MOST_FITS = 4
"""Times the fewest points of a polynomial up to which one is tried."""

MOST_FITTED = 16_384
"""Points that a proposal is fitted to, at most."""

HEAVIEST = 16
"""Points of theta at which the members' integrals are taken again with more nodes."""

LADDER = (9, 15, 25)
"""Nodes a dimension; each number is checked by the next."""


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
        Their standard errors, from independent scrambles.
    log_evidence, log_evidence_error
        log p(y), in nats.
    """

    theta: Float[np.ndarray, "points G"]
    weights: Float[np.ndarray, " points"]
    swept: Swept
    khat: float
    share: float
    mean: Float[np.ndarray, " scalars"]
    sd: Float[np.ndarray, " scalars"]
    mean_error: Float[np.ndarray, " scalars"]
    sd_error: Float[np.ndarray, " scalars"]
    log_evidence: float
    log_evidence_error: float
    residual: float | None = None
    """Nats by which a polynomial misses log p(y, theta), where one is in its place."""

    def some(self, count: int) -> Int[np.ndarray, " {count}"]:
        """Return the numbers of so many points, spread over the posterior."""
        total = np.cumsum(np.maximum(self.weights, 0.0))
        places = (np.arange(count) + 0.5) / count * total[-1]
        return np.minimum(np.searchsorted(total, places), len(total) - 1)

    @property
    def failed(self) -> Bool[np.ndarray, " points"]:
        """Points at which log p(y, theta) was not found; it may be minus infinity where it was."""
        return np.isneginf(self.swept.log_p) & ~np.isneginf(self.swept.smooth)

    @property
    def lost(self) -> float:
        """Share of the posterior that points may hold at which log p(y, theta) was not found.

        As they would if each weighed what its nearest neighbour does.
        """
        failed = self.failed
        if not failed.any():
            return 0.0
        if failed.all():
            return 1.0
        w = np.maximum(self.weights[~failed], 0.0)
        mean = w @ self.theta[~failed] / w.sum()
        sd = np.sqrt(w @ (self.theta[~failed] - mean) ** 2 / w.sum())
        unit = np.where(sd > 0, sd, 1.0)
        near = cKDTree(self.theta[~failed] / unit).query(self.theta[failed] / unit)[1]
        share = w[near].sum() / w.sum()
        return float(share / (1 + share))

    def worst_error(self, known: np.ndarray) -> float:
        """Return the largest error, of means in sds or relative of sds, among known scalars."""
        sd = np.where(self.sd > 0, self.sd, np.inf)[known]
        errors = np.concatenate([self.mean_error[known] / sd, self.sd_error[known] / sd])
        return float(np.nanmax(errors, initial=self.residual or 0.0))


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
        self._swept: list[Swept] = []
        self.theta = np.zeros((0, 0))
        self._log_q: list[np.ndarray] = []  # of every proposal, at all points

    def points(
        self, proposal: Proposed, size: int, seed: int
    ) -> tuple[Float[np.ndarray, "size G"], list[int]]:
        """Return points of a proposal for the next round, and the seeds of their scrambles."""
        seeds = [seed + 1_000 * len(self.sizes) + s for s in range(NUM_SCRAMBLES)]
        u = scrambled_sobol(self.dim + 1, size // NUM_SCRAMBLES, seeds)
        return proposal.points(u), seeds

    def add(self, proposal: Proposed, theta: np.ndarray, swept: Swept) -> None:
        """Take a round of points."""
        for k, earlier in enumerate(self.proposals):
            self._log_q[k] = np.concatenate([self._log_q[k], earlier.log_prob(theta)])
        self.theta = np.concatenate([self.theta.reshape(-1, theta.shape[1]), theta])
        self._log_q.append(proposal.log_prob(self.theta))
        self.proposals.append(proposal)
        self.sizes.append(len(theta))
        self._swept.append(swept)

    @property
    def swept(self) -> Swept:
        """What is known at all points."""
        self._swept = [Swept(*(np.concatenate(v) for v in zip(*self._swept, strict=True)))]
        return self._swept[0]

    def log_ratios(self) -> Float[np.ndarray, " points"]:
        """Return log p(y, theta) less the log density of the mixture of proposals."""
        shares = np.log(np.array(self.sizes) / len(self.theta))
        mixture = logsumexp(np.stack(self._log_q) + shares[:, None], axis=0)
        return np.asarray(self.swept.log_p - mixture)

    def scrambles(self) -> list[np.ndarray]:
        """Return the points of every scramble, over all rounds."""
        starts = np.cumsum([0, *self.sizes[:-1]])
        parts = [
            np.split(start + np.arange(size), NUM_SCRAMBLES)
            for start, size in zip(starts, self.sizes, strict=True)
        ]
        return [np.concatenate([p[s] for p in parts]) for s in range(NUM_SCRAMBLES)]


def integrate(
    density: ThetaDensity,
    mode: ThetaMode,
    *,
    tolerance: float,
    max_points: int,
    seed: int,
    known: np.ndarray,
    progress: Progress,
) -> Integral:
    """Return the integral over theta by rounds of points, until its errors are small.

    Every proposal is fitted to all points before it; all points count, each weighed by the mixture
    of the proposals that it might have come from.

    Parameters
    ----------
    density, mode
        log p(y, theta), and where its proposals begin.
    tolerance
        Posterior sds: rounds follow until every estimated error is below it.
    max_points
        Points in all, at most.
    seed
        Of the scrambles.
    known
        Which scalars have their moments from the points.
    progress
        Told of every round.

    References
    ----------
    Veach, E. and Guibas, L. J. (1995). Optimally combining sampling techniques for Monte Carlo
    rendering. SIGGRAPH. doi:10.1145/218380.218498
    """
    leads, dear = density.bounded, density.work
    fewest = power_of_two(
        SPARE * num_coefficients(density.dim) * NUM_SCRAMBLES / (NUM_SCRAMBLES - 1)
    )
    wide = around(mode.theta, WIDER**2 * mode.cov, leads)
    proposal: Proposed = wide
    max_points = min(max_points, MOST_KEPT // density.owner.size)
    if density.is_noisy:
        max_points = min(max_points, max(MOST_FITS * fewest, int(MOST_WORK / density.work)))
    size = power_of_two(max(FIRST, A_PARAMETER * num_parameters(leads)))
    if fewest * dear > DEAR:
        size = fewest
    rounds = Rounds(density.dim)
    while True:
        theta, _ = rounds.points(proposal, size, seed)
        rounds.add(proposal, theta, density.sweep(theta))
        total = len(rounds.theta)
        if (
            total * dear > DEAR
            and total <= MOST_FITS * fewest
            and (short := by_polynomial(rounds, known)) is not None
            and short.worst_error(known) <= tolerance
        ):
            return short
        if len(rounds.sizes) > 1:
            found = weigh(rounds)
            worst = found.worst_error(known)
            progress(total, max_points, f"largest error {worst:.2g} sds")
            if worst <= tolerance or 2 * total > max_points:
                return found
            size = power_of_two(total)
        proposal = Defended(next_proposal(rounds, leads), wide)


def without_theta(density: ThetaDensity) -> Integral:
    """Return the integral where all latent variables are members': one point of no coordinate."""
    swept = density.sweep(np.zeros((1, 0)))
    nothing = np.zeros(swept.mean.shape[1])
    return Integral(
        theta=np.zeros((1, 0)),
        weights=np.ones(1),
        swept=swept,
        khat=-np.inf,
        share=1.0,
        mean=swept.mean[0],
        sd=np.sqrt(swept.variance[0]),
        mean_error=nothing,
        sd_error=nothing,
        log_evidence=float(swept.log_p[0]),
        log_evidence_error=0.0,
    )


def power_of_two(size: float) -> int:
    """Return the least power of two that is as large."""
    return int(2 ** np.ceil(np.log2(size)))


def next_proposal(rounds: Rounds, leads: np.ndarray) -> Proposed:
    """Return the proposal that fits all points so far, or a part of many."""
    theta, log_ratios = rounds.theta, rounds.log_ratios()
    if len(theta) > MOST_FITTED:
        some = np.random.default_rng(len(theta)).permutation(len(theta))[:MOST_FITTED]
        theta, log_ratios = theta[some], log_ratios[some]
    floor = max(EFFECTIVE * len(theta), 6 * theta.shape[1])
    weights = _tempered(log_ratios, floor)
    try:
        return fit_triangular(theta, weights, leads)
    except np.linalg.LinAlgError:
        raise MethodFailure(
            Status.DIVERGED,
            f"of {len(theta):,} points of the parameters so few have any weight that nothing can "
            "be fitted to them",
            "start elsewhere with Model(init=...), or use NUTS",
        ) from None


def _tempered(log_ratios: np.ndarray, floor: float) -> np.ndarray:
    """Return weights of the largest power up to 1 that leaves so many of them effective."""

    def weights(power: float) -> np.ndarray:
        return np.asarray(softmax(np.where(np.isfinite(log_ratios), power * log_ratios, -np.inf)))

    def short(power: float) -> float:
        return float(1 / np.square(weights(power)).sum() - floor)

    if short(1.0) >= 0 or short(1e-5) < 0:
        return weights(1.0)
    return weights(brentq(short, 1e-5, 1.0))


def weigh(rounds: Rounds) -> Integral:
    """Return what all points of some rounds come to."""
    log_ratios, theta, swept = rounds.log_ratios(), rounds.theta, rounds.swept
    smoothed = smooth(log_ratios)
    top = log_ratios.max()
    raw = np.exp(log_ratios - top)
    mean, sd = _moments(smoothed.values, swept)
    parts, evidence = [], []
    for rows in rounds.scrambles():
        w = raw[rows]
        evidence.append(np.log(w.mean()) + top)
        few = Swept(*(v[rows] for v in swept))
        parts.append(_moments(w / w.sum(), few))
    share = 1 / np.sqrt(NUM_SCRAMBLES)
    errors = [np.std([p[i] for p in parts], axis=0, ddof=1) * share for i in range(2)]
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
        log_evidence_error=float(np.std(evidence, ddof=1) * share),
    )


def by_polynomial(rounds: Rounds, known: np.ndarray, *, lots: bool = False) -> Integral | None:
    """Return the integral by a polynomial fitted to the points; ``None`` where none fits.

    Errors are those of leaving out one scramble after the other (the jackknife). With ``lots`` the
    noise is one for every scramble of every round: the polynomial is to fit what has no noise, and
    its own errors have that of the noise.
    """
    found, proposal = weigh(rounds), rounds.proposals[-1]
    theta, swept = found.theta, found.swept

    points = proposal.points(scrambled_sobol(theta.shape[1] + 1, NUM_POINTS, [0]))
    log_q = proposal.log_prob(points)
    every = np.arange(len(theta))
    sizes = np.array(rounds.sizes) // NUM_SCRAMBLES
    lot = np.repeat(np.arange(NUM_SCRAMBLES * len(sizes)), np.repeat(sizes, NUM_SCRAMBLES))

    def fit(rows: np.ndarray, values: np.ndarray) -> Surrogate | None:
        w = found.weights[rows]
        of = lot[rows] if lots else None
        return fit_surrogate(theta[rows], values[rows], w / w.sum(), points, log_q, of)

    whole = fit(every, swept.log_p)
    if whole is None or not whole.residual <= (NOISY_RESIDUAL if lots else RESIDUAL):
        return None
    residual = whole.residual
    if lots:
        quiet = fit(every, np.where(np.isneginf(swept.log_p), -np.inf, swept.smooth))
        if quiet is None or not quiet.residual <= RESIDUAL:
            return None
        residual = quiet.residual
    parts = []
    for left_out in rounds.scrambles():
        rows = np.setdiff1d(every, left_out)
        part = fit(rows, swept.log_p)
        if part is None:
            return None
        few = Swept(*(v[rows] for v in swept))
        parts.append((*_moments(part.weights, few), part.log_evidence))
    scale = np.sqrt((NUM_SCRAMBLES - 1) ** 2 / NUM_SCRAMBLES)
    errors = [np.std([p[i] for p in parts], axis=0, ddof=1) * scale for i in range(3)]
    mean, sd = _moments(whole.weights, swept)
    return replace(
        found,
        weights=whole.weights,
        mean=mean,
        sd=sd,
        mean_error=errors[0],
        sd_error=errors[1],
        log_evidence=whole.log_evidence,
        log_evidence_error=float(np.hypot(errors[2], residual)),
        residual=residual,
    )


def _moments(weights: np.ndarray, swept: Swept) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds of every scalar."""
    used = weights != 0  # a point without density has no moments either
    w, mean, variance = weights[used], swept.mean[used], swept.variance[used]
    whole = w @ mean
    return whole, np.sqrt(np.maximum(w @ (variance + (mean - whole) ** 2), 0.0))


def inner_error(
    density: ThetaDensity,
    theta: Float[np.ndarray, "rows G"],
    log_p: Float[np.ndarray, " rows"],
    others: int,
) -> InnerError:
    """Return what so many other nodes make of log p(y, theta) at rows of theta."""
    nodes = make_nodes(others, density.split.width, False)
    with np.errstate(invalid="ignore"):  # neither may be found
        change = density.sweep(theta, nodes).log_p - log_p
    return InnerError.of(density.nodes.num_nodes, others, change)
