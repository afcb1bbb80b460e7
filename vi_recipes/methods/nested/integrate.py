"""Adaptive quasi-Monte Carlo over theta: rounds of points, their weights, moments and errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import softmax

from vi_recipes.core import Progress
from vi_recipes.importance import (
    Proposed,
    aimed,
    defended,
    filled,
    fit_triangular,
    num_parameters,
    reaching,
)
from vi_recipes.latent import kinks_of
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.mode import ThetaMode
from vi_recipes.methods.nested.nodes import member_nodes
from vi_recipes.methods.nested.polynomial import by_polynomial
from vi_recipes.methods.nested.profile import first_proposals
from vi_recipes.methods.nested.records import InnerError, ThetaRows
from vi_recipes.methods.nested.rounds import NUM_SCRAMBLES, Integral, Rounds, too_few, weigh
from vi_recipes.methods.nested.surrogate import SPARE, num_coefficients

FIRST = 128
"""Points of the first round, at least."""

A_PARAMETER = 8
"""And as many times the numbers that a proposal has to have fitted."""

EFFECTIVE = 0.05
"""Share of all points that weights are tempered to while a proposal is fitted, at least."""

DEAR = 1e8
"""Numbers read at all nodes of all points from which a polynomial is tried beside them."""

MOST_WORK, MOST_NOISY_WORK = 3e10, 4e9
"""Numbers that all points may read, at most, and all points with noise: some minutes' work."""

MOST_KEPT = 2**25
"""Moments given theta that are kept, at most: points times reported scalars."""

MOST_FITS = 16
"""Times the fewest points of a polynomial up to which one is tried."""

MOST_FITTED = 16_384
"""Points that a proposal is fitted to, at most."""

HEAVIEST = 16
"""Points of theta at which the members' integrals are taken again with more nodes."""


OUTWEIGHS = 30.0
"""Times the weight of a point at the mode from which one is looked at for rounding."""

NEIGHBOUR, ROUNDING = 1e-6, 0.3
"""Sds to its neighbours on both sides, and the nats by which it may lie off their line."""

AT_ONCE = 128
"""Points that are looked at together, the heaviest first, until none of them is rounding."""


