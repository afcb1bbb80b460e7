"""What is known at a maximum of a marginal likelihood: standard errors, edges, latent variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from vi_recipes.algebra import (
    LEVEL,
    SAME,
    Dense,
    as_good_outward,
    flattest,
    looks_flat,
)
from vi_recipes.core import MethodFailure, Status
from vi_recipes.latent.curvature import BY_NUTS, kinks_of
from vi_recipes.latent.edges import BestAtEdge, find_edge
from vi_recipes.latent.node_error import NodeError, find_node_error
from vi_recipes.latent.objective import CLOSE, MAX_DENSE, MarginalObjective, MomentsOfLatents
from vi_recipes.latent.split import latent_moments
from vi_recipes.posterior import EstimatePosterior, PointPosterior, Posterior

STEEP = 1e-5
"""Gradient relative to the objective, up to which a point of many parameters is the maximum."""


FLAT = 1e-7
"""Smallest eigenvalue of an information matrix, scaled to unit diagonal, that counts as zero."""


NEAR = 1.0
"""Standard errors from the maximum, or nats to gain by going as far again, up to which it is looked
whether there is a maximum."""


SETTLED = 0.1
"""Standard errors from their maximum up to which parameters say that an edge is one."""


EMPTY = 1e-3
"""Expected number of members in a state below which nobody is in it."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A maximum of a marginal likelihood, judged."""

    posterior: Posterior
    status: Status = Status.OK
    message: str = ""
    advice: str = ""
    decrement: float = float("nan")
    """How far from the maximum, in standard errors; NaN where no Hessian was formed."""
    log_likelihood: float
    node_error: NodeError | None = None
    """What other nodes make of it; ``None`` where the integral has none."""
    latents: Mapping[str, np.ndarray]
    """What is known of z at the estimate: means and sds, or probabilities of the states."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Where an ascent of a marginal likelihood ended."""

    value: float
    """The objective there."""
    theta: Float[np.ndarray, " G"]
    modes: Float[np.ndarray, "members d"]
    """The members' modes there."""


def judge_best[T: Ended](objective: MarginalObjective, ends: Sequence[T]) -> tuple[Estimate, T]:
    """Return the best end of several ascents, judged, and which it is.

    Among those that are equally high the first that is a maximum. Where the likelihood is highest
    at an edge at which it says nothing, as that of a mixture is where a component collapses, the
    best of its other maxima; the message says so.

    Raises
    ------
    MethodFailure
        As :func:`judge_estimate`, of the highest end, where no end is a maximum.
    """
    order = sorted(ends, key=lambda end: -np.nan_to_num(end.value, nan=-np.inf))
    failure: MethodFailure | None = None
    best: tuple[Estimate, T] | None = None
    for end in order:
        if best is not None and end.value < best[1].value - SAME:
            break
        objective.modes = end.modes
        try:
            estimate = judge_estimate(objective, end.theta)
        except MethodFailure as found:
            failure = failure or found
            continue
        if failure is not None and not estimate.status.ok:
            continue
        if best is None or (estimate.status.ok and not best[0].status.ok):
            best = estimate, end
        if estimate.status.ok:
            break
    if best is None:
        assert failure is not None
        raise failure
    if failure is not None:
        message = f"{best[0].message}; higher up there is no maximum: {failure.message}"
        best = replace(best[0], message=message), best[1]
    return best


def is_at_maximum(objective: MarginalObjective, theta: Float[np.ndarray, " G"]) -> bool:
    """Whether theta counts as the maximum; by the relative gradient where no Hessian is formed."""
    if theta.size > MAX_DENSE:
        return _relative_gradient(objective, theta) < STEEP
    return objective.decrement(theta) <= CLOSE


def _relative_gradient(objective: MarginalObjective, theta: Float[np.ndarray, " G"]) -> float:
    value, gradient = objective.value_and_grad(theta)
    return float(np.abs(gradient * objective.units).max() / max(1.0, abs(value)))


