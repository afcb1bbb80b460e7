"""Penicillin: diameters of zones of inhibition, plates crossed with samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

COLUMNS = ("diameter", "plate", "sample")
SHIPPED = Path(__file__).with_name("data.csv")


def penicillin(
    diameter: jax.Array,
    plate: jax.Array,
    sample: jax.Array,
    num_plates: int,
    num_samples: int,
) -> None:
    """Diameter of the zone of inhibition, given the plate and the sample of penicillin.

    Parameters
    ----------
    diameter
        Diameter (mm), one per sample on a plate.
    plate
        Plate, 0 to ``num_plates - 1``.
    sample
        Sample of penicillin, 0 to ``num_samples - 1``.
    num_plates, num_samples
        Number of plates and of samples.
    """
    mu = numpyro.sample("mu", dist.Normal(23.0, 5.0))
    sigma_plate = numpyro.sample("sigma_plate", dist.HalfNormal(2.0))
    sigma_sample = numpyro.sample("sigma_sample", dist.HalfNormal(2.0))
    sigma_y = numpyro.sample("sigma_y", dist.HalfNormal(2.0))
    # not called plate and sample: ArviZ keeps "sample" for itself
    with numpyro.plate("plate", num_plates):
        u = numpyro.sample("u", dist.Normal(0.0, sigma_plate))
    with numpyro.plate("penicillin", num_samples):
        v = numpyro.sample("v", dist.Normal(0.0, sigma_sample))
    with numpyro.plate("zone", len(diameter)):
        mean = mu + u[plate] + v[sample]
        numpyro.sample("diameter", dist.Normal(mean, sigma_y), obs=diameter)


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns diameter, plate and sample.

    Parameters
    ----------
    path
        The file, one row per diameter; plates and samples are names or numbers.

    Returns
    -------
    dict
        Arguments of :func:`penicillin`. Plates and samples are numbered in the sorted order of
        their labels.
    """
    frame = vr.read_columns(path, COLUMNS, model="penicillin")
    if frame[["plate", "sample"]].isna().any(axis=None):
        raise ValueError(f"{path} has rows without a plate or a sample; drop them or fill them in")
    plates, plate = np.unique(frame["plate"].to_numpy(), return_inverse=True)
    samples, sample = np.unique(frame["sample"].to_numpy(), return_inverse=True)
    return {
        "diameter": frame["diameter"].to_numpy(dtype=float),
        "plate": plate,
        "sample": sample,
        "num_plates": len(plates),
        "num_samples": len(samples),
    }


def data() -> dict[str, Any]:
    """Return the 144 diameters: 24 plates with the same 6 samples on each."""
    return load(SHIPPED)


def coords(
    plate: jax.Array, sample: jax.Array, num_plates: int, num_samples: int, **_: Any
) -> dict[str, list[Any]]:
    """Label plates and samples: by letter for the shipped data, else by number."""
    shipped = load(SHIPPED)
    known = np.array_equal(np.asarray(plate), shipped["plate"]) and np.array_equal(
        np.asarray(sample), shipped["sample"]
    )
    return {
        "plate": list("abcdefghijklmnopqrstuvwx") if known else list(range(num_plates)),
        "penicillin": list("ABCDEF") if known else list(range(num_samples)),
    }


MODEL = vr.Model(
    function=penicillin,
    name="penicillin",
    data=data,
    load=load,
    parameters=("mu", "sigma_plate", "sigma_sample", "sigma_y"),
    latents=("u", "v"),
    dims={"u": ("plate",), "v": ("penicillin",)},
    coords=coords,
    description="Crossed random effects of plates and samples on zones of inhibition.",
    citation=(
        "Davies and Goldsmith (1972), Statistical Methods in Research and Production, 4th ed., "
        "section 6.6; Bates, Maechler, Bolker and Walker (2015), Fitting Linear Mixed-Effects "
        "Models Using lme4, Journal of Statistical Software 67(1), doi:10.18637/jss.v067.i01"
    ),
)