def integrate(
    density: ThetaDensity,
    mode: ThetaMode,
    *,
    tolerance: float,
    max_points: int,
    seed: int,
    known: Bool[np.ndarray, " scalars"],
    progress: Progress,
) -> Integral:
    """Return the integral over theta by rounds of points, until its errors are small.

    Every proposal is fitted to all points before it, with parts where it would leave the density
    short; all points count, each weighed by the mixture of the proposals that it might have come
    from.

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
    wide, proposal = first_proposals(density, mode)
    max_points = most_points(density, max_points)
    size = power_of_two(max(FIRST, A_PARAMETER * num_parameters(leads)))
    if fewest * dear > DEAR:
        size = fewest
    rounds, weighed = Rounds(density.dim), None
    while True:
        theta, _ = rounds.points(proposal, size, seed)
        swept = without_rounding(density, mode, proposal, theta, density.sweep(theta))
        rounds.add(proposal, theta, swept)
        total = len(rounds.theta)
        earlier, weighed = weighed, weigh(rounds)
        integral = weighed.settled_since(earlier)
        worst, fitted = integral.worst_error(known), None
        if total * dear > DEAR and total <= MOST_FITS * fewest:
            fitted = by_polynomial(rounds, integral)
        if fitted is not None and fitted.worst_error(known) < worst:
            integral, worst = fitted, fitted.worst_error(known)
        progress(total, max_points, f"largest error {worst:.2g} sds")
        several = len(rounds.sizes) > 1
        if worst <= tolerance and (several or integral is fitted):
            return integral
        if several:
            if 2 * total > max_points:
                return integral
            size = power_of_two(total)
        reach = not density.is_noisy
        proposal = next_proposal(rounds, wide, leads, weighed.counted(known), reach=reach)


def without_rounding(
    density: ThetaDensity,
    mode: ThetaMode,
    proposal: Proposed,
    theta: Float[np.ndarray, "rows G"],
    swept: ThetaRows,
) -> ThetaRows:
    """Return what is known at points of a proposal, less log p(y, theta) where it is rounding.

    Far out a sum of huge terms may leave any number, as the normalising constant of a beta law of
    concentration 1e25 does. Points that outweigh the mode are looked at by their neighbours: of
    some thousand in a smooth density's tail none is, and one that is would have all the weight.
    """
    if density.is_noisy:
        return swept
    top = density.given(mode.theta[None])[0] - proposal.log_prob(mode.theta[None])
    ratios = swept.log_p - proposal.log_prob(theta)
    heavy = np.flatnonzero(ratios > top + np.log(OUTWEIGHS))
    heavy = heavy[np.argsort(-ratios[heavy])]
    step = NEIGHBOUR * np.sqrt(np.diag(mode.cov))
    log_p = swept.log_p.copy()
    for first in range(0, heavy.size, AT_ONCE):
        rows = heavy[first : first + AT_ONCE]
        beside = density.sweep(np.concatenate([theta[rows] - step, theta[rows] + step])).log_p
        with np.errstate(invalid="ignore"):  # it may not be found there
            bend = beside.reshape(2, -1).sum(0) - 2 * swept.log_p[rows]
        rounding = ~(np.abs(bend) < ROUNDING)
        log_p[rows[rounding]] = -np.inf
        if not rounding.any():
            break
    return swept._replace(log_p=log_p)


def most_points(density: ThetaDensity, max_points: int) -> int:
    """Return how many points of theta there may be: as many as were asked for, if time allows."""
    most = MOST_NOISY_WORK if density.is_noisy else MOST_WORK
    few = MOST_FITS * power_of_two(SPARE * num_coefficients(density.dim))
    by_work = max(few, int(most / density.work))
    return min(max_points, MOST_KEPT // density.owner.size, by_work)


def without_theta(density: ThetaDensity, swept: ThetaRows | None = None) -> Integral:
    """Return the integral where all latent variables are members': one point of no coordinate."""
    swept = swept or density.sweep(np.zeros((1, 0)))
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


def next_proposal(
    rounds: Rounds,
    wide: Proposed,
    leads: np.ndarray,
    counted: Float[np.ndarray, " points"] | None,
    *,
    reach: bool = False,
) -> Proposed:
    """Return the proposal that fits all points so far, or a part of many, defended by a wide one.

    With parts where both leave the density short, and one for the figure known least where few
    points count for it: an sd whose scalar has a long tail is made far out.

    Parameters
    ----------
    rounds
        The points so far.
    wide
        A proposal that bounds their weights.
    leads
        See :func:`~vi_recipes.importance.around`.
    counted
        See :meth:`~vi_recipes.methods.nested.rounds.Integral.counted`.
    reach
        Whether some points reach far in all directions: not where noise is largest far out.
    """
    theta, swept, log_mixture = rounds.theta, rounds.swept, rounds.log_mixture()
    log_p = swept.log_p
    aim = None
    if counted is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            aim = _aim(theta, log_p - log_mixture + np.log(counted), leads)
    # noise is no part of the density
    known = np.where(np.isneginf(log_p), -np.inf, swept.smooth)
    if len(theta) > MOST_FITTED:
        some = np.random.default_rng(len(theta)).permutation(len(theta))[:MOST_FITTED]
        theta, log_mixture, log_p, known = (v[some] for v in (theta, log_mixture, log_p, known))
    weights = _tempered(log_p - log_mixture, _floor(theta))
    try:
        fitted = fit_triangular(theta, weights, leads)
    except np.linalg.LinAlgError:
        raise too_few(len(theta)) from None
    proposal = filled(defended(fitted, wide), theta, known, log_mixture, leads)
    if aim is not None:
        proposal = aimed(proposal, aim)
    # of one coordinate the t at the mode is what reaches far
    far = reach and theta.shape[1] > 1
    return reaching(proposal, theta, weights) if far else proposal


