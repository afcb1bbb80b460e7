"""Seeds: germination on 21 plates, a binomial logistic regression with an effect per plate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

COLUMNS = ("seed", "root", "n", "y")


def seeds(germinated: jax.Array, size: jax.Array, x1: jax.Array, x2: jax.Array) -> None:
    """Count the seeds of a plate that germinate, given their variety and the extract used.

    Parameters
    ----------
    germinated
        Number of seeds that germinated, one per plate.
    size
        Number of seeds on the plate.
    x1
        1 for the second variety of seed, else 0.
    x2
        1 for the second root extract, else 0.
    """
    alpha0 = numpyro.sample("alpha0", dist.Normal(0.0, 1.0))
    alpha1 = numpyro.sample("alpha1", dist.Normal(0.0, 1.0))
    alpha2 = numpyro.sample("alpha2", dist.Normal(0.0, 1.0))
    alpha12 = numpyro.sample("alpha12", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(1.0))
    with numpyro.plate("plate", len(germinated)):
        b = numpyro.sample("b", dist.Normal(0.0, sigma))
        logits = alpha0 + alpha1 * x1 + alpha2 * x2 + alpha12 * x1 * x2 + b
        numpyro.sample("germinated", dist.Binomial(total_count=size, logits=logits), obs=germinated)


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns seed, root, n and y, named as in the R package aod.

    Parameters
    ----------
    path
        The file, one row per plate: labels of variety and extract, two of each, then the number of
        seeds and of those that germinated.

    Returns
    -------
    dict
        Arguments of :func:`seeds`. The variety and the extract of the first row are the baseline.
    """
    frame = vr.read_columns(path, COLUMNS, model="seeds")
    for name in ("seed", "root"):
        if frame[name].isna().any() or frame[name].nunique() != 2:
            found = ", ".join(map(str, frame[name].unique()[:5])) or "none"
            raise ValueError(f"{path}: {name} should have two labels and no gaps; it has {found}")
    return {
        "germinated": frame["y"].to_numpy(),
        "size": frame["n"].to_numpy(),
        "x1": (frame["seed"] != frame["seed"].iloc[0]).to_numpy(float),
        "x2": (frame["root"] != frame["root"].iloc[0]).to_numpy(float),
    }


def data() -> dict[str, Any]:
    """Return the 21 plates."""
    return load(Path(__file__).with_name("data.csv"))


def coords(germinated: jax.Array, **_: Any) -> dict[str, list[Any]]:
    """Label the plates by number from one."""
    return {"plate": list(range(1, np.size(germinated) + 1))}


MODEL = vr.Model(
    function=seeds,
    name="seeds",
    data=data,
    load=load,
    parameters=("alpha0", "alpha1", "alpha2", "alpha12", "sigma"),
    latents=("b",),
    options={"nuts": {"noncentered": ("b",)}},
    dims={"b": ("plate",)},
    coords=coords,
    description="Binomial random-effects logistic regression of germination on 21 plates.",
    citation=(
        "Crowder (1978), Beta-binomial Anova for proportions, Journal of the Royal Statistical "
        "Society C 27(1), 34-37, doi:10.2307/2346223; as a random-effects model in Breslow and "
        "Clayton (1993), Journal of the American Statistical Association 88(421), 9-25, "
        "doi:10.1080/01621459.1993.10594284"
    ),
)
