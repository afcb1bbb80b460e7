"""What each site's log density takes in: its value and its distribution's parameters, as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from vi_recipes.model.bound import Arrays
from vi_recipes.model.density import FlatDensity


@dataclass
class SiteInputs:
    """One sample site of a trace, taken apart.

    Parameters
    ----------
    name
        The site.
    leaves
        The value (unconstrained for a latent site) and the distribution's own arrays.
    shape
        Shape of an elementwise log density; ``None`` where elements are vectors or whole sites.
    rebuild
        Leaves -> elementwise log density, the Jacobian of a latent site's support in it.
    weight
        Of the site's log density, from masks and ``handlers.scale``; broadcasts to ``shape``.
    total
        The site's whole log density, as the trace has it.
    """

    name: str
    leaves: list[jax.Array]
    shape: tuple[int, ...] | None
    rebuild: Callable[[list[jax.Array]], jax.Array]
    weight: jax.Array
    total: jax.Array


def trace_sites(target: FlatDensity, z: jax.Array, arrays: Arrays) -> dict[str, SiteInputs]:
    """Return the sample sites of the model at ``z``, taken apart; pure, to be transformed."""
    unconstrained = target.unravel(z)
    values = target.constrain_fn(z, arrays)
    latent = {site.name: values[site.name] for site in target.latents}
    model = handlers.substitute(target.seeded, data=latent)
    with jax.numpy_rank_promotion("allow"):
        trace = handlers.trace(model).get_trace(**target.keywords(arrays))
        return {
            name: _take_apart(name, site, unconstrained.get(name))
            for name, site in trace.items()
            if site["type"] == "sample"
        }


def _take_apart(name: str, site: dict[str, Any], z: jax.Array | None) -> SiteInputs:
    value, scale = site["value"], site["scale"]
    shape: tuple[int, ...] | None = tuple(jnp.shape(value))
    weight = jnp.asarray(1.0 if scale is None else scale)
    fn, masks = site["fn"], []
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(fn, dist.MaskedDistribution):
            mask = jnp.asarray(fn._mask, float)
            masks.append(mask.reshape(mask.shape + (1,) * fn.event_dim))
        fn = fn.base_dist
    bijector = None if z is None else biject_to(site["fn"].support)
    total = (
        jnp.sum(site["fn"].log_prob(value))
        if scale is None
        else jnp.sum(scale * site["fn"].log_prob(value))
    )
    if bijector is not None:
        jacobian = jnp.sum(bijector.log_abs_det_jacobian(z, value))
        total = total + jacobian
    leaves, tree = jax.tree.flatten(fn)
    elementwise = (
        fn.event_dim == 0
        and not isinstance(fn, dist.Unit)
        and (z is None or (jnp.shape(z) == shape and scale is None and not masks))
        and all(_fits(jnp.shape(leaf), shape) for leaf in leaves)
    )
    if not elementwise:
        return SiteInputs(name, [], None, lambda leaves: total, jnp.asarray(1.0), total)
    weight = weight.reshape(weight.shape + (1,) * (site["fn"].event_dim if weight.ndim else 0))
    for mask in masks:
        weight = weight * mask
    base = None if z is None else biject_to(fn.support)
    leaves = [value if z is None else z, *leaves]

    def rebuild(leaves: list[jax.Array]) -> jax.Array:
        law = jax.tree.unflatten(tree, leaves[1:])
        with jax.numpy_rank_promotion("allow"):
            if base is None:
                return jnp.asarray(law.log_prob(leaves[0]))
            x = base(leaves[0])
            return jnp.asarray(law.log_prob(x) + base.log_abs_det_jacobian(leaves[0], x))

    return SiteInputs(name, leaves, shape, rebuild, weight, total)


def _fits(leaf: tuple[int, ...], shape: tuple[int, ...] | None) -> bool:
    try:
        return shape is not None and np.broadcast_shapes(leaf, shape) == shape
    except ValueError:
        return False
