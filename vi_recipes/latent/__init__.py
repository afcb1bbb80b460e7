"""Latent variables told apart from parameters and integrated out."""

from __future__ import annotations

from vi_recipes.latent.ascent import (
    Ascent,
    Cached,
    State,
    Step,
    best_of,
    check_monotone,
    reached_by,
    stacked_starts,
)
from vi_recipes.latent.closed_form import (
    ClosedForm,
    OwnLikelihood,
    collapsed,
    degenerate,
    general_start,
)
from vi_recipes.latent.compression import Compressed, agree, compress
from vi_recipes.latent.edges import join
from vi_recipes.latent.free_energy import (
    FreeEnergy,
    Law,
    Weights,
    exact_posterior,
    free_energy,
    law_of,
    require_exact,
    vector_of,
)
from vi_recipes.latent.judge import Estimate, is_close, judge_estimate
from vi_recipes.latent.linear_factors import LinearFactors
from vi_recipes.latent.marginal import EStep, EStepRule, Marginal
from vi_recipes.latent.members import local_sites, split
from vi_recipes.latent.objective import CLOSE, MAX_DENSE, MarginalObjective
from vi_recipes.latent.rules import RULES, marginal_of, starting_point
from vi_recipes.latent.split import latent_moments, parameter_densities
from vi_recipes.latent.steps import general_step, squarem

__all__ = [
    "CLOSE",
    "MAX_DENSE",
    "RULES",
    "Ascent",
    "Cached",
    "ClosedForm",
    "Compressed",
    "EStep",
    "EStepRule",
    "Estimate",
    "FreeEnergy",
    "Law",
    "LinearFactors",
    "Marginal",
    "MarginalObjective",
    "OwnLikelihood",
    "State",
    "Step",
    "Weights",
    "agree",
    "best_of",
    "check_monotone",
    "collapsed",
    "compress",
    "degenerate",
    "exact_posterior",
    "free_energy",
    "general_start",
    "general_step",
    "is_close",
    "join",
    "judge_estimate",
    "latent_moments",
    "law_of",
    "local_sites",
    "marginal_of",
    "parameter_densities",
    "reached_by",
    "require_exact",
    "split",
    "squarem",
    "stacked_starts",
    "starting_point",
    "vector_of",
]
