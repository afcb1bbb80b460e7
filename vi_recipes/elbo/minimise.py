"""The optimum of the ELBO: search, refinement, judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import SHRANK, BlockArrow, Crossed, trust_region_newton
from vi_recipes.core import SEVERAL, MethodFailure, Progress, Status, from_starts
from vi_recipes.elbo.curvature import CurvedKL
from vi_recipes.elbo.expectation import CHECK_NODES

MAX_NODES = 64
"""Nodes per dimension up to which they are doubled, the doubled ones to check by included."""

RUNAWAY = 25.0
"""A location that has moved so many units from where it began, unconverged, has no optimum."""

ESCAPE = 1e30
"""A location or scale beyond this is not looked for any further."""


CHEAP = 10_000_000
"""Numbers in one Hessian up to which starts are cheap."""


OTHER = 3.0
"""Nats below the best up to which another optimum is worth saying: a twentieth of its mass."""


APART = 3.0
"""Sds of both between the locations of two optima that lie in different parts of a posterior."""


SAME = 1e-3
"""Nats up to which two optima are one."""


NODE_ERROR = 0.01
"""Length of the Newton step, in sds of the optimum, that doubling the nodes may still cause."""


DRAW_ERROR = 0.02
"""Standard error of a location, in sds, up to which fixed draws are enough.

It is held against a fit like any other error, and a location 0.1 sds off is not right: several of
many coordinates are off by three times it.
"""

MOST_DRAW_ERROR = 0.05
"""Standard error of a location, in sds, beyond which an optimum is none."""

SMOOTH = 256
"""Pairs of draws up to which more are taken where a search is stuck."""

ROUNDING = 1e-12
"""Relative move of the ELBO, where nodes are doubled, that rounding explains."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far the optimum is searched for.

    Parameters
    ----------
    num_nodes
        Nodes per dimension of quadrature to begin with.
    num_pairs, max_pairs
        Antithetic pairs of draws to begin with, and at most.
    max_steps
        Newton steps allowed for each set of nodes and draws.
    tolerance
        Newton decrement to reach: the length of the Newton step in sds of the optimum.
    num_starts
        Starting points in all; ``None`` for :data:`vi_recipes.core.SEVERAL` where they are cheap,
        else 1.
    """

    num_nodes: int
    num_pairs: int
    max_pairs: int
    max_steps: int
    tolerance: float
    num_starts: int | None = None


@dataclass
class Optimum:
    """Where the optimisation of the ELBO ended.

    Parameters
    ----------
    kl
        The objective.
    eta
        The factors' parameters, shape (dim, 2).
    elbo
        Its value there.
    decrement
        Newton decrement there.
    hessian
        Of the objective, as the optimiser had it; ``None`` where it did not converge.
    trace
        The ELBO after every step, over all sets of nodes and draws.
    status, message, advice
        How it went, and what to try.
    num_nodes, num_pairs
        Nodes and antithetic pairs at the end.
    node_error
        Length of the Newton step, in sds of the optimum, that twice the nodes would cause.
    draw_error
        The largest standard error of a location that the fixed draws leave, in sds.
    elbo_error
        Standard error of the ELBO by draws, and what doubling the nodes of quadrature moves it by.
    standard_error
        Of every parameter, shape (dim, 2); ``None`` without draws.
    stuck
        Whether no step lowered the objective as its derivatives say.
    about
        How many starts got there, in words, before the message.
    other
        The best of the optima that other starts found in another part of the posterior.
    """

    kl: CurvedKL
    eta: Float[np.ndarray, "dim 2"]
    elbo: float
    decrement: float
    hessian: BlockArrow | Crossed | None
    trace: list[float]
    status: Status
    message: str
    advice: str = ""
    num_nodes: int = 0
    num_pairs: int = 0
    node_error: float = 0.0
    draw_error: float = 0.0
    elbo_error: float = 0.0
    standard_error: np.ndarray | None = None
    stuck: bool = False
    about: str = ""
    other: Optimum | None = None

    @property
    def found_with(self) -> tuple[int, int]:
        """How many nodes and pairs the objective had."""
        return self.num_nodes, self.num_pairs


def find_optimum(kl: CurvedKL, key: jax.Array, limits: Limits, progress: Progress) -> Optimum:
    """Minimise ``kl``, with more nodes and draws until that changes nothing.

    Its timing is charged.

    Raises
    ------
    MethodFailure
        ``DEGENERATE`` where there is no optimum, ``NOT_APPLICABLE`` where the Hessian is too large
        and has no structure.
    """
    with kl.timing.running_compiled():
        kl.use_nodes(limits.num_nodes)
        kl.use_pairs(limits.num_pairs)
        start = kl.find_structure(key)
        optimum = _best(kl, start, limits, progress)
        while more := _refine(optimum, limits):
            kl.use_nodes(more[0])
            kl.use_pairs(more[1])
            about, other = optimum.about, optimum.other
            optimum = search(kl, optimum.eta.ravel(), limits, progress, optimum.trace)
            optimum.about, optimum.other = about, other
        _judge_errors(optimum)
        optimum.message = optimum.about + optimum.message
    return optimum


# -- the starts ---------------------------------------------------------------------------------


def _best(
    kl: CurvedKL, start: Float[np.ndarray, " params"], limits: Limits, progress: Progress
) -> Optimum:
    """Return the best of the optima that are found from ``start`` and from scattered points.

    The scattered ones are the same whatever the key, so that all fits of one ELBO try them: mean
    field and linear response end in one optimum.

    Raises
    ------
    MethodFailure
        As :func:`search`, where no start has an optimum.
    """
    count = limits.num_starts or (SEVERAL if kl.work <= CHEAP else 1)

    def from_start(number: int) -> Optimum:
        begin = kl.start(jax.random.key(number), scatter=1.0) if number else start
        return search(kl, begin, limits, progress)

    found = from_starts(count, from_start)
    top = max(_level(optimum) for optimum in found)
    reached = [optimum for optimum in found if _level(optimum) > top - SAME] or found
    best = next((optimum for optimum in reached if optimum.status.ok), reached[0])
    if not best.status.ok:  # it stopped short: with a step as long as a first one it may go on
        best = search(kl, best.eta.ravel(), limits, progress, best.trace)
    if count > 1:
        best.about = f"reached by {len(reached)} of {count} starts; "
    best.other = _other(kl, best, found)
    return best


def _level(optimum: Optimum) -> float:
    """Return an optimum's ELBO, below all others where there is none."""
    return optimum.elbo if np.isfinite(optimum.elbo) else -np.inf


