"""Radon in Minnesota: a hierarchical normal regression with a varying intercept per county."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

COLUMNS = ("county", "log_radon", "floor", "log_uranium")


def radon(
    log_radon: jax.Array,
    floor: jax.Array,
    log_uranium: jax.Array,
    county: jax.Array,
    num_counties: int,
) -> None:
    """Log radon of a house, given its floor, its county's uranium and its county.

    Parameters
    ----------
    log_radon
        Log radon (log pCi/L), one per house.
    floor
        Where it was measured: 0 basement, 1 first floor.
    log_uranium
        Log uranium (log ppm) in the soil of the house's county.
    county
        County of each house, 0 to ``num_counties - 1``.
    num_counties
        Number of counties.
    """
    mu_a = numpyro.sample("mu_a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sigma_a = numpyro.sample("sigma_a", dist.Uniform(0.0, 100.0))
    sigma_y = numpyro.sample("sigma_y", dist.Uniform(0.0, 100.0))
    with numpyro.plate("county", num_counties):
        a = numpyro.sample("a", dist.Normal(mu_a, sigma_a))
    with numpyro.plate("house", len(log_radon)):
        mean = a[county] + b[0] * log_uranium + b[1] * floor
        numpyro.sample("log_radon", dist.Normal(mean, sigma_y), obs=log_radon)


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns county (names or codes), log_radon, floor and log_uranium.

    Parameters
    ----------
    path
        The file, one row per house.

    Returns
    -------
    dict
        Arguments of :func:`radon`. Counties are numbered in the sorted order of their labels.
    """
    frame = vr.read_columns(path, COLUMNS, model="radon")
    if frame["county"].isna().any():
        raise ValueError(
            f"{path} has {int(frame['county'].isna().sum())} row(s) without a county; "
            "drop them or give them one"
        )
    labels, county = np.unique(frame["county"].to_numpy(), return_inverse=True)
    return {
        "log_radon": frame["log_radon"].to_numpy(),
        "floor": frame["floor"].to_numpy(),
        "log_uranium": frame["log_uranium"].to_numpy(),
        "county": county,
        "num_counties": len(labels),
    }


def data() -> dict[str, Any]:
    """Return the 919 houses in 85 counties of Minnesota."""
    return load(Path(__file__).with_name("data.csv"))


def coords(county: jax.Array, num_counties: int, **_: Any) -> dict[str, list[Any]]:
    """Label the counties: by name for the shipped data, else by number.

    Names are text and so no argument of the model; the shipped data are known by which house lies
    in which county.
    """
    import pandas as pd

    names = pd.read_csv(Path(__file__).with_name("data.csv"))["county"].to_numpy()
    labels, shipped = np.unique(names, return_inverse=True)
    known = np.array_equal(np.asarray(county), shipped)
    return {
        "county": labels.tolist() if known else list(range(num_counties)),
        "covariate": ["uranium", "floor"],
    }


MODEL = vr.Model(
    function=radon,
    name="radon",
    data=data,
    load=load,
    parameters=("mu_a", "b", "sigma_a", "sigma_y"),
    latents=("a",),
    options={"nuts": {"noncentered": ("a",)}},
    dims={"a": ("county",), "b": ("covariate",)},
    coords=coords,
    description="Hierarchical normal regression of log radon with an intercept per county.",
    citation=(
        "Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical "
        "Models, chapters 12 and 21, doi:10.1017/CBO9780511790942; priors as in Giordano, "
        "Broderick and Jordan (2018), JMLR 19(51), section 5.2"
    ),
)
