"""The latent sites of a guide that has been set up, and where its coordinates are in a target's."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int
from numpyro.infer import autoguide

from vi_recipes.model import Target


def latent_sites(guide: autoguide.AutoGuide) -> list[dict[str, Any]]:
    """Return the latent sites that a guide, or each guide of a list, has found at its set-up."""
    parts = (guide, *guide) if isinstance(guide, autoguide.AutoGuideList) else (guide,)
    return [
        site
        for part in parts
        for site in part.prototype_trace.values()
        if site["type"] == "sample" and not site["is_observed"]
    ]


def block_sites(part: autoguide.AutoGuide) -> list[str]:
    """Return the names of the latent sites of a guide that has been set up."""
    return [site["name"] for site in latent_sites(part)]


def places_of(part: autoguide.AutoContinuous, target: Target) -> Int[np.ndarray, " latent"]:
    """Return where in the target's vector each coordinate of a joint guide is.

    Guides order their vector by the sites as they met them, which is model order, or alphabetical
    where JAX has passed the sites through a dict.
    """
    places = np.empty(part.latent_dim, int)
    for name, spots in part._unpack_latent(np.arange(part.latent_dim)).items():
        site = target.slices[name]
        places[np.ravel(np.asarray(spots))] = np.arange(site.start, site.stop)
    return places