def _other(kl: CurvedKL, best: Optimum, found: Sequence[Optimum]) -> Optimum | None:
    """Return the best optimum in another part of the posterior, if one is worth saying.

    Exchangeable components in another order are no other part. Nor are other values of points,
    which have no spread to tell two values by, and hold no mass.
    """
    if kl.target.exchangeable or kl.factors.points.any():
        return None
    location, scale = kl.location_scale(best.eta.ravel())
    others = []
    for optimum in found:
        if not optimum.status.ok or optimum.elbo < best.elbo - OTHER:
            continue
        its_location, its_scale = kl.location_scale(optimum.eta.ravel())
        apart = np.abs(its_location - location) > APART * (its_scale + scale)
        if kl.any(bool(apart.any())):
            others.append(optimum)
    return max(others, key=lambda optimum: optimum.elbo, default=None)


# -- the search --------------------------------------------------------------------------------


def search(
    kl: CurvedKL,
    start: Float[np.ndarray, " params"],
    limits: Limits,
    progress: Progress,
    trace: list[float] | None = None,
) -> Optimum:
    """Minimise ``kl`` from ``start`` with the nodes and draws it has, and judge the outcome.

    Parameters
    ----------
    kl
        Of known structure, :meth:`CurvedKL.find_structure`.
    start
        Parameters of finite value.
    limits
        Of which the steps and the tolerance count here.
    progress
        Told of every step.
    trace
        The steps before, which this search adds to.

    Raises
    ------
    MethodFailure
        ``DEGENERATE`` where factors run off or collapse.
    """
    trace = [] if trace is None else trace
    begin, _ = kl.location_scale(start)

    def callback(flat: np.ndarray) -> bool:
        trace.append(-kl.evaluate(flat)[0])
        progress(len(trace), limits.max_steps, f"ELBO {trace[-1]:.6g}")
        location, scale = kl.location_scale(flat)
        return kl.any(bool((np.abs(location) > ESCAPE).any() or (scale > ESCAPE).any()))

    with np.errstate(all="ignore"):
        flat, why, hessian = trust_region_newton(
            kl.evaluate,
            kl.hessian,
            start,
            max_steps=limits.max_steps,
            tolerance=limits.tolerance / 10,
            callback=callback,
            radius=float(np.sqrt(kl.num_parameters)),
        )
    value, gradient = kl.evaluate(flat)
    hessian = kl.hessian(flat) if hessian is None else hessian
    decrement = float("inf") if hessian is None else hessian.decrement(gradient)
    converged = decrement <= limits.tolerance
    optimum = Optimum(
        kl=kl,
        eta=flat.reshape(-1, 2),
        elbo=-value,
        decrement=decrement,
        hessian=hessian if converged else None,
        trace=trace,
        status=Status.OK if converged else Status.UNCONVERGED,
        message=f"Newton decrement {decrement:.2g} after {len(trace)} steps; {kl.describe()}",
        num_nodes=kl.num_nodes,
        num_pairs=kl.num_pairs,
    )
    if not converged:
        _explain(optimum, hessian, why, begin)
        return optimum
    assert hessian is not None
    doubled = kl.nodes(2 * kl.num_nodes, CHECK_NODES)
    again, slope = kl.evaluate(flat, doubled)
    optimum.node_error = hessian.decrement(slope - gradient)
    moved = abs(again - value)
    optimum.elbo_error = moved if moved > ROUNDING * max(1.0, abs(value)) else 0.0
    if kl.expectation.drawn:
        _note_draw_error(optimum, hessian)
    return optimum


