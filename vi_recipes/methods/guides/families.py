"""Guides by name, and what a fitted guide says of the posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import autoguide, init_to_value

from vi_recipes.methods.guides.structured import (
    BLOCK_FAMILIES,
    FALLING,
    STEADY,
    family_name,
    make_structured,
)
from vi_recipes.model import Target


@dataclass(frozen=True)
class GuideFamily:
    """A named family of guides.

    Parameters
    ----------
    make
        ``make(model, init_loc_fn=...) -> guide``.
    about
        What it can represent, what it costs and what it gets wrong; without a full stop.
    step_size
        Of Adam at first, where the user says nothing.
    """

    make: Callable[..., Any]
    about: str
    step_size: float = STEADY


GUIDES: dict[str, GuideFamily] = {
    "normal": GuideFamily(
        autoguide.AutoNormal,
        "independent normals on the unconstrained scale (mean field). Cheapest: two parameters a "
        "coordinate. Understates the variance of anything correlated",
        step_size=FALLING,
    ),
    "multivariate_normal": GuideFamily(
        autoguide.AutoMultivariateNormal,
        "one normal with full covariance. Keeps linear correlation; dim^2 parameters. Misses "
        "skewness and funnels",
        step_size=FALLING,
    ),
    "lowrank_normal": GuideFamily(
        autoguide.AutoLowRankMultivariateNormal,
        "a normal with diagonal plus rank-sqrt(dim) covariance. Between the two in cost, dim^1.5 "
        "parameters. Loses the weaker correlations",
        step_size=FALLING,
    ),
    "delta": GuideFamily(
        autoguide.AutoDelta,
        "a point mass on the constrained scale: MAP by stochastic gradient. As cheap as can be. "
        "No spread, and no mode where the density has none",
    ),
    "laplace": GuideFamily(
        autoguide.AutoLaplaceApproximation,
        "a point found by SVI on the unconstrained scale, then the normal of the curvature there. "
        "One Hessian more than a point. Absent where that is singular; misses skewness",
    ),
    "iaf": GuideFamily(
        autoguide.AutoIAFNormal,
        "an inverse autoregressive flow: skewness and funnels too. Three networks of dim^2 "
        "weights, slow to train. Its optimum depends on the start",
        step_size=0.002,
    ),
    "bnaf": GuideFamily(
        autoguide.AutoBNAFNormal,
        "a block neural autoregressive flow: bends further than iaf. 64 dim^2 weights, slow to "
        "compile and to train. Its optimum depends on the start, and its tails may be too light",
    ),
    "dais": GuideFamily(
        autoguide.AutoDAIS,
        "independent normals moved towards the posterior by four annealed steps of Hamiltonian "
        "dynamics: correlation and skewness. Four gradients of the model a draw, differentiated. "
        "Its ELBO is looser than its draws deserve, and it still falls short on strong correlation",
    ),
}


def default_step_size(guide: Any) -> float:
    """Return Adam's first step size for a guide, however it is given, or the least of its blocks.

    It is larger where it can fall: for guides with locations and scales, which say when.
    """
    if isinstance(guide, Mapping):
        return min(BLOCK_FAMILIES[family_name(family)].step_size for family in guide.values())
    if isinstance(guide, str):
        return GUIDES[guide].step_size
    kind = guide if isinstance(guide, type) else type(guide)
    named = [
        f.step_size
        for f in GUIDES.values()
        if isinstance(f.make, type) and issubclass(kind, f.make)
    ]
    return named[0] if named else STEADY


def make_guide(
    spec: Any, target: Target, values: Mapping[str, Any], whole: Target | None = None
) -> Any:
    """Return a NumPyro guide for ``target``.

    Parameters
    ----------
    spec
        A name in :data:`GUIDES`, a mapping of site patterns to families of blocks, an autoguide
        class, an autoguide made for the target's model function, or a guide function that takes
        the model's keyword arguments.
    values
        Latent sites where the guide is centred at first, constrained.
    whole
        With all the rows, where ``target`` has those of a minibatch.
    """
    family = GUIDES[spec].make if isinstance(spec, str) else spec
    if isinstance(family, Mapping):
        return make_structured(family, target, values, whole)
    if not isinstance(family, type):
        return family
    return family(target.model.function, init_loc_fn=init_to_value(values=dict(values)))


def start_values(target: Target, start: np.ndarray) -> dict[str, jax.Array]:
    """Return the latent sites at ``start``, an unconstrained vector, on the constrained scale."""
    point = target.constrain(start)
    return {s.name: jnp.asarray(point[s.name], float) for s in target.latents}
