"""What is known at a maximum of a marginal likelihood: standard errors, edges, latent variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.algebra import BlockArrow, Dense, LocalStructure
from vi_recipes.core import MethodFailure, Status
from vi_recipes.latent.edges import SAME, decrement, edges, join
from vi_recipes.latent.objective import CLOSE, MAX_DENSE, MarginalObjective
from vi_recipes.latent.split import latent_moments
from vi_recipes.model import Arrays
from vi_recipes.posterior import EstimatePosterior, PointPosterior, Posterior

STEEP = 1e-5
"""Gradient relative to the objective, up to which a point of many parameters is the maximum."""


FLAT = 1e-7
"""Smallest eigenvalue of an information matrix, scaled to unit diagonal, that counts as zero."""


EMPTY = 1e-3
"""Expected number of members in a state below which nobody is in it."""


# -- judging a maximum -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A maximum of a marginal likelihood, judged."""

    posterior: Posterior
    status: Status
    message: str
    advice: str
    decrement: float
    log_likelihood: float
    latents: Mapping[str, np.ndarray]
    """What is known of z at the estimate: means and sds, or probabilities of the states."""


def is_close(objective: MarginalObjective, theta: np.ndarray) -> bool:
    """Whether theta counts as the maximum; by the relative gradient where no Hessian is formed."""
    if theta.size > MAX_DENSE:
        return _relative_gradient(objective, theta) < STEEP
    return decrement(objective, theta) <= CLOSE


def _relative_gradient(objective: MarginalObjective, theta: np.ndarray) -> float:
    value, gradient = objective.value_and_grad(theta)
    return float(np.abs(gradient).max() / max(1.0, abs(value)))


def judge_estimate(objective: MarginalObjective, theta: np.ndarray) -> Estimate:
    """Say what is known at a point that an ascent ended at.

    Raises
    ------
    MethodFailure
        ``DEGENERATE`` where the likelihood has no maximum inside the support, ``DIVERGED`` where it
        is not finite.
    """
    value, gradient = objective.value_and_grad(theta)
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        raise MethodFailure(
            Status.DIVERGED,
            f"log-likelihood {-value} with a gradient of {np.abs(gradient).max():.3g}",
            "rescale the data, or start elsewhere with Model(init=...)",
        )
    log_likelihood = -value - objective.log_prior(theta)
    point, latents = integrate(objective, theta)
    flat = join(objective, theta, point[0] if point else None)
    bare = PointPosterior(objective.target.constrain(flat))
    curvature = objective.curvature(theta)
    if curvature is None:
        many = theta.size > MAX_DENSE
        reason = f"{theta.size} parameters (at most {MAX_DENSE})" if many else "it is not finite"
        message = f"no standard errors from the observed information: {reason}"
        relative = _relative_gradient(objective, theta)
        status = Status.OK if relative < STEEP else Status.UNCONVERGED
        message += f"; relative gradient {relative:.2g}"
        return Estimate(bare, status, message, "", np.nan, log_likelihood, latents)
    away = curvature.decrement(gradient)
    if edge := edges(objective, theta, curvature):
        where, places, rise, outward = edge
        discrete = objective.marginal.split.kind == "discrete"
        visits = min((t.sum(axis=0).min() for t in latents.values() if discrete), default=0.0)
        if visits > EMPTY and rise <= SAME:
            # a chain that never begins in a state, a move that is never made: estimates like others
            rest = decrement(objective, theta, places)
            return Estimate(
                bare,
                Status.OK if rest <= CLOSE else Status.UNCONVERGED,
                f"no standard errors: {where}, where the likelihood is highest; {rest:.2g} of the "
                "others' standard errors from their maximum",
                "" if rest <= CLOSE else "raise max_steps",
                rest,
                log_likelihood,
                latents,
            )
        collapsed = objective.marginal.split.kind == "continuous" and rise < 1.0
        climb = f"where the log-likelihood {-value:.6g} is highest"
        if rise > SAME:
            climb = (
                f"while the log-likelihood still rises ({-value:.6g}, {outward:.6g} further out)"
            )
        if not collapsed:
            raise MethodFailure(
                Status.DEGENERATE,
                f"{where}, {climb}: a component collapses or empties, or a parameter has no finite "
                "estimate",
                "use objective='map' with a prior that keeps it inside, fewer components, or a "
                "tied covariance",
            )
        return Estimate(
            bare,
            Status.COLLAPSED,
            f"{where}: the likelihood {-value:.6g} is highest at the edge of the support (zero "
            "variance, or a singular covariance), where standard errors mean nothing",
            "use objective='map' with a prior that keeps it inside, or integrate over the "
            "parameters too (LinearResponse, NUTS)",
            away,
            log_likelihood,
            latents,
        )
    smallest, vector = _flattest(curvature)
    if smallest <= FLAT:
        along = ", ".join(objective.target.sites_along(join(objective, vector, None)))
        return Estimate(
            bare,
            Status.UNCONVERGED,
            f"the log-likelihood {'is flat' if smallest >= -FLAT else 'bends upwards'} "
            f"along {along} (eigenvalue {smallest:.2g} of the information at unit diagonal), so "
            "there are no standard errors",
            "use objective='map' with priors that settle what the data do not, or more steps",
            away,
            log_likelihood,
            latents,
        )
    status = Status.OK if away <= CLOSE else Status.UNCONVERGED
    return Estimate(
        _posterior(objective, flat, curvature, point),
        status,
        f"{away:.2g} standard errors from the maximum",
        "" if status.ok else "raise max_steps",
        away,
        log_likelihood,
        latents,
    )


