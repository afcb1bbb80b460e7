"""A mixture of two normals in one dimension, labels fixed by ordering the means."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr


def gaussian_mixture_1d(y: jax.Array) -> None:
    """Observations from either of two normals, which one being summed out.

    Parameters
    ----------
    y
        The observations.
    """
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    # Ordering keeps one half of the plane, so the factor 2 makes this a proper density and the
    # log evidence that of a proper prior.
    numpyro.factor("mu_prior", jnp.log(2.0) + dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    component = dist.Categorical(probs=jnp.stack([theta, 1.0 - theta]))
    with numpyro.plate("observation", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(component, dist.Normal(mu, sigma)), obs=y)


def simulate(
    seed: int = 0,
    num_rows: int = 1000,
    mu: tuple[float, float] = (-2.75, 2.85),
    sigma: tuple[float, float] = (1.0, 1.0),
    theta: float = 0.62,
) -> dict[str, Any]:
    """Draw observations.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_rows
        Number of observations.
    mu, sigma
        Mean and sd of the two components.
    theta
        Weight of the first.

    Returns
    -------
    dict
        Arguments of :func:`gaussian_mixture_1d`.
    """
    rng = np.random.default_rng(seed)
    component = (rng.random(num_rows) >= theta).astype(int)
    y = np.asarray(mu)[component] + np.asarray(sigma)[component] * rng.standard_normal(num_rows)
    return {"y": y}


def init(key: jax.Array, y: jax.Array) -> dict[str, Any]:
    """Start with the means at the quartiles: the improper site has no prior median."""
    quartiles = jnp.quantile(y, jnp.array([0.25, 0.75]))
    return {
        "mu": quartiles,
        "sigma": jnp.full(2, (quartiles[1] - quartiles[0]) / 2),
        "theta": jnp.array(0.5),
    }


MODEL = vr.Model(
    function=gaussian_mixture_1d,
    name="gaussian_mixture_1d",
    data=simulate,
    simulate=simulate,
    parameters=("mu", "sigma", "theta"),
    dims={"mu": ("component",), "sigma": ("component",)},
    init=init,
    description="Mixture of two normals in one dimension with ordered means, labels summed out.",
    citation=(
        "posteriordb, low_dim_gauss_mix (Betancourt 2017, Identifying Bayesian mixture models); "
        "Magnusson et al. (2024), posteriordb, arXiv:2407.04967"
    ),
)