def _explain(
    optimum: Optimum,
    hessian: BlockArrow | Crossed | None,
    why: str,
    begin: Float[np.ndarray, " dim"],
) -> None:
    """Say why a search did not converge, or raise where there is no optimum to be found."""
    kl, flat = optimum.kl, optimum.eta.ravel()
    location, scale = kl.location_scale(flat)
    unit = kl.target.units
    far = ~(np.abs(location - begin) <= RUNAWAY * np.clip(scale, unit, 1e6 * unit))
    far |= scale > 1e12 * unit
    narrow = (scale < 1e-6 * unit) & ~kl.factors.points
    gone = [n for n, p in kl.target.slices.items() if kl.any(bool((far | narrow)[p].any()))]
    if gone:
        raise MethodFailure(
            Status.DEGENERATE,
            f"the ELBO still rises (now {optimum.elbo:.6g}) as the factors of "
            f"{', '.join(gone)} run off or collapse",
            "check that the posterior is proper there",
        )
    optimum.stuck = why == SHRANK
    if isinstance(hessian, BlockArrow) and not hessian.positive:
        why = f"the Hessian of the KL divergence is not positive definite; {why}"
    optimum.message = f"{why}; {optimum.message}"
    optimum.advice = "raise max_steps, or start elsewhere with Model(init=...)"
    if optimum.stuck:
        optimum.advice = (
            "where a density has kinks, take its site's expectation over draws, and more of them "
            "(expectations, num_pairs); or use StructuredVB"
        )


def _note_draw_error(optimum: Optimum, hessian: BlockArrow | Crossed) -> None:
    """Estimate the error that the fixed draws leave, from the spread of their gradients."""
    kl, flat = optimum.kl, optimum.eta.ravel()
    values, gradients = kl.pair_gradients(flat)
    pairs = len(values)
    if pairs < 2:
        optimum.draw_error = float("inf")
        return
    moves = np.stack([hessian.solve(g) for g in gradients - gradients.mean(axis=0)])
    error = moves.std(axis=0, ddof=1) / np.sqrt(pairs)
    optimum.standard_error = error.reshape(-1, 2)
    # a location's error counts in sds of the corrected posterior, where they are known
    spread = kl.location_scale(flat)[1]
    if isinstance(hessian, BlockArrow):
        spread = np.sqrt(hessian.variances()).reshape(-1, 2)[:, 0]
    share = optimum.standard_error[:, 0] / spread
    optimum.draw_error = float(share[kl.factors.gaussian].max(initial=0.0))
    drawn = float(values.std(ddof=1) / np.sqrt(pairs))
    optimum.elbo_error = float(np.hypot(optimum.elbo_error, drawn))


# -- more nodes and draws ------------------------------------------------------------------------


def _refine(optimum: Optimum, limits: Limits) -> tuple[int, int] | None:
    """Return more nodes or pairs, if the optimum depends on their number."""
    nodes, pairs = optimum.num_nodes, optimum.num_pairs
    if optimum.status is not Status.OK:
        # the more draws, the less the kinks of a density are those of their sum
        smoother = optimum.stuck and 0 < 4 * pairs <= min(SMOOTH, limits.max_pairs)
        return (nodes, 4 * pairs) if smoother else None
    if optimum.node_error > NODE_ERROR and 2 * nodes <= MAX_NODES // 2:
        nodes *= 2
    if optimum.draw_error > DRAW_ERROR and 2 * pairs <= limits.max_pairs:
        # the error falls with the root of the number; that of one pair is not known
        known = optimum.draw_error if np.isfinite(optimum.draw_error) else 0.0
        grown = pairs * (max(known, DRAW_ERROR) / DRAW_ERROR) ** 2
        pairs = int(min(max(2 * pairs, 2 ** np.ceil(np.log2(grown))), limits.max_pairs))
    changed = (nodes, pairs) != (optimum.num_nodes, optimum.num_pairs)
    return (nodes, pairs) if changed else None


def _judge_errors(optimum: Optimum) -> None:
    """Say where the nodes or draws are still too few."""
    if optimum.status is not Status.OK:
        return
    if optimum.node_error > NODE_ERROR:
        optimum.status = Status.UNCONVERGED
        optimum.message += (
            f"; doubling {optimum.num_nodes} nodes still moves the optimum by "
            f"{optimum.node_error:.2g} sd"
        )
        optimum.advice = "raise num_nodes, or take the site's expectation over draws"
    if optimum.draw_error > MOST_DRAW_ERROR:
        optimum.status = Status.UNCONVERGED
        optimum.message += (
            f"; with {optimum.num_pairs} pairs of draws locations are known to "
            f"{optimum.draw_error:.2g} sd only"
        )
        optimum.advice = "raise max_pairs"
