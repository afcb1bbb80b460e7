"""Importance sampling on the flat unconstrained density: proposals, and Pareto-smoothed weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import MultivariateStudentT

from vi_recipes.core import MethodFailure, Progress, Status
from vi_recipes.importance.weights import temper
from vi_recipes.model import Arrays, Target

GAIN = 1.1
"""Rise of the effective share from one round to the next below which a proposal is good."""


DEGREES = 5.0
"""Of freedom of the proposals: their tails are heavier than a normal's, their variance finite."""


@dataclass(frozen=True)
class Proposal:
    """A multivariate t with five degrees of freedom over the unconstrained vector.

    Parameters
    ----------
    loc, root
        Its mean, shape (dim,), and a lower triangular root of its scale matrix, shape (dim, dim).
    """

    loc: Float[np.ndarray, " dim"]
    root: Float[np.ndarray, "dim dim"]


def root_of(cov: Float[np.ndarray, "dim dim"], target: Target) -> Float[np.ndarray, "dim dim"]:
    """Return the lower triangular root of the covariance of draws of the unconstrained vector.

    Raises
    ------
    MethodFailure
        ``SINGULAR`` if it is not positive definite, with its smallest eigenvalue and the sites
        along it.
    """
    sd = np.sqrt(np.diagonal(cov))
    unit = cov / np.maximum(np.outer(sd, sd), np.finfo(float).tiny)
    values, vectors = np.linalg.eigh(unit)
    if not values[0] > 1e-12 * len(values):
        raise MethodFailure(
            Status.SINGULAR,
            "the draws have no spread in every direction: at unit diagonal the smallest eigenvalue "
            f"of their covariance is {values[0]:.3g}, along "
            f"{', '.join(target.sites_along(vectors[:, 0]))}",
            "give more draws than coordinates, and not those of a point",
        )
    return np.asarray(sd[:, None] * np.linalg.cholesky(unit))


@dataclass(frozen=True)
class Adapted:
    """The last round of adaptive importance sampling.

    Parameters
    ----------
    z, log_ratios
        Its draws, shape (num_draws, dim), with log p - log q, shape (num_draws,).
    power
        To which its weights had to be raised; 1 where the proposal has reached the posterior.
    shares
        Effective share of the draws of every round; 0 where weights were tempered.
    """

    z: Float[np.ndarray, "draws dim"]
    log_ratios: Float[np.ndarray, " draws"]
    power: float
    shares: Float[np.ndarray, " rounds"]


def adapt(
    target: Target,
    weigh: Callable[[int, Proposal], tuple[np.ndarray, np.ndarray]],
    proposal: Proposal,
    num_rounds: int,
    progress: Progress,
) -> Adapted:
    """Draw round after round, each from the weighted moments of the one before.

    Weights are tempered while few of them matter. It ends when the effective share of the draws no
    longer rises.

    Parameters
    ----------
    target
        What is sampled.
    weigh
        ``(round, proposal) -> (z, log_ratios)``, rounds counted from 1.
    proposal
        The first one.
    num_rounds
        Rounds, at most.
    progress
        Told of every round.

    Raises
    ------
    MethodFailure
        ``DIVERGED`` if no draw of a round has a finite density, ``SINGULAR`` if draws have no
        spread in some direction.

    References
    ----------
    Cappé, O., Douc, R., Guillin, A., Marin, J.-M. and Robert, C. P. (2008). Adaptive importance
    sampling in general mixture classes. Statistics and Computing 18. doi:10.1007/s11222-008-9059-x
    """
    share, shares = 0.0, []
    for done in range(1, num_rounds + 1):
        z, ratios = weigh(done, proposal)
        if not np.isfinite(ratios).any() or np.isposinf(ratios).any():
            raise MethodFailure(
                Status.DIVERGED,
                f"no draw of round {done} has a finite density",
                "change scatter, or give the model an init",
            )
        weights, power = temper(ratios, z.shape[1])
        previous, share = share, weights.ess / len(z) if power == 1 else 0.0
        shares.append(share)
        progress(done, num_rounds, f"effective share {share:.2g}, power {power:.2g}")
        if power == 1 and previous > 0 and share < GAIN * previous:
            break
        mean, cov = weights.moments(z)
        proposal = Proposal(mean, root_of(cov, target))
    return Adapted(z, ratios, power, np.array(shares))


def make_round(target: Target, num_draws: int) -> Callable[..., Any]:
    """Return ``(key, loc, root, arrays) -> (z, log_ratios)``, draws of a proposal weighed.

    A log density that is not a number counts as none.
    """

    def weigh(
        key: jax.Array, loc: Float[Array, " dim"], root: Float[Array, "dim dim"], arrays: Arrays
    ) -> tuple[Float[Array, "draws dim"], Float[Array, " draws"]]:
        q = MultivariateStudentT(DEGREES, loc, root)
        z = q.sample(key, (num_draws,))
        log_p = jax.vmap(target.log_density_fn, in_axes=(0, None))(z, arrays)
        ratios = log_p - q.log_prob(z)
        return z, jnp.where(jnp.isnan(ratios), -jnp.inf, ratios)

    return weigh
