"""What can be known of a posterior: draws, Gaussian, factors, response, blocks, labels."""

from __future__ import annotations

from vi_recipes.posterior.base import (
    Moments,
    Posterior,
    WeighedDraws,
    errors_of_draws,
    held_draws,
    is_constant,
    per_scalar,
)
from vi_recipes.posterior.blocks import BlockPosterior
from vi_recipes.posterior.delta import EstimatePosterior
from vi_recipes.posterior.derived import DerivedPosterior, moments_alone
from vi_recipes.posterior.derived import apply as apply_functions
from vi_recipes.posterior.draws import (
    DrawsPosterior,
    MomentsPosterior,
    ParticlesPosterior,
    PointPosterior,
    ResampledPosterior,
)
from vi_recipes.posterior.factors import FactorPosterior
from vi_recipes.posterior.gaussian import GaussianPosterior, MatchedPosterior
from vi_recipes.posterior.labels import PermutedPosterior, match, relabel_draws
from vi_recipes.posterior.response import ResponsePosterior

__all__ = [
    "BlockPosterior",
    "DerivedPosterior",
    "DrawsPosterior",
    "EstimatePosterior",
    "FactorPosterior",
    "GaussianPosterior",
    "MatchedPosterior",
    "Moments",
    "MomentsPosterior",
    "ParticlesPosterior",
    "PermutedPosterior",
    "PointPosterior",
    "Posterior",
    "ResampledPosterior",
    "ResponsePosterior",
    "WeighedDraws",
    "apply_functions",
    "errors_of_draws",
    "held_draws",
    "is_constant",
    "match",
    "moments_alone",
    "per_scalar",
    "relabel_draws",
]
