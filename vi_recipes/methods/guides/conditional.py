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

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, override

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer import autoguide

Parent = tuple[autoguide.AutoGuide, str]
"""A block that others depend on, and the site of it; no name stands for all its sites together."""


class AutoConditionalNormal(autoguide.AutoNormal):  # type: ignore[misc]
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

    @override
    def sample_posterior(
        self,
        rng_key: jax.Array,
        params: Mapping[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Refuse: without the other blocks there is nothing to draw from."""
        raise NotImplementedError("drawn with the other blocks: use numpyro.infer.Predictive")


class AutoStructured(autoguide.AutoGuideList):  # type: ignore[misc]
    """NumPyro's list of blocks, of which some may depend on others.

    Blocks of :class:`AutoConditionalNormal` depend on the sites of blocks of normals, joint or
    independent, that share no plate with them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.conditional: list[AutoConditionalNormal] = []
        super().__init__(*args, **kwargs)

    @override
    def append(self, part: autoguide.AutoGuide) -> None:
        """Add a block."""
        if isinstance(part, AutoConditionalNormal):
            self.conditional.append(part)
        else:
            super().append(part)

    def __iter__(self) -> Iterator[autoguide.AutoGuide]:
        yield from self._guides
        yield from self.conditional

    def __len__(self) -> int:
        return len(self._guides) + len(self.conditional)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Draw all blocks, those that depend on others after these."""
        with handlers.trace() as trace:
            drawn: dict[str, Any] = super().__call__(*args, **kwargs)
        for part in self.conditional:
            if part.prototype_trace is None:
                part._setup_prototype(*args, **kwargs)
            eps = [_standardise(parent, trace) for parent in self.parents(part)]
            drawn.update(part(jnp.concatenate(eps), *args, **kwargs))
        return drawn

    def parents(self, part: AutoConditionalNormal) -> list[Parent]:
        """Return what a block depends on, in the order of its slopes."""
        own = set().union(*(_plates(part, name) for name in part._init_locs))
        found: list[Parent] = []
        for block in self._guides:
            apart = [name for name in block._init_locs if not own & _plates(block, name)]
            if isinstance(block, autoguide.AutoNormal):
                found += [(block, name) for name in apart]
            elif isinstance(block, autoguide.AutoMultivariateNormal):
                found += [(block, "")] if len(apart) == len(block._init_locs) else []
        return found


def _plates(block: autoguide.AutoGuide, name: str) -> set[str]:
    return {frame.name for frame in block.prototype_trace[name]["cond_indep_stack"]}


def _standardise(parent: Parent, trace: Mapping[str, Any]) -> jax.Array:
    """Return the coordinates of a parent that has been drawn as standard normals."""
    block, name = parent
    if not name:
        loc, root = (trace[f"{block.prefix}_{what}"]["value"] for what in ("loc", "scale_tril"))
        away = trace[f"_{block.prefix}_latent"]["value"] - loc
        return solve_triangular(root, away, lower=True)
    key = f"{name}_{block.prefix}"
    loc, scale = (trace[f"{key}_{what}"]["value"] for what in ("loc", "scale"))
    to_support = biject_to(block.prototype_trace[name]["fn"].support)
    return jnp.ravel((to_support.inv(trace[name]["value"]) - loc) / scale)
