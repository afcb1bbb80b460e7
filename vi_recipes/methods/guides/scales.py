"""Locations and scales of a guide's coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpyro.infer import autoguide

from vi_recipes.methods.guides.conditional import AutoConditionalNormal
from vi_recipes.methods.guides.structured import AutoFactors, block_sites

Params = Mapping[str, Any]

Scales = Mapping[str, Callable[[Params], Any]]
"""Location parameter -> the guide's sds on the parameter's scale, from constrained parameters."""


def location_scales(guide: Any) -> Scales | None:
    """Return the location parameters of a guide with their scales, ``None`` where it has none."""
    if isinstance(guide, autoguide.AutoGuideList):
        parts = [location_scales(part) for part in guide]
        known = [part for part in parts if part is not None]
        return {k: v for part in known for k, v in part.items()} if known == parts else None
    prefix = getattr(guide, "prefix", "")
    if isinstance(guide, AutoConditionalNormal):
        names = [f"{name}_{prefix}" for name in block_sites(guide)]
        return {f"{name}_loc": partial(_conditional_scale, name) for name in names}
    if isinstance(guide, autoguide.AutoNormal):
        names = [f"{name}_{prefix}" for name in block_sites(guide)]
        return {f"{name}_loc": partial(_entry, f"{name}_scale") for name in names}
    if isinstance(guide, AutoFactors):
        names = [f"{name}_{prefix}" for name in guide.sites]
        return {f"{name}_mean": partial(_factor_scale, guide, name) for name in names}
    if isinstance(guide, autoguide.AutoDiagonalNormal):
        return {f"{prefix}_loc": partial(_entry, f"{prefix}_scale")}
    if isinstance(guide, autoguide.AutoMultivariateNormal):
        return {f"{prefix}_loc": lambda p: np.linalg.norm(p[f"{prefix}_scale_tril"], axis=1)}
    if isinstance(guide, autoguide.AutoLowRankMultivariateNormal):
        return {f"{prefix}_loc": lambda p: np.sqrt(guide.get_posterior(p).variance)}
    return None


def _entry(name: str, params: Params) -> Any:
    return params[name]


def _conditional_scale(key: str, params: Params) -> np.ndarray:
    """Return the sds of conditional normals with the global variables averaged over."""
    scale, slope = (np.asarray(params[f"{key}_{what}"]) for what in ("scale", "slope"))
    return np.asarray(np.sqrt(scale**2 + (slope**2).sum(axis=-1)))


def _factor_scale(guide: AutoFactors, key: str, params: Params) -> np.ndarray:
    """Return about the sds of log or logit coordinates, from means and concentrations."""
    mean, size = (np.asarray(params[f"{key}_{what}"]) for what in ("mean", "concentration"))
    if guide.family == "gamma":
        return size**-0.5
    if guide.family == "beta":
        return np.asarray((size * mean * (1 - mean)) ** -0.5)
    return np.asarray((size[..., None] * mean * (1 - mean))[..., :-1] ** -0.5)
