"""The terms of the log density, site by site: each one's value, its distribution's arrays, its law.

A model's log joint density is a sum over its sample sites. What a site adds is a function of few
arrays, its leaves: the site's value and its distribution's own parameters, as the model makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import constrain_fn

from vi_recipes.model.bound import Arrays
from vi_recipes.model.density import FlatDensity, log_det_name

KINKED = (dist.Laplace, dist.AsymmetricLaplace, dist.AsymmetricLaplaceQuantile)
"""Distributions whose log density has a kink where a value is at their location."""


@dataclass
class SiteTerm:
    """What one sample site adds to the log density, taken apart.

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
    whole
        () -> the site's whole log density, as the trace has it.
    """

    name: str
    leaves: list[Array]
    shape: tuple[int, ...] | None
    rebuild: Callable[[list[Array]], Array]
    weight: Array
    whole: Callable[[], Float[Array, ""]]

    @property
    def total(self) -> Float[Array, ""]:
        """The site's whole log density: traced where it is asked for, and nowhere else."""
        return self.whole()


def site_terms(target: FlatDensity, z: Float[Array, " dim"], arrays: Arrays) -> dict[str, SiteTerm]:
    """Return the terms of the log density at ``z``; pure, to be transformed.

    Sample site -> its term, observed sites and factors among them. Their totals add up to the log
    joint density over the unconstrained scale.
    """
    return terms_of_sites(target, target.unravel(z), arrays)


def terms_of_sites(
    target: FlatDensity, unconstrained: Mapping[str, Array], arrays: Arrays
) -> dict[str, SiteTerm]:
    """Return the same from unconstrained site values, which can be moved one site at a time."""
    with jax.numpy_rank_promotion("allow"):
        sites = _sites_at(target, unconstrained, arrays)
        return {
            name: _take_apart(name, site, unconstrained.get(name)) for name, site in sites.items()
        }


class SiteInputs(NamedTuple):
    """What a sample site's log density is made of, without the density.

    Parameters
    ----------
    leaves
        The value and the distribution's own arrays, as :attr:`SiteTerm.leaves` has them where it
        has some.
    weights
        Masks and scale.
    within
        The log density itself of a distribution that is not NumPyro's own; of one of those that
        have a kink (:data:`KINKED`), absolute values of what it is made of.
    bounds
        Of the support of an observed value: no transform keeps it inside.

    Notes
    -----
    What is masked as a whole is made of zeros.
    """

    leaves: list[Array]
    weights: list[Array]
    within: list[Array]
    bounds: list[Array]


def site_inputs(
    target: FlatDensity, values: Mapping[str, Array], arrays: Arrays
) -> dict[str, SiteInputs]:
    """Return what the log density of every sample site is made of; pure, to be traced.

    ``values`` are those of the latent sites, on the constrained scale.
    """
    out = {}
    with jax.numpy_rank_promotion("allow"):
        for name, site in _sample_sites(target, values, arrays).items():
            fn, masks = _unwrap(site["fn"])
            weights = [*masks, jnp.asarray(1.0 if site["scale"] is None else site["scale"])]
            leaves = [site["value"], *jax.tree.leaves(_opened(fn))]
            if _is_left_out(site["fn"]):
                out[name] = SiteInputs([jnp.zeros(()) for _ in leaves], [], [], [])
                continue
            own = type(fn).__module__.startswith("numpyro.")
            within = [] if own else [fn.log_prob(site["value"])]
            kinks = [jnp.abs(leaf) for leaf in leaves] if _has_kink(fn) else []
            support = site["fn"].support if site["is_observed"] else None
            bounds = [jnp.asarray(bound) for bound in jax.tree.leaves(support)]
            out[name] = SiteInputs(leaves, weights, within + kinks, bounds)
    return out


def _sites_at(
    target: FlatDensity, unconstrained: Mapping[str, Array], arrays: Arrays
) -> dict[str, dict[str, Any]]:
    """Return the sample sites where the latent ones have these values, by one run of the model."""
    watch = handlers.trace(target.seeded)
    constrain_fn(watch, (), target.keywords(arrays), unconstrained)
    jacobians = {log_det_name(name) for name in unconstrained}
    return {
        name: site
        for name, site in watch.trace.items()
        if site["type"] == "sample" and name not in jacobians
    }


def _sample_sites(
    target: FlatDensity, values: Mapping[str, Array], arrays: Arrays
) -> dict[str, dict[str, Any]]:
    latent = {site.name: values[site.name] for site in target.latents}
    model = handlers.substitute(target.seeded, data=latent)
    trace = handlers.trace(model).get_trace(**target.keywords(arrays))
    return {name: site for name, site in trace.items() if site["type"] == "sample"}