def _aim(
    theta: Float[np.ndarray, "points G"],
    log_ratios: Float[np.ndarray, " points"],
    leads: np.ndarray,
) -> Proposed | None:
    """Return what is fitted to the points of largest weight; ``None`` where they are too few."""
    if len(theta) > MOST_FITTED:
        some = np.argpartition(-log_ratios, MOST_FITTED)[:MOST_FITTED]
        theta, log_ratios = theta[some], log_ratios[some]
    try:
        return fit_triangular(theta, _tempered(log_ratios, _floor(theta)), leads)
    except np.linalg.LinAlgError:  # they have no spread in some direction
        return None


def _floor(theta: Float[np.ndarray, "points G"]) -> float:
    """Return how many points are effective, at least, that a proposal is fitted to."""
    return max(EFFECTIVE * len(theta), 6.0 * theta.shape[1])


@np.errstate(over="ignore", invalid="ignore")  # log ratios may be infinite
def _tempered(log_ratios: np.ndarray, floor: float) -> np.ndarray:
    """Return weights of the largest power up to 1 that leaves so many of them effective."""

    def weights(power: float) -> np.ndarray:
        return np.asarray(softmax(np.where(np.isfinite(log_ratios), power * log_ratios, -np.inf)))

    def short(power: float) -> float:
        return float(1 / np.square(weights(power)).sum() - floor)

    if short(1.0) >= 0 or short(1e-5) < 0:
        return weights(1.0)
    return weights(brentq(short, 1e-5, 1.0))


def with_inner_error(
    found: Integral,
    weights: Float[np.ndarray, " rows"],
    nodes: tuple[int, int],
    swept: tuple[ThetaRows, ThetaRows],
    known: Bool[np.ndarray, " scalars"],
) -> tuple[Integral, InnerError]:
    """Return an integral with what other nodes change given theta in its errors, and that change.

    Parameters
    ----------
    found, known
        The integral, and which scalars have their moments from its points.
    weights
        Of some points of theta.
    nodes
        Nodes a dimension in use, and those of the check.
    swept
        What both find at these points.
    """
    here, there = swept
    with np.errstate(invalid="ignore"):  # neither may be found
        inner = InnerError.of(*nodes, there.log_p - here.log_p)
    both = np.isfinite(there.log_p) & np.isfinite(here.log_p)
    w = np.maximum(weights[both], 0.0)
    if not w.sum() > 0:
        return found, inner
    w = w / w.sum()
    change = (there.mean - here.mean)[both]
    bend = (there.variance - here.variance)[both]
    sd = np.where(found.sd > 0, found.sd, np.inf)
    mean = w @ change
    spread = w @ (bend + 2 * (here.mean[both] - found.mean) * change) / (2 * sd)
    moved = np.maximum(np.abs(mean), np.abs(spread)) / sd
    more = replace(
        found,
        mean_error=np.hypot(found.mean_error, mean),
        sd_error=np.hypot(found.sd_error, spread),
    )
    return more, replace(inner, moved=float(np.nanmax(moved[known], initial=0.0)))


def checked(
    density: ThetaDensity, theta: Float[np.ndarray, "rows G"], here: ThetaRows, others: int
) -> ThetaRows:
    """Return rows as other nodes have them, as far from those in use as these may be off.

    Where kinks part quadratics errors fall as 1 / nodes, and what other nodes change is a part of
    them.

    Parameters
    ----------
    density, theta, here
        The density, rows of theta, and what the nodes in use find there.
    others
        Nodes a dimension of the check.
    """
    there = density.sweep(theta, member_nodes(others, density.split.width))
    if not kinks_of(density.split):
        return there
    times = others / abs(density.nodes.num_nodes - others)
    with np.errstate(invalid="ignore"):  # neither may be found
        return ThetaRows(*(a + times * (b - a) for a, b in zip(here, there, strict=True)))


def inner_error(
    density: ThetaDensity, theta: Float[np.ndarray, "rows G"], here: ThetaRows, others: int
) -> InnerError:
    """Return what so many other nodes make of log p(y, theta) at rows of theta."""
    there = checked(density, theta, here, others)
    with np.errstate(invalid="ignore"):  # neither may be found
        change = there.log_p - here.log_p
    return InnerError.of(density.nodes.num_nodes, others, change)
