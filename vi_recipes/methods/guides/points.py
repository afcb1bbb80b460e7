"""Guides that are fitted as points: a point itself, and the normal of the curvature at one."""

from __future__ import annotations

import jax
import numpy as np
from numpyro.infer import autoguide

from vi_recipes.methods.guides.coordinates import Coordinates, FittedGuide
from vi_recipes.methods.guides.sites import block_sites, places_of
from vi_recipes.modes import JointObjective, gaussian_at
from vi_recipes.posterior import PointPosterior, Posterior


def read_point(guide: autoguide.AutoDelta, fitted: FittedGuide) -> PointPosterior:
    """Return the point of :class:`numpyro.infer.autoguide.AutoDelta`, with what follows from it."""
    with fitted.timing.running():
        median = guide.median(fitted.params)
        latents = {name: np.asarray(value)[None] for name, value in median.items()}
        completed = fitted.target.complete(latents)
        return PointPosterior({name: np.asarray(value[0]) for name, value in completed.items()})


def place_points(part: autoguide.AutoDelta, at: Coordinates) -> None:
    """Read a block of points."""
    points = {name: at.params[f"{name}_{part.prefix}_loc"] for name in block_sites(part)}
    at.put_points(points, part.prefix)


def read_curvature(guide: autoguide.AutoLaplaceApproximation, fitted: FittedGuide) -> Posterior:
    """Return the normal of the curvature where the guide came to.

    NumPyro's own would zero the covariance of a singular Hessian.
    """
    z = np.empty(fitted.target.dim)
    z[places_of(guide, fitted.target)] = np.asarray(fitted.params[f"{guide.prefix}_loc"], float)
    with jax.enable_x64(True):
        return gaussian_at(JointObjective(fitted.target, fitted.timing, jacobian=True), z).posterior
