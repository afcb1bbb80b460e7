"""The latent sites of a guide that has been set up, and where its coordinates are in a target's."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import numpyro
from jaxtyping import Int
from numpyro.infer import autoguide
from numpyro.primitives import Messenger

from vi_recipes.model import Target


class _Plates(Messenger):  # type: ignore[misc]
    """Note the plates that sites are in, and those that a trace shows."""

    def __init__(self) -> None:
        self.frames: dict[str, Any] = {}
        self.shown: set[str] = set()
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate":
            self.shown.add(msg["name"])
        elif msg["type"] == "sample":
            self.frames |= {frame.name: frame for frame in msg["cond_indep_stack"]}


def guided_function(target: Target) -> Callable[..., Any]:
    """Return the model function for SVI, where a guide looks for the plates of its sites.

    Those within a ``scan`` are not in a trace of the model: they are announced after it.
    """
    function = target.model.function
    if not target.has_scan:
        return function

    @wraps(function)
    def announced(*args: Any, **kwargs: Any) -> Any:
        plates = _Plates()
        with plates:
            value = function(*args, **kwargs)
        for name, frame in plates.frames.items():
            if name not in plates.shown:
                numpyro.plate(name, frame.size, dim=frame.dim)
        return value

    return announced


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
