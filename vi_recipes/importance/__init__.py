"""Weights of draws: smoothing, khat, bounds, adaptation, Stein, Wasserstein; alpha-divergences."""

from __future__ import annotations

from vi_recipes.importance.adapt import DEGREES, Adapted, Proposal, adapt, make_round, root_of
from vi_recipes.importance.alpha import ScalarDensity, ScalarNormal
from vi_recipes.importance.bounds import (
    NUM_PARTICLES,
    Bound,
    LogEvidence,
    elbo,
    importance_sampled,
    importance_weighted,
)
from vi_recipes.importance.elliptical import Elliptical, reaching
from vi_recipes.importance.mixture import Mixture, aimed, defended, filled
from vi_recipes.importance.stein import MAX_DRAWS, KernelStein, kernel_stein
from vi_recipes.importance.triangular import (
    Proposed,
    Triangular,
    around,
    fit_triangular,
    num_parameters,
    scrambled_sobol,
    sobol_normals,
)
from vi_recipes.importance.wasserstein import WassersteinBounds, wasserstein_bounds
from vi_recipes.importance.weights import (
    FINITE_VARIANCE,
    GOOD_SHARE,
    KHAT_LIMIT,
    MIN_DRAWS,
    MIN_PER_COORDINATE,
    OWN_SHARE,
    VOUCHING_SHARE,
    Weights,
    khat,
    khat_limit,
    log_mean,
    shape_in_words,
    smooth,
    temper,
)

__all__ = [
    "DEGREES",
    "FINITE_VARIANCE",
    "GOOD_SHARE",
    "KHAT_LIMIT",
    "MAX_DRAWS",
    "MIN_DRAWS",
    "MIN_PER_COORDINATE",
    "NUM_PARTICLES",
    "OWN_SHARE",
    "VOUCHING_SHARE",
    "Adapted",
    "Bound",
    "Elliptical",
    "KernelStein",
    "LogEvidence",
    "Mixture",
    "Proposal",
    "Proposed",
    "ScalarDensity",
    "ScalarNormal",
    "Triangular",
    "WassersteinBounds",
    "Weights",
    "adapt",
    "aimed",
    "around",
    "defended",
    "elbo",
    "filled",
    "fit_triangular",
    "importance_sampled",
    "importance_weighted",
    "kernel_stein",
    "khat",
    "khat_limit",
    "log_mean",
    "make_round",
    "num_parameters",
    "reaching",
    "root_of",
    "scrambled_sobol",
    "shape_in_words",
    "smooth",
    "sobol_normals",
    "temper",
    "wasserstein_bounds",
]