def judge_estimate(objective: MarginalObjective, theta: Float[np.ndarray, " G"]) -> Estimate:
    """Say what is known at a point that an ascent ended at.

    Raises
    ------
    MethodFailure
        ``DEGENERATE`` where the likelihood has no maximum inside the support, ``DIVERGED`` where it
        is not finite.
    """
    value, gradient = objective.value_and_grad(theta)
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        kinks = kinks_of(objective.marginal.split)
        raise MethodFailure(
            Status.DIVERGED,
            f"log-likelihood {-value} with a gradient of {np.abs(gradient).max():.3g}"
            + f"; {kinks}" * bool(kinks),
            BY_NUTS if kinks else "rescale the data, or start elsewhere with Model(init=...)",
        )
    log_likelihood = -value - objective.log_prior(theta)
    moments, latents = integrate(objective, theta)
    flat = objective.flat(theta, moments.mean if moments else None)
    bare = Estimate(
        posterior=PointPosterior(objective.target.constrain(flat)),
        log_likelihood=log_likelihood,
        latents=latents,
    )
    curvature = objective.curvature(theta)
    if curvature is None:
        return _without_information(objective, theta, bare)
    away = curvature.decrement(gradient)
    if edge := find_edge(objective, theta, curvature):
        return _at_edge(objective, theta, edge, replace(bare, decrement=away), curvature)
    _require_maximum(objective, theta, curvature, away, np.array([], int))
    smallest, vector = flattest(curvature.matrix)
    if smallest <= FLAT:
        along = ", ".join(objective.target.sites_along(objective.flat(vector)))
        return replace(
            bare,
            status=Status.UNCONVERGED,
            message=(
                f"the log-likelihood {'is flat' if smallest >= -FLAT else 'bends upwards'} "
                f"along {along} (eigenvalue {smallest:.2g} of the information at unit diagonal), "
                "so there are no standard errors"
            ),
            advice=(
                "use objective='map' with priors that settle what the data do not, or more steps"
            ),
            decrement=away,
        )
    status = Status.OK if away <= CLOSE else Status.UNCONVERGED
    found = replace(
        bare,
        posterior=_posterior(objective, flat, curvature, moments),
        status=status,
        message=f"{away:.2g} standard errors from the maximum",
        advice="" if status.ok else "raise max_steps",
        decrement=away,
    )
    return _with_node_error(found, find_node_error(objective, theta, curvature))


def _with_node_error(found: Estimate, error: NodeError | None) -> Estimate:
    """Return an estimate with what other nodes say of it."""
    if error is None:
        return found
    return replace(
        found,
        status=found.status if error.small else Status.UNCONVERGED,
        message=f"{found.message}; {error.sentence}",
        advice=found.advice or ("" if error.small else error.advice),
        node_error=error,
    )


def _without_information(
    objective: MarginalObjective, theta: Float[np.ndarray, " G"], bare: Estimate
) -> Estimate:
    """Return the estimate where no Hessian is formed, or none that is finite."""
    many = theta.size > MAX_DENSE
    reason = f"{theta.size} parameters (at most {MAX_DENSE})" if many else "it is not finite"
    relative = _relative_gradient(objective, theta)
    found = replace(
        bare,
        status=Status.OK if relative < STEEP else Status.UNCONVERGED,
        message=(
            f"no standard errors from the observed information: {reason}; relative gradient "
            f"{relative:.2g}"
        ),
    )
    return _with_node_error(found, find_node_error(objective, theta, None))


def _at_edge(
    objective: MarginalObjective,
    theta: Float[np.ndarray, " G"],
    edge: BestAtEdge,
    bare: Estimate,
    curvature: Dense,
) -> Estimate:
    """Return the estimate that lies at an edge of the support, where that says something.

    Raises
    ------
    MethodFailure
        ``DEGENERATE`` where the likelihood has no maximum at that edge either, or levels out along
        others.
    """
    value = objective.value_and_grad(theta)[0]
    kind = objective.marginal.split.kind
    visits = min((t.sum(axis=0).min() for t in bare.latents.values() if kind == "discrete"),
                 default=0.0)  # fmt: skip
    if visits > EMPTY and edge.rise <= SAME:
        # a chain that never begins in a state, a move that is never made: estimates like others
        rest = objective.decrement(theta, edge.places)
        return replace(
            bare,
            status=Status.OK if rest <= CLOSE else Status.UNCONVERGED,
            message=(
                f"no standard errors: {edge.where}, where the likelihood is highest; {rest:.2g} of "
                "the others' standard errors from their maximum"
            ),
            advice="" if rest <= CLOSE else "raise max_steps",
            decrement=rest,
        )
    if not (kind == "continuous" and edge.rise < 1.0):
        highest = f"where the log-likelihood {-value:.6g} is highest"
        if edge.rise > SAME:
            highest = (
                f"while the log-likelihood still rises ({-value:.6g}, {edge.outward:.6g} further "
                "out)"
            )
        raise MethodFailure(
            Status.DEGENERATE,
            f"{edge.where}, {highest}: a component collapses or empties, or a parameter has no "
            "finite estimate",
            "use objective='map' with a prior that keeps it inside, fewer components, or a "
            "tied covariance",
        )
    rest = _rest(objective, theta, edge)
    if rest > SETTLED:
        return replace(
            bare,
            status=Status.UNCONVERGED,
            message=(
                f"{edge.where}, and the other parameters are {rest:.2g} of their standard errors "
                "from where the likelihood is highest: whether its maximum is at that edge is not "
                "known"
            ),
            advice="raise max_steps, or start elsewhere with Model(init=...)",
        )
    _require_maximum(objective, theta, curvature, rest, edge.places)
    return replace(
        bare,
        status=Status.COLLAPSED,
        message=(
            f"{edge.where}: the likelihood {-value:.6g} is highest at the edge of the support, "
            "where standard errors mean nothing"
        ),
        advice=(
            "use objective='map' with a prior that keeps it inside, or integrate over the "
            "parameters too (LinearResponse, NUTS)"
        ),
    )


