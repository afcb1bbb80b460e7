"""Sesame Street: an encouragement design, a hierarchical model with two correlated outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

KEYS = ("yt", "z", "siteset")
SIZES = (28, 31, 47, 19, 18, 32, 24, 17, 24)
"""Children in each combination of site and setting."""


def sesame_street(
    yt: jax.Array,
    z: jax.Array,
    siteset: jax.Array,
    num_sitesets: int,
) -> None:
    """Score of a child in the test and whether it watched, given whether it was encouraged to.

    Parameters
    ----------
    yt
        Score after the season, and whether the child watched (1) or not (0): children by 2.
    z
        Whether the child was encouraged to watch (1) or not (0).
    siteset
        Combination of site and setting of each child, 0 to ``num_sitesets - 1``.
    num_sitesets
        Number of such combinations.
    """
    d = numpyro.sample("d", dist.Normal(0.0, 31.6))
    b = numpyro.sample("b", dist.Normal(0.0, 31.6))
    mu_ag = numpyro.sample("mu_ag", dist.Normal(0.0, 31.6).expand([2]).to_event(1))
    sigma_a = numpyro.sample("sigma_a", dist.Uniform(0.0, 100.0))
    sigma_g = numpyro.sample("sigma_g", dist.Uniform(0.0, 100.0))
    rho_ag = numpyro.sample("rho_ag", dist.Uniform(-1.0, 1.0))
    sigma_y = numpyro.sample("sigma_y", dist.Uniform(0.0, 100.0))
    sigma_t = numpyro.sample("sigma_t", dist.Uniform(0.0, 100.0))
    rho_yt = numpyro.sample("rho_yt", dist.Uniform(-1.0, 1.0))
    with numpyro.plate("siteset", num_sitesets):
        tril = _cholesky(sigma_a, sigma_g, rho_ag)
        ag = numpyro.sample("ag", dist.MultivariateNormal(mu_ag, scale_tril=tril))
    with numpyro.plate("child", len(yt)):
        # t is an outcome, and also a covariate of the score
        mean = ag[siteset] + jnp.stack([b * yt[:, 1], d * z], axis=-1)
        tril = _cholesky(sigma_y, sigma_t, rho_yt)
        numpyro.sample("yt", dist.MultivariateNormal(mean, scale_tril=tril), obs=yt)


def _cholesky(first: jax.Array, second: jax.Array, rho: jax.Array) -> jax.Array:
    """Return the Cholesky factor of the covariance of two variables with these sds."""
    rows = [[first, jnp.zeros_like(first)], [rho * second, second * jnp.sqrt(1.0 - rho**2)]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def simulate(
    seed: int = 0,
    sizes: tuple[int, ...] = SIZES,
    binary: bool = True,
    b: float = 12.0,
    d: float = 0.35,
    mu_ag: tuple[float, float] = (17.0, 0.55),
    sigma_ag: tuple[float, float] = (7.0, 0.2),
    rho_ag: float = 0.25,
    sigma_yt: tuple[float, float] = (11.0, 0.35),
    rho_yt: float = -0.05,
) -> dict[str, Any]:
    """Draw children in groups of the real sizes.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    sizes
        Number of children in each combination of site and setting.
    binary
        Whether a child watched or not, t = 1 where the model's t is above 0.5, as in the real data;
        ``False`` keeps t as the model draws it.
    b, d
        Effect of watching on the score, and of encouragement on watching.
    mu_ag, sigma_ag, rho_ag
        Means, sds and correlation of the groups' intercepts.
    sigma_yt, rho_yt
        Residual sds and correlation of score and watching.

    Returns
    -------
    dict
        Arguments of :func:`sesame_street`.
    """
    rng = np.random.default_rng(seed)
    siteset = np.repeat(np.arange(len(sizes)), sizes)
    num_rows = len(siteset)
    ag = np.asarray(mu_ag) + _pairs(rng, len(sizes), sigma_ag, rho_ag)
    error = _pairs(rng, num_rows, sigma_yt, rho_yt)
    z = (rng.random(num_rows) < 0.63).astype(float)
    t = ag[siteset, 1] + d * z + error[:, 1]
    if binary:
        t = (t > 0.5).astype(float)
    y = ag[siteset, 0] + b * t + error[:, 0]
    return {
        "yt": np.stack([y, t], axis=1),
        "z": z,
        "siteset": siteset.astype(np.int32),
        "num_sitesets": len(sizes),
    }


def _pairs(
    rng: np.random.Generator, size: int, sigma: tuple[float, float], rho: float
) -> np.ndarray:
    """Draw pairs with mean zero."""
    first, second = rng.standard_normal((2, size))
    second = rho * first + np.sqrt(1.0 - rho**2) * second
    return np.stack([sigma[0] * first, sigma[1] * second], axis=1)


def load(path: Path | str) -> dict[str, Any]:
    """Read JSON with keys yt (pairs), z and siteset, one element per child.

    Parameters
    ----------
    path
        The file. ``siteset`` counts from one to ``J``, which may be left out and is then the
        largest number there is.

    Returns
    -------
    dict
        Arguments of :func:`sesame_street`.
    """
    raw = vr.read_data(path, needs=KEYS, model="sesame_street", called="key(s)")
    arrays = {}
    for name in KEYS:
        try:
            arrays[name] = np.asarray(raw[name], float)
        except (TypeError, ValueError):
            raise ValueError(f"{path}: {name} should hold numbers, as many per child") from None
    yt, siteset = arrays["yt"], arrays["siteset"]
    if yt.ndim != 2 or yt.shape[1] != 2:
        raise ValueError(f"{path}: yt should hold a pair of numbers per child, score and watched")
    num_sitesets = int(raw.get("J", np.nan_to_num(siteset).max()))
    if not np.isin(siteset, np.arange(1, num_sitesets + 1)).all():
        raise ValueError(
            f"{path}: siteset should be a whole number from 1 to {num_sitesets} throughout, the "
            "number of groups (J, or the largest where the file does not say)"
        )
    return {
        "yt": yt,
        "z": arrays["z"],
        "siteset": siteset.astype(np.int32) - 1,
        "num_sitesets": num_sitesets,
    }


MODEL = vr.Model(
    function=sesame_street,
    name="sesame_street",
    data=simulate,
    load=load,
    simulate=simulate,
    parameters=(
        "d",
        "b",
        "mu_ag",
        "sigma_a",
        "sigma_g",
        "rho_ag",
        "sigma_y",
        "sigma_t",
        "rho_yt",
    ),
    latents=("ag",),
    options={"nuts": {"dense_mass": True}},
    dims={
        "ag": ("siteset", "effect"),
        "mu_ag": ("effect",),
        "yt": ("child", "outcome"),
    },
    coords=lambda num_sitesets, **_: {
        "siteset": list(range(1, num_sitesets + 1)),
        "effect": ["a", "g"],
        "outcome": ["y", "t"],
    },
    description="Hierarchical model of an encouragement design with two outcomes, simulated.",
    citation=(
        "Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical "
        "Models, chapter 23, doi:10.1017/CBO9780511790942; priors as in Giordano, Broderick and "
        "Jordan (2018), JMLR 19(51), section 5.2"
    ),
)
