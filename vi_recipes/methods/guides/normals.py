"""Guides of normals on the unconstrained scale: what is read off them, and their scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpyro.infer import autoguide

from vi_recipes.methods.guides.coordinates import Coordinates, FittedGuide
from vi_recipes.methods.guides.family import Params, Parent, Scales
from vi_recipes.methods.guides.sites import block_sites, places_of
from vi_recipes.posterior import GaussianPosterior


def reader(
    place: Callable[[Any, Coordinates], None],
) -> Callable[[Any, FittedGuide], GaussianPosterior]:
    """Return ``(guide, fitted) -> posterior`` of a guide of normals that ``place`` reads."""

    def read(guide: Any, fitted: FittedGuide) -> GaussianPosterior:
        with fitted.timing.running():
            coordinates = Coordinates(guide, fitted)
            place(guide, coordinates)
            require_all(coordinates.missing)
            return coordinates.gaussian()

    return read


def require_all(missing: Sequence[str]) -> None:
    """Raise a :class:`ValueError` where latent sites have no law in a guide."""
    if missing:
        raise ValueError(
            f"guide: it has no sample site for latent site(s) {', '.join(missing)} of the model; "
            "every latent site needs one of the same name"
        )


def entry(name: str, params: Params) -> Any:
    """Return a parameter that is a scale itself."""
    return params[name]


# -- independent, site by site ---------------------------------------------------------------------


def place_normal(part: autoguide.AutoNormal, at: Coordinates) -> None:
    """Read :class:`numpyro.infer.autoguide.AutoNormal`."""
    for name in block_sites(part):
        key = f"{name}_{part.prefix}"
        at.put_normals(at.target.slices[name], f"{key}_loc", at.params[f"{key}_scale"])


def normal_scales(guide: autoguide.AutoNormal) -> Scales:
    """Return its locations, which have scales of their own."""
    names = [f"{name}_{guide.prefix}" for name in block_sites(guide)]
    return {f"{name}_loc": partial(entry, f"{name}_scale") for name in names}


def normal_parents(block: autoguide.AutoNormal, sites: Sequence[str]) -> list[Parent]:
    """Return each of the sites by itself."""
    return [(block, name) for name in sites]


# -- over one vector ---------------------------------------------------------------------------


def place_diagonal(part: autoguide.AutoDiagonalNormal, at: Coordinates) -> None:
    """Read :class:`numpyro.infer.autoguide.AutoDiagonalNormal`."""
    scale = at.params[f"{part.prefix}_scale"]
    at.put_normals(places_of(part, at.target), f"{part.prefix}_loc", scale)


def diagonal_scales(guide: autoguide.AutoDiagonalNormal) -> Scales:
    """Return its locations, which have scales of their own."""
    return {f"{guide.prefix}_loc": partial(entry, f"{guide.prefix}_scale")}


def place_multivariate(part: autoguide.AutoMultivariateNormal, at: Coordinates) -> None:
    """Read :class:`numpyro.infer.autoguide.AutoMultivariateNormal`."""
    places = places_of(part, at.target)
    at.put_normals(places, f"{part.prefix}_loc", np.zeros(len(places)))
    at.put_root(part.prefix, places, at.params[f"{part.prefix}_scale_tril"])


def multivariate_scales(guide: autoguide.AutoMultivariateNormal) -> Scales:
    """Return its locations with their marginal sds."""
    root = f"{guide.prefix}_scale_tril"
    return {f"{guide.prefix}_loc": lambda params: np.linalg.norm(params[root], axis=1)}


def multivariate_parents(
    block: autoguide.AutoMultivariateNormal, sites: Sequence[str]
) -> list[Parent]:
    """Return all its sites together, where all of them may be depended on."""
    return [(block, "")] if len(sites) == len(block._init_locs) else []


def place_lowrank(part: autoguide.AutoLowRankMultivariateNormal, at: Coordinates) -> None:
    """Read :class:`numpyro.infer.autoguide.AutoLowRankMultivariateNormal`."""
    places, q = places_of(part, at.target), part.get_posterior(at.params)
    sd = np.sqrt(np.asarray(q.cov_diag, float))
    at.put_normals(places, f"{part.prefix}_loc", sd)
    at.put_root(part.prefix, places, np.asarray(q.cov_factor, float))


def lowrank_scales(guide: autoguide.AutoLowRankMultivariateNormal) -> Scales:
    """Return its locations with their marginal sds."""
    return {
        f"{guide.prefix}_loc": lambda params: np.sqrt(guide.get_posterior(params).variance),
    }
