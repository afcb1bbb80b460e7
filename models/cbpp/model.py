"""Contagious bovine pleuropneumonia: binomial random-effects logistic regression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

COLUMNS = ("herd", "period", "incidence", "size")


def cbpp(
    incidence: jax.Array,
    size: jax.Array,
    X: jax.Array,
    herd: jax.Array,
    num_herds: int,
) -> None:
    """Count the new cases among the animals of a herd in a period.

    Parameters
    ----------
    incidence
        Number of new cases, one per row (a herd in a period).
    size
        Number of animals at risk.
    X
        Covariates, rows by columns, without an intercept: indicators of the later periods.
    herd
        Herd of each row, 0 to ``num_herds - 1``.
    num_herds
        Number of herds.
    """
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0**0.5).expand([X.shape[1]]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.Gamma(3.0, 3.0))  # a precision
    sigma = numpyro.deterministic("sigma", tau**-0.5)
    with numpyro.plate("herd", num_herds):
        u = numpyro.sample("u", dist.Normal(mu, sigma))
    with numpyro.plate("observation", len(incidence)):
        logits = jnp.matmul(X, beta) + u[herd]
        numpyro.sample("incidence", dist.Binomial(total_count=size, logits=logits), obs=incidence)


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns herd, period, incidence and size.

    Parameters
    ----------
    path
        The file, one row per herd and period; herds and periods are names or numbers.

    Returns
    -------
    dict
        Arguments of :func:`cbpp`. Herds and periods are numbered in the sorted order of their
        labels; the first period is the baseline, so ``X`` has a column for each of the others.
    """
    frame = vr.read_columns(path, COLUMNS, model="cbpp")
    if frame[["herd", "period"]].isna().any(axis=None):
        raise ValueError(f"{path} has rows without a herd or a period; drop them or fill them in")
    herds, herd = np.unique(frame["herd"].to_numpy(), return_inverse=True)
    periods, period = np.unique(frame["period"].to_numpy(), return_inverse=True)
    return {
        "incidence": frame["incidence"].to_numpy(),
        "size": frame["size"].to_numpy(),
        "X": (period[:, None] == np.arange(1, len(periods))).astype(float),
        "herd": herd,
        "num_herds": len(herds),
    }


def data() -> dict[str, Any]:
    """Return the 56 rows of 15 herds."""
    return load(Path(__file__).with_name("data.csv"))


def coords(X: jax.Array, num_herds: int, **_: Any) -> dict[str, list[Any]]:
    """Label herds and periods by number from one, as the data do."""
    return {
        "herd": list(range(1, num_herds + 1)),
        "period": [f"period{k + 2}" for k in range(X.shape[1])],
    }


MODEL = vr.Model(
    function=cbpp,
    name="cbpp",
    data=data,
    load=load,
    parameters=("beta", "mu", "tau"),
    latents=("u",),
    dims={"beta": ("period",), "u": ("herd",)},
    coords=coords,
    description="Binomial random-effects logistic regression of disease incidence in herds.",
    citation=(
        "Lesnoff et al. (2004), Within-herd spread of contagious bovine pleuropneumonia in "
        "Ethiopian highlands, Preventive Veterinary Medicine 64(1), 27-40, "
        "doi:10.1016/j.prevetmed.2004.03.005; priors as in Giordano, Broderick and Jordan (2018), "
        "JMLR 19(51), section 5.3"
    ),
)
