"""Neyman and Scott's problem: a common sd, and a mean of its own for every pair.

All priors are flat, so that the mode is the joint maximum of the likelihood and the posterior of
sigma is the likelihood with the means integrated out. It is proper with two members or more of two
observations or more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import vi_recipes as vr


def neyman_scott(y: jax.Array) -> None:
    """Observe each member a few times, around a mean ``z`` of its own.

    Parameters
    ----------
    y
        Observations, members by replicates, two or more of each.
    """
    check(y.shape)
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with numpyro.plate("member", len(y)):
        z = numpyro.sample("z", dist.ImproperUniform(constraints.real, (), ()))
        mean = jnp.broadcast_to(z[..., None], y.shape)
        numpyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=y)


def check(shape: tuple[int, ...]) -> None:
    """Refuse data that leave the posterior improper."""
    if len(shape) != 2 or min(shape) < 2:
        raise ValueError(
            f"y has shape {shape}; expected members by replicates, two or more of each: with flat "
            "priors the posterior is improper otherwise"
        )


def joint_mle(y: np.ndarray) -> float:
    """Return the sigma that maximises the likelihood together with all z.

    Parameters
    ----------
    y
        Observations, members by replicates, N by M. The square of the estimate converges to
        (M - 1) / M of the truth as N grows: half of it for pairs.
    """
    return float(np.sqrt(np.var(y, axis=1).mean()))


def marginal_mle(y: np.ndarray) -> float:
    """Return the sigma that maximises the likelihood with z integrated out.

    Parameters
    ----------
    y
        Observations, members by replicates.
    """
    return float(np.sqrt(np.var(y, axis=1, ddof=1).mean()))


def simulate(
    seed: int = 0,
    num_members: int = 100,
    num_replicates: int = 2,
    sigma: float = 1.0,
    spread: float = 5.0,
) -> dict[str, Any]:
    """Draw observations of members whose means are normal.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_members, num_replicates
        Number of members, and of observations of each.
    sigma
        Sd of the observations of a member around its mean.
    spread
        Sd of the means, of which the model knows nothing.

    Returns
    -------
    dict
        Arguments of :func:`neyman_scott`.
    """
    rng = np.random.default_rng(seed)
    z = spread * rng.standard_normal(num_members)
    noise = sigma * rng.standard_normal((num_members, num_replicates))
    return {"y": z[:, None] + noise}


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with a row per member, whose numeric columns are the replicates.

    Parameters
    ----------
    path
        The file; every member has the same number of observations, two or more.

    Returns
    -------
    dict
        Arguments of :func:`neyman_scott`.
    """
    use = "the observations of the member that a row stands for"
    y = vr.read_numeric(path, use, fewest=2).to_numpy()
    if len(y) < 2:
        raise ValueError(f"{path} has {len(y)} row(s); the model needs two members or more")
    return {"y": y}


def init(key: jax.Array, y: jax.Array) -> dict[str, Any]:
    """Start from the members' means and the sd of all observations: flat priors have no median."""
    y = np.asarray(y, float)
    return {"sigma": float(y.std()), "z": y.mean(axis=1)}


MODEL = vr.Model(
    function=neyman_scott,
    name="neyman_scott",
    data=simulate,
    load=load,
    simulate=simulate,
    parameters=("sigma",),
    latents=("z",),
    dims={"z": ("member",), "y": ("member", "replicate")},
    init=init,
    description="Pairs of observations with a mean each and one sd: the joint mode is wrong.",
    citation=(
        "Neyman and Scott (1948), Consistent estimates based on partially consistent observations, "
        "Econometrica 16(1), 1-32, doi:10.2307/1914288"
    ),
)
