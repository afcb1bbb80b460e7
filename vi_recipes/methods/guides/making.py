"""Guides made of what users give: names, families of blocks, classes, guides and functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import init_to_value

from vi_recipes.methods.guides.blocks import make_blocks
from vi_recipes.methods.guides.families import family_of
from vi_recipes.methods.guides.family import GuideFamily
from vi_recipes.methods.guides.sites import guided_function
from vi_recipes.model import Target


def families_in(spec: Any) -> list[GuideFamily]:
    """Return the families of a guide, however it is given; of a mapping those of its blocks."""
    parts = spec.values() if isinstance(spec, Mapping) else [spec]
    return [family_of(part) for part in parts]


def default_step_size(spec: Any) -> float:
    """Return Adam's first step size for a guide, however it is given, or the least of its blocks.

    It is larger where it can fall: for guides with locations and scales, which say when.
    """
    return min(family.step_size for family in families_in(spec))


def make_guide(
    spec: Any, target: Target, values: Mapping[str, Any], whole: Target | None = None
) -> Any:
    """Return a NumPyro guide for ``target``.

    Parameters
    ----------
    spec
        A name in :data:`~vi_recipes.methods.guides.families.GUIDES`, a mapping of site patterns to
        families of blocks, an autoguide class, an autoguide made for the target's model function,
        or a guide function that takes the model's keyword arguments.
    target
        What it is for.
    values
        Latent sites where the guide is centred at first, constrained.
    whole
        With all the rows, where ``target`` has those of a minibatch.
    """
    if isinstance(spec, Mapping):
        return make_blocks(spec, target, values, whole)
    make = family_of(spec).make if isinstance(spec, str) else spec
    if not isinstance(make, type):
        return make
    return make(guided_function(target), init_loc_fn=init_to_value(values=dict(values)))


def start_values(target: Target, start: np.ndarray) -> dict[str, jax.Array]:
    """Return the latent sites at ``start``, an unconstrained vector, on the constrained scale."""
    point = target.constrain(start)
    return {s.name: jnp.asarray(point[s.name], float) for s in target.latents}
