"""Death notices in The Times: a mixture of Poisson distributions.

    pi ~ Dirichlet(2, ..., 2)
    log_lambda_0 ~ Normal(0, 1), log(log_lambda_k - log_lambda_{k-1}) ~ Normal(0, 1)

Components are numbered by increasing rate, so that labels cannot switch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import OrderedTransform

import vi_recipes as vr

DAYS = (162, 267, 271, 185, 111, 61, 27, 8, 3, 1)
"""Days with 0, 1, 2, ... deaths."""


def sample_theta(num_components: int) -> tuple[Any, Any]:
    """Sample the weights and the increasing rates from the prior."""
    K = num_components
    if K < 2:
        raise ValueError(f"num_components={K}: expected two or more")
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.full(K, 2.0)))
    steps = dist.Normal(jnp.zeros(K), 1.0).to_event(1)
    increasing = dist.TransformedDistribution(steps, OrderedTransform())
    lam = numpyro.deterministic("lam", jnp.exp(numpyro.sample("log_lam", increasing)))
    return pi, lam


def times_deaths(y: jax.Array, num_components: int = 2) -> None:
    """Count the deaths on each day, given the kind ``z`` of day it was.

    Parameters
    ----------
    y
        Number of deaths on each day.
    num_components
        Number of kinds of day.
    """
    pi, lam = sample_theta(num_components)
    with numpyro.plate("day", len(y)):
        z = numpyro.sample("z", dist.Categorical(probs=pi))
        numpyro.sample("y", dist.Poisson(lam[z]), obs=y)


def marginal(y: jax.Array, num_components: int = 2) -> None:
    """Count the deaths on each day, the kind of day being summed out.

    Parameters
    ----------
    y, num_components
        As for :func:`times_deaths`.
    """
    pi, lam = sample_theta(num_components)
    with numpyro.plate("day", len(y)):
        mixture = dist.MixtureSameFamily(dist.Categorical(probs=pi), dist.Poisson(lam))
        numpyro.sample("y", mixture, obs=y)


def from_counts(deaths: Any, days: Any) -> dict[str, Any]:
    """Return the arguments of :func:`times_deaths` for so many days with so many deaths."""
    return {"y": np.repeat(deaths, days)}


def simulate(
    seed: int = 0,
    num_days: int = 1_096,
    pi: tuple[float, ...] = (0.36, 0.64),
    lam: tuple[float, ...] = (1.26, 2.66),
) -> dict[str, Any]:
    """Draw days.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_days
        Number of days.
    pi, lam
        Weights and rates of the kinds of day.

    Returns
    -------
    dict
        Arguments of :func:`times_deaths`.
    """
    rng = np.random.default_rng(seed)
    z = rng.choice(len(pi), size=num_days, p=pi)
    return {"y": rng.poisson(np.asarray(lam)[z])}


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns deaths and days: how many days had so many deaths.

    Parameters
    ----------
    path
        The file, one row per number of deaths.

    Returns
    -------
    dict
        Arguments of :func:`times_deaths`, one element per day.
    """
    import pandas as pd

    frame = vr.read_columns(path, ("deaths", "days"), model="times_deaths")
    counts = frame.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    if not ((counts >= 0) & (counts == np.floor(counts))).all() or counts[:, 1].sum() == 0:
        raise ValueError(
            f"{path}: deaths and days should hold whole numbers from zero, and days not only zeros"
        )
    deaths, days = counts.astype(int).T
    return from_counts(deaths, days)


def data() -> dict[str, Any]:
    """Return the 1,096 days of 1910 to 1912."""
    return from_counts(np.arange(len(DAYS)), DAYS)


def build(num_components: int = 2) -> vr.Model:
    """Build the mixture with ``num_components`` components.

    Parameters
    ----------
    num_components
        Number of components.

    Returns
    -------
    vi_recipes.Model
        The choice stays an argument of the model, with the value given here as default.
    """
    return vr.Model(
        function=partial(times_deaths, num_components=num_components),
        name="times_deaths",
        data=data,
        load=load,
        simulate=simulate,
        parameters=("pi", "log_lam"),
        latents=("z",),
        dims=dict.fromkeys(("pi", "log_lam", "lam"), ("component",)),
        description=f"Mixture of {num_components} Poisson distributions of daily deaths.",
        citation=(
            "Hasselblad (1969), Estimation of finite mixtures of distributions from the "
            "exponential family, Journal of the American Statistical Association 64, 1459-1471, "
            "doi:10.1080/01621459.1969.10501071; Titterington, Smith and Makov (1985), Statistical "
            "Analysis of Finite Mixture Distributions"
        ),
    )


def without_labels(model: vr.Model) -> vr.Model:
    """Return the model with the kind of day summed out in the likelihood."""
    function = model.function
    assert isinstance(function, partial)
    return replace(model, function=partial(marginal, **function.keywords), latents=())


MODEL = build()
MARGINAL = without_labels(MODEL)
