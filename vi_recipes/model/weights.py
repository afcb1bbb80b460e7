"""Weights of rows: what ``handlers.scale`` and masks mean around a variable that is integrated out.

NumPyro multiplies the log density of every site by its scale and mask. Within a sum over states, or
an integral, that would raise each term to a power; whoever weighs a row means its marginal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Float

from vi_recipes.core import ModelError

SiteWeights = dict[str, np.ndarray]
"""Site -> the weight of every element of its log density, from scales and masks."""

SAME = 1e-9
"""Relative difference of weights that counts as none."""


def unmasked(fn: Any) -> tuple[Any, Any]:
    """Return a distribution without the masks of its elements, and their product or ``None``."""
    if isinstance(fn, dist.MaskedDistribution):
        inner, mask = unmasked(fn.base_dist)
        own = jnp.asarray(fn._mask, float)
        return inner, own if mask is None else own * mask
    if isinstance(fn, dist.ExpandedDistribution):
        inner, mask = unmasked(fn.base_dist)
        return (fn, None) if mask is None else (inner.expand(fn.batch_shape), mask)
    return fn, None


def weights_of(trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Return the weight of every element of the sites' log densities; pure."""
    weights = {}
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        weight = jnp.asarray(1.0 if site["scale"] is None else site["scale"], float)
        fn, mask = unmasked(site["fn"])
        weight = weight if mask is None else weight * mask
        shape = jax.eval_shape(fn.log_prob, site["value"]).shape
        weights[name] = jnp.broadcast_to(weight, jnp.broadcast_shapes(shape, weight.shape))
    return weights


def weights_of_members(
    weights: SiteWeights,
    index: Mapping[str, np.ndarray],
    latents: Collection[str],
    num_members: int,
    plates: Mapping[str, Collection[str]],
) -> Float[np.ndarray, " members"] | None:
    """Return the weight of every member's marginal; ``None`` where all are 1.

    Parameters
    ----------
    weights
        Of all sites.
    index
        Site -> member that each element belongs to; negative for none.
    latents
        Sites that are integrated out.
    num_members
        How many members there are.
    plates
        Site -> names of its plates.

    Raises
    ------
    ModelError
        Where the weights are not the rows'.
    """
    listed = ", ".join(f"'{name}'" for name in latents)
    member = np.full(num_members, np.nan)
    for name in latents:
        place, weight = _matched(weights[name], index.get(name), name)
        for t, w in zip(place[place >= 0], weight[place >= 0], strict=True):
            if not np.isnan(member[t]) and not np.isclose(member[t], w, rtol=SAME, atol=0):
                raise ModelError(
                    f"site {listed} is integrated out, and handlers.scale or a mask gives its "
                    f"elements of one member the weights {member[t]:g} and {w:g}: a row has one"
                )
            member[t] = w
    member = np.nan_to_num(member, nan=1.0)
    if (member < 0).any():
        raise ModelError(f"site {listed} has a negative weight (handlers.scale): {member.min():g}")
    plain = bool((member == 1).all())
    for name, place in index.items():
        if name in latents:
            continue
        place, weight = _matched(weights[name], place, name)
        place, weight = place[place >= 0], weight[place >= 0]
        if not plain and not np.allclose(weight, member[place], rtol=SAME, atol=0):
            k = int(np.argmax(~np.isclose(weight, member[place], rtol=SAME, atol=0)))
            raise ModelError(
                f"site {listed} is integrated out with weight {member[place[k]]:g} (handlers.scale "
                f"or a mask), and '{name}', which depends on it, has weight {weight[k]:g} there: "
                "the weight of a row is that of all its terms. Put both under one scale or mask"
            )
        inside = set(plates.get(name, ())) <= set(plates.get(next(iter(latents)), ()))
        inside = inside and bool((np.bincount(place) <= 1).all())
        if plain and inside and not np.isin(weight, (0.0, 1.0)).all():
            raise ModelError(
                f"site '{name}' is weighted by handlers.scale, and {listed}, which is integrated "
                "out of the same rows, is not: within the sum or integral that is no weight of the "
                f"row. Put {listed} under the same scale"
            )
    return None if plain else member


def _matched(
    weight: np.ndarray, place: np.ndarray | None, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the members and the weights of the elements, in one shape."""
    if place is None:
        return np.full(1, -1), np.ones(1)
    try:
        shape = np.broadcast_shapes(place.shape, weight.shape)
    except ValueError:
        raise ModelError(
            f"site '{name}': its weights (handlers.scale or a mask) have shape {weight.shape}, its "
            f"log density {place.shape}"
        ) from None
    return np.broadcast_to(place, shape).ravel(), np.broadcast_to(weight, shape).ravel()
