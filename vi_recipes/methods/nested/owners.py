"""Which member every reported scalar belongs to."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from vi_recipes.core import COMPILED_QUICKLY
from vi_recipes.latent import Split
from vi_recipes.model import NO_SLOPE, Arrays, one_coordinate

OF_THETA = -1
"""In place of a member: a scalar is a function of theta."""

OF_SEVERAL = -2
"""In place of a member: a scalar depends on several, or by steps. It has its moments from draws."""

SPREADS = (0.1, 0.3, 1.0, 1.0, 2.0)
"""Spreads of the points around the start where it is looked which member it is."""


def owners(split: Split, *, is_normal: bool) -> Int[np.ndarray, " scalars"]:
    """Return the member that every reported scalar belongs to given theta, in order of report.

    :data:`OF_THETA` or :data:`OF_SEVERAL` where it is none. Scalars of one coordinate have its
    member; of others the slopes along the members' coordinates tell.

    Parameters
    ----------
    split
        The members.
    is_normal
        Whether they are normal given theta. Each coordinate then has a marginal law of its own, and
        what depends on several of a member is of several.
    """
    target = split.target
    member = np.full(target.dim, OF_THETA)
    if split.kind == "continuous":
        member[split.local] = np.arange(split.num_members)[:, None]
    coordinate = {s.name: target.coordinate_of[s.name].ravel() for s in target.quantities}
    owner = {
        n: np.where(j >= 0, member[np.maximum(j, 0)], OF_SEVERAL) for n, j in coordinate.items()
    }
    unknown = [n for n, j in coordinate.items() if (j < 0).any()]
    if split.kind != "continuous":
        return np.full(sum(j.size for j in coordinate.values()), OF_THETA)
    slopes = _slopes(split, unknown) if unknown else {}
    random = slopes.pop("", np.zeros(0))
    for name in unknown:
        several = coordinate[name] < 0
        if not slopes[name] or name in target.flows.stepped_values:
            continue
        found = one_coordinate(slopes[name], random, split.num_members)
        if found is None:
            continue
        whole = OF_SEVERAL if is_normal and split.width > 1 else found
        own = np.where(found >= 0, whole, np.where(found == NO_SLOPE, OF_THETA, OF_SEVERAL))
        owner[name] = np.where(several, own, owner[name])
    return np.concatenate([owner[s.name] for s in target.quantities])


def _slopes(split: Split, names: list[str]) -> dict[str, Any]:
    """Return slopes of sites along the members' coordinates, at some points; "" is a direction.

    Along ones, along the members' numbers (from one) and along a random direction.
    """
    target, members = split.target, split.num_members
    rng = np.random.default_rng(5)
    weight = rng.uniform(0.5, 1.5, split.width)
    random = rng.standard_normal(members)
    along = np.stack([np.ones(members), np.arange(1.0, members + 1), random])
    directions = np.zeros((3, target.dim))
    directions[:, split.local] = along[:, :, None] * weight

    def probe(z: jax.Array, directions: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
        def sites(z: jax.Array) -> dict[str, jax.Array]:
            values = target.constrain_fn(z, arrays)
            return {name: values[name].ravel() for name in names}

        push = jax.linearize(sites, z)[1]
        return dict(jax.lax.map(push, directions))

    compiled = jax.jit(probe, compiler_options=COMPILED_QUICKLY)
    start, arrays = target.anywhere(), target.arrays()
    slopes: dict[str, Any] = {name: [] for name in names}
    for spread in SPREADS:
        z = jnp.asarray(start + spread * rng.standard_normal(target.dim))
        for name, value in compiled(z, jnp.asarray(directions), arrays).items():
            if np.isfinite(value).all():
                slopes[name].append(np.asarray(value))
    return slopes | {"": random}
