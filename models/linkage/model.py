"""Genetic linkage: five kinds of genotype, two of which look alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

PHENOTYPES = ("AB", "Ab", "aB", "ab")
LOOKS = np.array([0, 0, 1, 2, 3])
"""Phenotype of each of the five cells."""

COUNTS = (125, 18, 20, 34)


def cells(theta: Any) -> Any:
    """Return the probabilities of the five cells, the first two being of one phenotype."""
    half = jnp.full_like(theta, 0.5)
    return jnp.stack([half, theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4], axis=-1)


def linkage(y: jax.Array) -> None:
    """Phenotype of each animal, given the cell ``z`` that it is in.

    Parameters
    ----------
    y
        Phenotype of each animal, 0 to 3.
    """
    theta = numpyro.sample("theta", dist.Uniform(0.0, 1.0))
    looks = jnp.asarray(LOOKS[:, None] == np.arange(4), dtype=float)
    with numpyro.plate("animal", len(y)):
        z = numpyro.sample("z", dist.Categorical(probs=cells(theta)))
        numpyro.sample("y", dist.Categorical(probs=looks[z]), obs=y)


def marginal(y: jax.Array) -> None:
    """Phenotype of each animal, the cell being summed out.

    Parameters
    ----------
    y
        As for :func:`linkage`.
    """
    theta = numpyro.sample("theta", dist.Uniform(0.0, 1.0))
    probs = jnp.stack(
        [0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4],
        axis=-1,
    )
    with numpyro.plate("animal", len(y)):
        numpyro.sample("y", dist.Categorical(probs=probs), obs=y)


def from_counts(counts: Any) -> dict[str, Any]:
    """Return the arguments of :func:`linkage` for so many animals of each phenotype."""
    return {"y": np.repeat(np.arange(4), counts)}


def simulate(seed: int = 0, num_animals: int = 197, theta: float = 0.63) -> dict[str, Any]:
    """Draw animals.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_animals
        Number of animals.
    theta
        The squared probability that the two genes stay together.

    Returns
    -------
    dict
        Arguments of :func:`linkage`.
    """
    probs = np.array([2 + theta, 1 - theta, 1 - theta, theta]) / 4
    return from_counts(np.random.default_rng(seed).multinomial(num_animals, probs))


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns phenotype and count, one row for each of AB, Ab, aB and ab.

    Parameters
    ----------
    path
        The file; AB shows both dominant traits, ab none.

    Returns
    -------
    dict
        Arguments of :func:`linkage`.
    """
    import pandas as pd

    frame = vr.read_columns(path, ("phenotype", "count"), model="linkage")
    found = frame["phenotype"].tolist()
    if len(found) != len(PHENOTYPES) or set(found) != set(PHENOTYPES):
        raise ValueError(
            f"{path}: phenotype should be each of {', '.join(PHENOTYPES)} once, and the file has "
            f"{', '.join(map(str, found))}"
        )
    counts = pd.to_numeric(frame.set_index("phenotype")["count"], errors="coerce")
    counts = counts.loc[list(PHENOTYPES)].to_numpy(dtype=float)
    if not ((counts >= 0) & (counts == np.floor(counts))).all() or counts.sum() == 0:
        raise ValueError(f"{path}: count should hold whole numbers from zero, not all of them zero")
    return from_counts(counts.astype(int))


def data() -> dict[str, Any]:
    """Return the 197 animals."""
    return from_counts(COUNTS)


MODEL = vr.Model(
    function=linkage,
    name="linkage",
    data=data,
    load=load,
    simulate=simulate,
    parameters=("theta",),
    latents=("z",),
    description="Multinomial of genetic linkage, the first example of EM.",
    citation=(
        "Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM "
        "algorithm, Journal of the Royal Statistical Society B 39(1), 1-38, "
        "doi:10.1111/j.2517-6161.1977.tb01600.x; data: Rao (1965), Linear Statistical Inference "
        "and Its Applications"
    ),
)
MARGINAL = replace(MODEL, function=marginal, latents=())
