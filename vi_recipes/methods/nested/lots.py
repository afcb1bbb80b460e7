"""The integral over theta where a point of it is dear and log p(y, theta) is known with noise.

All points of a scramble have the same noise, or nearly: the weighed points around the members' mode
are of one lattice. What it adds is a constant for each, and a polynomial is fitted with those. What
noise leaves falls with the number of lattices, and with that of their points.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from vi_recipes.core import Progress
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.integrate import (
    MOST_NOISY_WORK,
    next_proposal,
    power_of_two,
)
from vi_recipes.methods.nested.mode import ThetaMode
from vi_recipes.methods.nested.owners import OF_THETA
from vi_recipes.methods.nested.polynomial import by_polynomial
from vi_recipes.methods.nested.profile import first_proposals
from vi_recipes.methods.nested.rounds import NUM_SCRAMBLES, Integral, Rounds, weigh
from vi_recipes.methods.nested.surrogate import SPARE, num_coefficients
from vi_recipes.methods.nested.wide_density import PAIRS, WideDensity, as_noisy, takes_long

MOST_ROUNDS = 4
"""Rounds of one size with noise in lots, at most."""

TIMES = 4
"""Times as many pairs of weighed points, where so many are to leave less noise."""


def is_dear(density: ThetaDensity) -> bool:
    """Whether so many points that noise averages out over them take too long."""
    return as_noisy(density) is not None and takes_long(density)


def integrate_in_lots(
    density: ThetaDensity,
    mode: ThetaMode,
    *,
    tolerance: float,
    max_points: int,
    seed: int,
    known: Bool[np.ndarray, " scalars"],
    progress: Progress,
) -> Integral:
    """Return the integral over theta by rounds of points.

    Its twin is :func:`~vi_recipes.methods.nested.integrate.integrate`.

    A few rounds have noise in lots, and a polynomial is fitted to their points. Where all of them
    would leave too much of what is not theta's alone, as far as the first that a polynomial fits
    tells, they begin anew with more pairs of weighed points at each point of theta. Where none fits
    rounds follow whose points have noise of their own, and weigh. What is left at the end is told.
    """
    wide_density = as_noisy(density)
    assert wide_density is not None
    unknowns = num_coefficients(density.dim) + NUM_SCRAMBLES
    size = power_of_two(2 * SPARE * unknowns * NUM_SCRAMBLES / (NUM_SCRAMBLES - 1))
    noisy = known & (density.owner != OF_THETA)
    wide, proposal = first_proposals(density, mode)
    rounds, settled = Rounds(density.dim), False
    while True:
        total, taken = len(rounds.theta), len(rounds.sizes)
        lots = taken < MOST_ROUNDS
        theta, seeds = rounds.points(proposal, size if lots else total, seed)
        swept = wide_density.sweep_in_lots(theta, seeds) if lots else density.sweep(theta)
        rounds.add(proposal, theta, swept)
        total, taken = total + len(theta), taken + 1
        weighed = weigh(rounds)
        fitted = by_polynomial(rounds, weighed, lots=True) if lots else None
        found = fitted or weighed
        worst = found.worst_error(known)
        most = min(max_points, int(MOST_NOISY_WORK / density.work))
        progress(total, most, f"largest error {worst:.2g} sds")
        if worst <= tolerance and (fitted is not None or taken > 1):
            return found
        more = size if taken < MOST_ROUNDS else total
        if total + more > max(most, MOST_ROUNDS * size) or (fitted and taken == MOST_ROUNDS):
            return found
        proposal = next_proposal(rounds, wide, density.bounded, weighed.counted(known))
        if fitted is not None and not settled:
            left = fitted.worst_error(noisy) * np.sqrt(taken / MOST_ROUNDS)
            pairs = _enough(wide_density, left / tolerance, size)
            if pairs > density.nodes.count:
                wide_density.take_pairs(pairs)
                rounds = Rounds(density.dim)
            settled = True


def _enough(density: WideDensity, times: float, size: int) -> int:
    """Return pairs that make an error so many times smaller, or the most that can be had."""
    pairs = density.nodes.count
    while times > 1 and TIMES * pairs <= PAIRS[-1]:
        if MOST_ROUNDS * size * density.work_of(TIMES * pairs) > MOST_NOISY_WORK:
            break
        pairs, times = TIMES * pairs, times / np.sqrt(TIMES)
    return pairs
