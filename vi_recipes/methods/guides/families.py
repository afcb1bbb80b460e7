"""Guides by name, and what a fitted guide says of the posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import Predictive, autoguide, init_to_value

from vi_recipes.algebra.normals import WeighedDraws
from vi_recipes.methods.guides.structured import (
    BLOCK_FAMILIES,
    FALLING,
    STEADY,
    family_name,
    make_structured,
)
from vi_recipes.methods.reading import read_structured
from vi_recipes.model.target import Target
from vi_recipes.posterior.base import DrawsPosterior, GaussianPosterior, PointPosterior, Posterior

NUM_DRAWS = 4_000


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


def flat_order(guide: autoguide.AutoContinuous, target: Target) -> np.ndarray:
    """Return where in the guide's flat vector each coordinate of the target's is.

    Guides order their vector by the sites as they met them, which is model order, or alphabetical
    where JAX has passed the sites through a dict.
    """
    places = guide._unpack_latent(jnp.arange(target.dim))
    return np.asarray(target.ravel(places)).astype(int)


def read_guide(
    guide: Any,
    params: Mapping[str, Any],
    target: Target,
    key: jax.Array,
    noise: Mapping[str, Any] | None,
) -> Posterior:
    """Return what a fitted guide says of the posterior, on the constrained scale.

    Parameters
    ----------
    guide, params
        The guide and its optimised, constrained parameters.
    target
        What it was fitted to.
    key
        Seeds the draws of guides whose moments have no closed form.
    noise
        Standard errors of ``params`` from the optimiser's noise, where known.
    """
    if isinstance(guide, autoguide.AutoDelta):
        latents = {n: np.asarray(v)[None] for n, v in guide.median(params).items()}
        return PointPosterior({n: v[0] for n, v in target.complete(latents).items()})
    if isinstance(guide, autoguide.AutoGuideList):
        posterior = read_structured(guide, params, target, noise)
        if posterior is not None:
            return posterior
    prefix = getattr(guide, "prefix", "")
    if isinstance(guide, autoguide.AutoNormal):
        suffix = f"_{prefix}_"

        def flat(values: Mapping[str, Any], what: str) -> np.ndarray:
            sites = {s.name: values[f"{s.name}{suffix}{what}"] for s in target.latents}
            return np.asarray(target.ravel(sites), float)

        error = flat(noise, "loc") if noise else None
        return GaussianPosterior(target, flat(params, "loc"), None, flat(params, "scale"), error)
    if isinstance(
        guide,
        autoguide.AutoMultivariateNormal
        | autoguide.AutoLowRankMultivariateNormal
        | autoguide.AutoDiagonalNormal,
    ):
        order = flat_order(guide, target)
        q = guide.get_posterior(params)
        loc = np.asarray(params[f"{prefix}_loc"], float)[order]
        error = np.asarray(noise[f"{prefix}_loc"], float)[order] if noise else None
        if isinstance(guide, autoguide.AutoLowRankMultivariateNormal):
            root = np.asarray(q.cov_factor, float)[order]
            diagonal = np.sqrt(np.asarray(q.cov_diag, float))[order]
            return GaussianPosterior(target, loc, root, diagonal, error)
        if isinstance(guide, autoguide.AutoMultivariateNormal):
            root = np.asarray(q.scale_tril, float)[order]
            return GaussianPosterior(target, loc, root, np.zeros(loc.size), error)
        scale = np.asarray(params[f"{prefix}_scale"], float)[order]
        return GaussianPosterior(target, loc, None, scale, error)
    # DAIS has draws and no density
    if isinstance(guide, autoguide.AutoContinuous) and not isinstance(guide, autoguide.AutoDAIS):
        # not sample_posterior, whose map to the constrained scale belongs to the guide's set-up
        q = guide.get_posterior(params)
        own, between = q.sample_with_intermediates(key, (NUM_DRAWS,))
        z = np.asarray(own, float)[:, flat_order(guide, target)]
        draws = target.constrain(z)
        drawn = WeighedDraws(z, np.asarray(q.log_prob(own, between), float), draws)
        return DrawsPosterior(
            {n: v[None] for n, v in draws.items()}, independent=True, weighed=drawn
        )
    data = target.keywords(target.arrays())
    # a list's own sample_posterior hands all its parts one key, which correlates them
    if isinstance(guide, autoguide.AutoGuide) and not isinstance(guide, autoguide.AutoGuideList):
        latents = guide.sample_posterior(key, dict(params), sample_shape=(NUM_DRAWS,))
    else:
        latents = Predictive(guide, params=dict(params), num_samples=NUM_DRAWS)(key, **data)
    missing = [s.name for s in target.latents if s.name not in latents]
    if missing:
        raise ValueError(
            f"guide: it has no sample site for latent site(s) {', '.join(missing)} of the model; "
            "every latent site needs one of the same name"
        )
    samples = {n: v[None] for n, v in target.complete(latents).items()}
    known = {name: np.asarray(value) for name, value in params.items()}
    return DrawsPosterior(samples, independent=True, params=known)
