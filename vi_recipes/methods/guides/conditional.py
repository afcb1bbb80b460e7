"""Local variables that depend on the global ones in the guide: structured mean field.

The members of a plate are independent given the global variables, in many posteriors and here:

    q(eta) = Normal(m, L L')  or independent normals,   eps = L^-1 (eta - m)
    q(u_t | eta) = Normal(m_t + C_t eps, s_t)

on the unconstrained scale, eps being the global variables less their means, in units of their own
spread. That is linear in eta, and costs members by global coordinates.

References
----------
Hoffman, M. D. and Blei, D. M. (2015). Structured stochastic variational inference. AISTATS 18.
Ranganath, R., Tran, D. and Blei, D. M. (2016). Hierarchical variational models. ICML 33.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import biject_to
from numpyro.infer import autoguide

from vi_recipes.methods.guides.coordinates import Coordinates
from vi_recipes.methods.guides.family import Params, Scales
from vi_recipes.methods.guides.sites import block_sites
from vi_recipes.methods.guides.with_others import DrawnWithOthers


class AutoConditionalNormal(DrawnWithOthers, autoguide.AutoNormal):  # type: ignore[misc]
    """Normals whose locations are linear in standardised coordinates of other blocks.

    Its parameters are those of :class:`numpyro.infer.autoguide.AutoNormal`, the location at the
    mean of the global variables and the sd given them, and the slopes, the coordinates last.
    """

    def __call__(self, eps: jax.Array, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Draw the block's sites given ``eps``, shape (global coordinates,)."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        drawn = {}
        for name, start in self._init_locs.items():
            site, event_dim = self.prototype_trace[name], self._event_dims[name]
            shape, key = jnp.shape(start), f"{name}_{self.prefix}"
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                loc = numpyro.param(f"{key}_loc", start, event_dim=event_dim)
                scale = numpyro.param(
                    f"{key}_scale",
                    jnp.full(shape, self._init_scale),
                    constraint=self.scale_constraint,
                    event_dim=event_dim,
                )
                slope = numpyro.param(
                    f"{key}_slope", jnp.zeros((*shape, eps.size)), event_dim=event_dim + 1
                )
                law = dist.Normal(loc + slope @ eps, scale).to_event(event_dim)
                to_support = biject_to(site["fn"].support)
                drawn[name] = numpyro.sample(name, dist.TransformedDistribution(law, to_support))
        return drawn


# -- what is read off it -----------------------------------------------------------------------


def place_conditional(part: AutoConditionalNormal, at: Coordinates) -> None:
    """Read a block after those that it depends on, whose noise it shares."""
    shared = []
    for block, name in at.guide.parents(part):
        key = f"{name}_{block.prefix}" if name else block.prefix
        shared.append(at.share(key, name))
    ends = np.cumsum([root.shape[1] for root in shared])[:-1]
    for name in block_sites(part):
        key, place = f"{name}_{part.prefix}", at.target.slices[name]
        at.put_normals(place, f"{key}_loc", at.params[f"{key}_scale"])
        slope = at.params[f"{key}_slope"]
        slopes = np.split(slope.reshape(-1, slope.shape[-1]), ends, axis=1)
        for root, columns in zip(shared, slopes, strict=True):
            root[place] = columns


def conditional_scales(guide: AutoConditionalNormal) -> Scales:
    """Return its locations, with their sds once the global variables are averaged over."""
    names = [f"{name}_{guide.prefix}" for name in block_sites(guide)]
    return {f"{name}_loc": partial(_marginal_sd, name) for name in names}


def _marginal_sd(key: str, params: Params) -> np.ndarray:
    scale, slope = (np.asarray(params[f"{key}_{what}"]) for what in ("scale", "slope"))
    return np.asarray(np.sqrt(scale**2 + (slope**2).sum(axis=-1)))
