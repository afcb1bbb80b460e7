"""Random effects with known variances: named dimensions, a Gaussian posterior, exact answers."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats

import vi_recipes as vr

NOISE = 0.7
GROUP = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2])
Y = np.array([0.9, 0.1, 1.4, 2.4, 1.9, 3.1, 1.2, -0.4, 0.6, -1.1, 0.2, -0.7])
ROWS = [f"r{i}" for i in range(12)]


def effects(y: Any, group: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("school", 3):
        u = numpyro.sample("u", dist.Normal(mu, 1.0))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.Normal(u[group], NOISE), obs=y)


def start(key: jax.Array, y: Any, group: Any) -> dict[str, jax.Array]:
    return {"mu": jnp.zeros(()), "u": jnp.zeros(3), "u_sd": jnp.ones(3), "mu_sd": jnp.ones(())}


def step(eta: dict[str, jax.Array], y: Any, group: Any) -> tuple[dict[str, jax.Array], jax.Array]:
    """Update q(mu) and q(u), independent normals; the ELBO is in closed form."""
    number, total = jnp.zeros(3).at[group].add(1.0), jnp.zeros(3).at[group].add(y)
    mu_variance = 1 / (1 / 4 + 3.0)
    mu = mu_variance * eta["u"].sum()
    variance = 1 / (1 + number / NOISE**2)
    u = variance * (mu + total / NOISE**2)

    def energy(x: Any, m: Any, v: Any, sd: float) -> Any:
        law = dist.Normal(m, sd)
        return (law.log_prob(x) - v / (2 * sd**2)).sum()

    elbo = (
        energy(mu, 0.0, mu_variance, 2.0)
        + energy(u, mu, variance + mu_variance, 1.0)
        + energy(y, u[group], variance[group], NOISE)
        + 0.5 * jnp.log(2 * jnp.pi * jnp.e * mu_variance)
        + 0.5 * jnp.log(2 * jnp.pi * jnp.e * variance).sum()
    )
    return {"mu": mu, "u": u, "u_sd": jnp.sqrt(variance), "mu_sd": jnp.sqrt(mu_variance)}, elbo


def draws(key: jax.Array, eta: Any, num_draws: int, y: Any, group: Any) -> dict[str, jax.Array]:
    noise = jax.random.normal(key, (num_draws, 4))
    return {
        "mu": eta["mu"] + eta["mu_sd"] * noise[:, 0],
        "u": eta["u"] + eta["u_sd"] * noise[:, 1:],
    }


MODEL = vr.Model(
    function=effects,
    name="effects",
    parameters=("mu",),
    latents=("u",),
    coords={"school": ["Ash", "Elm", "Oak"], "row": ROWS},
    vb=vr.VBSteps(start=start, step=step, draws=draws),
)


@cache
def target() -> vr.Target:
    return vr.Target(MODEL, y=Y, group=GROUP)


@cache
def laplace() -> vr.Fit:
    """The posterior itself, which is Gaussian."""
    return vr.Laplace().fit(target(), key=1, throw=True)


@cache
def nuts() -> vr.Fit:
    method = vr.NUTS(num_warmup=200, num_samples=400, num_chains=2)
    return method.fit(target(), key=1, throw=True)


@cache
def point() -> vr.Fit:
    return vr.MAP().fit(target(), key=1, throw=True)


def exact_moments() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (mu, u_1, u_2, u_3) given y."""
    prior = 4 * np.ones((4, 4)) + np.diag([0.0, 1, 1, 1])
    design = np.eye(4)[GROUP + 1]
    gain = prior @ design.T @ np.linalg.inv(marginal())
    return gain @ Y, prior - gain @ design @ prior


def marginal() -> np.ndarray:
    """Covariance of y, whose mean is 0."""
    return 4 + (GROUP[:, None] == GROUP) + NOISE**2 * np.eye(12)


def exact_loo() -> np.ndarray:
    """log p(y_i | the others): a conditional of the normal marginal, for every i."""
    precision = np.linalg.inv(marginal())
    variance = 1 / np.diag(precision)
    return np.asarray(stats.norm(Y - variance * (precision @ Y), np.sqrt(variance)).logpdf(Y))