def _flattest(curvature: Dense) -> tuple[float, np.ndarray]:
    """Return the smallest eigenvalue at unit diagonal, where units do not count, and its vector."""
    hessian = (curvature.vectors * curvature.values) @ curvature.vectors.T
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    values, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
    return float(values[0]), vectors[:, 0] * scale


def integrate(
    objective: MarginalObjective, theta: np.ndarray
) -> tuple[tuple[np.ndarray, ...] | None, dict[str, np.ndarray]]:
    """Return what the E-step knows of z at theta.

    Mean (T, d), covariance (T, d, d) and the mean's slopes in theta (T, d, G), unconstrained, for
    continuous z; and by name what users see of it.
    """
    marginal = objective.marginal
    split = marginal.split
    if split.kind == "none":
        return None, {}
    if split.kind == "discrete":
        table = objective.call("states", marginal.probabilities, theta, objective.modes)
        return None, {f"{' x '.join(split.latents)}_probability": np.asarray(table)}

    def moments(theta: jax.Array, z: jax.Array, arrays: Arrays) -> Any:
        z, _ = marginal.seek(theta, z, arrays)

        def both(theta: jax.Array) -> Any:
            return marginal.moments(theta, z, arrays)

        (mean, cov), push = jax.linearize(both, theta)
        slopes = jax.lax.map(lambda u: push(u)[0], jnp.eye(theta.size))
        return mean, cov, jnp.moveaxis(slopes, 0, -1)

    found = tuple(np.asarray(v) for v in objective.call("moments", moments, theta, objective.modes))
    spread = np.sqrt(np.einsum("tii->ti", found[1]))
    flat_mean, flat_sd = np.zeros(objective.target.dim), np.zeros(objective.target.dim)
    flat_mean[split.local], flat_sd[split.local] = found[0], spread
    return found, latent_moments(objective.target, split.latents, flat_mean, flat_sd)


def _posterior(
    objective: MarginalObjective,
    flat: np.ndarray,
    curvature: Dense,
    moments: tuple[np.ndarray, ...] | None,
) -> EstimatePosterior:
    """Return the Gaussian of theta and of z given theta: its precision is block-arrow."""
    target, split = objective.target, objective.marginal.split
    information = (curvature.vectors * curvature.values) @ curvature.vectors.T
    if moments is None:
        root = curvature.vectors / np.sqrt(curvature.values)
        return EstimatePosterior(target, flat, root, np.zeros(target.dim))
    _, cov, slopes = moments
    blocks = np.linalg.inv(cov)
    edge = -np.einsum("tij,tjg->gti", blocks, slopes)
    corner = information + np.einsum("tig,tij,tjh->gh", slopes, blocks, slopes)
    structure = LocalStructure(split.border, split.local, split.latents, split.plate)
    arrow = BlockArrow(structure, (corner + corner.T) / 2, edge, blocks, np.ones(target.dim))
    return EstimatePosterior(target, flat, None, np.zeros(target.dim), precision=arrow)