def _require_maximum(
    objective: MarginalObjective,
    theta: Float[np.ndarray, " G"],
    curvature: Dense,
    away: float,
    at_edges: Int[np.ndarray, " places"],
) -> None:
    """Raise ``DEGENERATE`` where a likelihood levels out on the way that an ascent has taken.

    It then rises for ever, by less and less; an ascent comes to rest all the same. Parameters that
    are best at an edge stay where they are.
    """
    free = np.setdiff1d(np.arange(theta.size), at_edges)
    if not free.size:
        return
    gradient = objective.value_and_grad(theta)[1]
    left = float((np.abs(gradient) * (np.abs(theta) + objective.units))[free].sum())
    within = curvature.within(free)
    smallest, flattest_way = flattest(within.matrix)
    flat = looks_flat(theta, np.zeros(theta.size), curvature.diagonal()) & ~objective.bounded
    if min(away, left) > NEAR or not (flat[free].any() or smallest < LEVEL):
        return
    newton, vector, moved = (np.zeros(theta.size) for _ in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        newton[free] = -within.solve(gradient[free])
    vector[free], moved[free] = flattest_way, theta[free]
    directions = [newton, moved, vector, -vector]
    directions = [np.where(flat, d, 0.0) for d in directions] + directions
    directions = [np.where(objective.bounded, 0.0, d) for d in directions] + directions
    value = objective.value_near(theta)
    along = as_good_outward(value, theta, curvature, directions)
    here = value(theta)
    ridge = along is not None and as_good_outward(value, theta, curvature, [-along]) is not None
    objective.value_and_grad(theta)
    if along is None or ridge:
        return
    target = objective.target
    names = ", ".join(target.sites_along(objective.flat(along) / target.units))
    raise MethodFailure(
        Status.DEGENERATE,
        f"the log-likelihood ({-here:.6g}) gets no lower along {names}, however far out: it levels "
        "out and has no maximum, as where outcomes are separated",
        "use objective='map' with priors that fall, or leave out what separates the outcomes",
    )


def _rest(objective: MarginalObjective, theta: Float[np.ndarray, " G"], edge: BestAtEdge) -> float:
    """Return how far the parameters that run to no edge are from their maximum, at least.

    In standard errors. What the likelihood does not depend on there, such as the correlation with
    an effect of variance zero, is no distance.
    """
    curvature = objective.curvature(theta)
    if curvature is None:
        return float("inf")
    free = np.setdiff1d(np.arange(theta.size), edge.places)
    information = curvature.matrix
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(information)), 1e-300))[free]
    values, vectors = np.linalg.eigh(information[np.ix_(free, free)] * np.outer(scale, scale))
    slope = vectors.T @ (objective.value_and_grad(theta)[1][free] * scale)
    return float(np.sqrt((slope**2 / np.maximum(np.abs(values), FLAT)).sum()))


def integrate(
    objective: MarginalObjective, theta: Float[np.ndarray, " G"]
) -> tuple[MomentsOfLatents | None, dict[str, np.ndarray]]:
    """Return what the E-step knows of z at theta.

    The moments of continuous z; and by name what users see of it.
    """
    marginal = objective.marginal
    split = marginal.split
    if split.kind == "none":
        return None, {}
    if split.kind == "discrete":
        table = objective.call("states", marginal.probabilities, theta, objective.modes)
        return None, {f"{' x '.join(split.latents)}_probability": np.asarray(table)}

    moments = objective.moments(theta)
    flat_mean, flat_sd = np.zeros(objective.target.dim), np.zeros(objective.target.dim)
    flat_mean[split.local], flat_sd[split.local] = moments.mean, moments.spread
    return moments, latent_moments(objective.target, split.latents, flat_mean, flat_sd)


def _posterior(
    objective: MarginalObjective,
    flat: Float[np.ndarray, " dim"],
    curvature: Dense,
    moments: MomentsOfLatents | None,
) -> EstimatePosterior:
    """Return the Gaussian of theta and of z given theta: its precision is block-arrow."""
    target, split = objective.target, objective.marginal.split
    information = curvature.matrix
    if moments is None:
        root = curvature.root()
        return EstimatePosterior(target, flat, root, np.zeros(target.dim))
    arrow = moments.precision(split, information)
    return EstimatePosterior(target, flat, None, np.zeros(target.dim), precision=arrow)
