"""The library's estimates and likelihoods for data that the formulas of scales are of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.distributions import constraints
from scipy import stats

import vi_recipes as vr

from .near import FEW_GROUPS, few, few_groups, many_groups, pairs

CHECKED = 30
"""Observations of the data on which the library's marginal likelihood is laid beside formulas."""


def groups(y: jax.Array) -> None:
    """Effects of groups around 0 with an sd of their own, and noise of sd 1."""
    tau = numpyro.sample("tau", dist.ImproperUniform(constraints.positive, (), ()))
    with numpyro.plate("group", len(y)):
        a = numpyro.sample("a", dist.Normal(0.0, tau))
        mean = jnp.broadcast_to(a[..., None], y.shape)
        numpyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)


GROUPS = vr.Model(
    function=groups, name="groups", parameters=("tau",), latents=("a",),
    init=lambda key, y: {"tau": 1.0, "a": np.mean(y, axis=1)},
)  # fmt: skip


def group_data(num_groups: int, each: int) -> np.ndarray:
    """Return observations, groups by replicates, of which the marginal MLE of tau is 1."""
    scores = stats.norm.ppf((np.arange(num_groups) + 0.5) / num_groups)
    means = scores * np.sqrt((1 + 1 / each) / np.mean(scores**2))
    noise = np.random.default_rng(num_groups).standard_normal((num_groups, each))
    return means[:, None] + noise - noise.mean(axis=1, keepdims=True)


def pair_data(num_pairs: int) -> np.ndarray:
    """Return pairs, of which the marginal MLE of sigma is 1."""
    model = vr.load_model("neyman_scott")
    assert model.simulate is not None
    y = model.simulate(seed=1, num_members=num_pairs)["y"]
    means = y.mean(axis=1, keepdims=True)
    return means + (y - means) / np.sqrt(y.var(axis=1, ddof=1).mean())


def checked() -> pd.DataFrame:
    """Return the estimates and likelihoods of the library for the data that formulas are of."""
    rows = []
    few_n = few(CHECKED)
    for name, model, y, scale in (
        ("sigma of pairs", vr.load_model("neyman_scott"), pair_data(CHECKED // 2), pairs(CHECKED)),
        ("tau of groups of two", GROUPS, group_data(CHECKED // 2, 2), many_groups(CHECKED)),
        (
            f"tau of {FEW_GROUPS} groups", GROUPS, group_data(FEW_GROUPS, few_n // FEW_GROUPS),
            few_groups(few_n),
        ),
    ):  # fmt: skip
        this = vr.Target(model, y=y)
        (site,) = model.parameters
        energy = vr.FreeEnergy(this)
        high = energy.log_likelihood(energy.unconstrain({site: 1.0}))
        off = [
            energy.log_likelihood(energy.unconstrain({site: at})) - high
            - (scale.log_likelihood(at) - scale.log_likelihood(1.0))
            for at in (0.7, 1.5)
        ]  # fmt: skip
        fit = vr.MarginalMLE().fit(this, key=0, throw=True)
        rows.append(
            {
                "what": name,
                "MarginalMLE": f"{float(fit.mean()[site]):.7f}",
                "largest difference of log p": max(map(abs, off)),
            }
        )
    return pd.DataFrame(rows)
