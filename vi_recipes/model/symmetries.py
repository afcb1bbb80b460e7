"""Components whose labels may be exchanged, though the model does not say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from vi_recipes.model.model import Exchangeable
from vi_recipes.model.target import Target

MOST_COMPONENTS = 12
"""Components of which it is asked whether they may be exchanged."""

MOST_CHOICES = 128
"""Choices of axes that are tried, at most."""

APART = 3.0
"""Sds between the means of two components from which their labels are another mode."""

NUM_POINTS = 2

ROUNDING = 1e-9
"""Relative difference of two log densities that is none."""


def other_labelling(
    target: Target, mean: Mapping[str, Any], sd: Mapping[str, Any]
) -> Exchangeable | None:
    """Return components whose labels may be exchanged and lie apart; ``None`` where there are none.

    The log density is the same wherever two components change places, at some points. Where the
    means of two are apart as well, the posterior has a mode for every order of them.

    Parameters
    ----------
    target
        A model that does not declare them.
    mean, sd
        Latent site -> of a posterior, or a part of one, constrained scale.
    """
    if target.exchangeable:
        return None
    apart = {
        (site.name, axis)
        for site in target.latents
        for axis in range(len(site.shape))
        if _lie_apart(np.asarray(mean[site.name]), np.asarray(sd[site.name]), axis)
    }
    for size in sorted({target.sites[name].shape[axis] for name, axis in apart}):
        for sites in _choices(target, size):
            if not apart.isdisjoint(sites.items()) and _is_same(target, sites, size, mean):
                return Exchangeable(sites=sites)
    return None


def undeclared(group: Exchangeable) -> tuple[str, str]:
    """Return what to say of components that a model does not declare, and what to do."""
    said = (
        f"components of {', '.join(group.sites)} may change places without changing the density, "
        "and lie apart: the posterior has a mode for every order of them"
    )
    advice = (
        f"declare them, Model(exchangeable=[Exchangeable(sites={dict(group.sites)})]), by which "
        "draws are put in one order; or order them in the model"
    )
    return said, advice


def _lie_apart(mean: np.ndarray, sd: np.ndarray, axis: int) -> bool:
    """Whether the means of some two components are far from each other."""
    if not 2 <= mean.shape[axis] <= MOST_COMPONENTS:
        return False
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.ptp(mean, axis=axis) / sd.max(axis=axis)
    return bool((gaps > APART).any())


def _choices(target: Target, size: int) -> Iterator[dict[str, int]]:
    """Yield choices of an axis of so many components for some sites, those of most sites first."""
    options = [
        [None, *(axis for axis, length in enumerate(site.shape) if length == size)]
        for site in target.latents
    ]
    if np.prod([float(len(axes)) for axes in options]) > MOST_CHOICES:
        options = [axes[-1:] for axes in options]
    names = [site.name for site in target.latents]
    found = [
        {n: axis for n, axis in zip(names, axes, strict=True) if axis is not None}
        for axes in product(*options)
    ]
    yield from sorted(filter(None, found), key=len, reverse=True)


def _is_same(target: Target, sites: Mapping[str, int], size: int, mean: Mapping[str, Any]) -> bool:
    """Whether the log density stays what it is as neighbouring components change places."""
    rng = np.random.default_rng(3)
    latents = [site.name for site in target.latents]
    centre = target.unconstrain({name: mean[name] for name in latents})
    # a transform that mixes the components of a site, as that of a simplex does, is not symmetric
    mixes = any(s.shape != s.unconstrained_shape for s in target.latents if s.name in sites)
    for _ in range(NUM_POINTS):
        z = centre + 0.1 * rng.standard_normal(target.dim)
        values = target.constrain(z)
        here = target.log_density(z, jacobian=not mixes)
        for first in range(size - 1):
            order = np.arange(size)
            order[[first, first + 1]] = first + 1, first
            swapped = {n: np.take(values[n], order, axis) for n, axis in sites.items()}
            try:
                moved = target.unconstrain({**{n: values[n] for n in latents}, **swapped})
            except ValueError:  # outside the support, as of what is ordered
                return False
            there = target.log_density(moved, jacobian=not mixes)
            if not abs(there - here) <= ROUNDING * max(1.0, abs(here)):
                return False
    return True
