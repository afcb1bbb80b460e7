"""Eight schools: the effects of coaching, estimated in parallel, centred parametrisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr


def eight_schools(y: jax.Array, sigma: jax.Array) -> None:
    """Estimated effects with known standard errors, partially pooled.

    Parameters
    ----------
    y
        Estimated effect, one per school.
    sigma
        Its standard error, taken as known.
    """
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def data() -> dict[str, Any]:
    """Return Rubin's eight schools."""
    import pandas as pd

    frame = pd.read_csv(Path(__file__).with_name("data.csv"))
    return {name: frame[name].to_numpy(dtype=float) for name in ("y", "sigma")}


def coords(y: jax.Array, **_: Any) -> dict[str, list[Any]]:
    """Label the schools: A to H when there are eight, as Rubin does, else by number."""
    return {"school": list("ABCDEFGH") if len(y) == 8 else list(range(len(y)))}


MODEL = vr.Model(
    function=eight_schools,
    name="eight_schools",
    data=data,
    parameters=("mu", "tau"),
    latents=("theta",),
    options={"nuts": {"noncentered": ("theta",)}},
    dims={"theta": ("school",)},
    coords=coords,
    description="Effects of coaching in eight schools, a hierarchical normal with known errors.",
    citation=(
        "Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational "
        "Statistics 6(4), 377-401, doi:10.3102/10769986006004377"
    ),
)