def _is_left_out(fn: Any) -> bool:
    """Whether a distribution's density is masked as a whole, so that it is 1 whatever goes in."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(fn, dist.MaskedDistribution) and fn._mask is False:
            return True
        fn = fn.base_dist
    return False


def _unwrap(fn: Any) -> tuple[Any, list[Array]]:
    """Return the distribution within wrappers, and the masks that they hold."""
    masks = []
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(fn, dist.MaskedDistribution):
            mask = jnp.asarray(fn._mask, float)
            masks.append(mask.reshape(mask.shape + (1,) * fn.event_dim))
        fn = fn.base_dist
    return fn, masks


def _opened(law: Any) -> Any:
    """Return a distribution's fields by name, those of distributions within it too.

    JAX takes them in the order of their names. NumPyro has the names in a set, whose order is
    another in every process, and so is the code: what one process has compiled no other would find.
    """
    if not _has_names(law):
        return law
    return {name: _opened(field) for name, field in _fields(law).items()}


def _closed(law: Any, opened: Any) -> Any:
    """Return a distribution such as ``law`` with the fields of :func:`_opened`."""
    if not _has_names(law):
        return opened
    fields = [_closed(field, opened[name]) for name, field in _fields(law).items()]
    return type(law).tree_unflatten(law.tree_flatten()[1], tuple(fields))


def _has_names(law: Any) -> bool:
    """Whether a thing is a distribution that JAX takes apart by the names of its fields."""
    return (
        isinstance(law, dist.Distribution)
        and type(law).tree_flatten is dist.Distribution.tree_flatten
    )


def _has_kink(law: Any) -> bool:
    """Whether a distribution, or one within it, is of those whose log densities have a kink."""
    inner = _fields(law).values() if _has_names(law) else ()
    return isinstance(law, KINKED) or any(map(_has_kink, inner))


def _fields(law: dist.Distribution) -> dict[str, Any]:
    names = type(law).gather_pytree_data_fields()
    return dict(zip(names, law.tree_flatten()[0], strict=True))


def _shows_all(law: Any) -> bool:
    """Whether all arrays of a distribution are among the fields that JAX takes it apart by.

    Those of a user's may not be: without ``pytree_data_fields`` it cannot be put together again.
    """
    if type(law).__module__.startswith("numpyro.") or not _has_names(law):
        return True
    known = {*law.gather_pytree_data_fields(), *law.gather_pytree_aux_fields()}
    held = jax.Array | np.ndarray | dist.Distribution
    return not any(isinstance(v, held) for name, v in vars(law).items() if name not in known)


def _take_apart(name: str, site: dict[str, Any], z: Array | None) -> SiteTerm:
    value, scale = site["value"], site["scale"]
    shape: tuple[int, ...] | None = tuple(jnp.shape(value))
    weight = jnp.asarray(1.0 if scale is None else scale)
    fn, masks = _unwrap(site["fn"])
    bijector = None if z is None else biject_to(site["fn"].support)

    def whole() -> Array:
        with jax.numpy_rank_promotion("allow"):
            log_prob = site["fn"].log_prob(value)
            total = jnp.sum(log_prob if scale is None else scale * log_prob)
            if bijector is None:
                return total
            return total + jnp.sum(bijector.log_abs_det_jacobian(z, value))

    leaves, tree = jax.tree.flatten(_opened(fn))
    elementwise = (
        fn.event_dim == 0
        and not isinstance(fn, dist.Unit)
        and _shows_all(fn)
        and (z is None or (jnp.shape(z) == shape and scale is None and not masks))
        and all(_fits(jnp.shape(leaf), shape) for leaf in leaves)
    )
    if not elementwise:
        return SiteTerm(name, [], None, lambda leaves: whole(), jnp.asarray(1.0), whole)
    weight = weight.reshape(weight.shape + (1,) * (site["fn"].event_dim if weight.ndim else 0))
    for mask in masks:
        weight = weight * mask
    leaves = [value if z is None else z, *leaves]

    def rebuild(leaves: list[Array]) -> Array:
        law = _closed(fn, jax.tree.unflatten(tree, leaves[1:]))
        with jax.numpy_rank_promotion("allow"):
            if z is None:
                return jnp.asarray(law.log_prob(leaves[0]))
            base = biject_to(law.support)  # its bounds may be among the leaves
            x = base(leaves[0])
            return jnp.asarray(law.log_prob(x) + base.log_abs_det_jacobian(leaves[0], x))

    return SiteTerm(name, leaves, shape, rebuild, weight, whole)


def _fits(leaf: tuple[int, ...], shape: tuple[int, ...] | None) -> bool:
    try:
        return shape is not None and np.broadcast_shapes(leaf, shape) == shape
    except ValueError:
        return False
