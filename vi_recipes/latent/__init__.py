"""Latent variables told apart from parameters and integrated out."""

from __future__ import annotations

from vi_recipes.latent.ascent import (
    Ascent,
    State,
    Step,
    TargetCompiler,
    best_of,
    check_monotone,
    reached_by,
    stacked_starts,
)
from vi_recipes.latent.climb import STOP, climb
from vi_recipes.latent.closed_form import (
    ClosedForm,
    general_start,
    log_likelihood_at,
    no_start_left,
    why_collapsed,
)
from vi_recipes.latent.columns import Columns, columns_of
from vi_recipes.latent.compression import Compressed, compress, same_likelihood
from vi_recipes.latent.continuous import MAX_FIELD, coupled_sites, fields, hierarchical
from vi_recipes.latent.curvature import (
    BY_NUTS,
    MAX_WIDE,
    examine,
    is_bent,
    kinks_of,
    layout_of,
    level_member,
    may_have_kinks,
    where_none,
)
from vi_recipes.latent.free_energy import (
    FreeEnergy,
    LatentLaw,
    Normals,
    StateProbabilities,
    exact_posterior,
    free_energy_of,
    law_from_vector,
    require_exact,
    vector_from_law,
)
from vi_recipes.latent.judge import Ended, Estimate, is_at_maximum, judge_best, judge_estimate
from vi_recipes.latent.linear_factors import LinearFactors
from vi_recipes.latent.marginal import (
    MAX_GAUSSIAN,
    MAX_QUADRATURE,
    EStep,
    EStepRule,
    Marginal,
)
from vi_recipes.latent.member_modes import (
    MemberTerms,
    Search,
    member_terms,
    newton_move,
    search_modes,
)
from vi_recipes.latent.members import local_sites, split_target
from vi_recipes.latent.model_likelihood import ModelLikelihood
from vi_recipes.latent.node_error import NumNodes
from vi_recipes.latent.nodes import HALF_LOG_2PI, cubature, hermite
from vi_recipes.latent.objective import (
    CLOSE,
    MAX_DENSE,
    MarginalObjective,
    MomentsInTheta,
    MomentsOfLatents,
)
from vi_recipes.latent.other_modes import CHEAP, AtModes, other_mode
from vi_recipes.latent.partial_steps import PartialSteps
from vi_recipes.latent.rules import RULES, marginal_of, num_starts_of, starting_point
from vi_recipes.latent.seen import MAX_WEIGHED
from vi_recipes.latent.split import (
    Split,
    latent_moments,
    parameter_densities,
    without_latents,
)
from vi_recipes.latent.steps import general_step, squarem

__all__ = [
    "BY_NUTS",
    "CHEAP",
    "CLOSE",
    "HALF_LOG_2PI",
    "MAX_DENSE",
    "MAX_FIELD",
    "MAX_GAUSSIAN",
    "MAX_QUADRATURE",
    "MAX_WEIGHED",
    "MAX_WIDE",
    "RULES",
    "STOP",
    "Ascent",
    "AtModes",
    "ClosedForm",
    "Columns",
    "Compressed",
    "EStep",
    "EStepRule",
    "Ended",
    "Estimate",
    "FreeEnergy",
    "LatentLaw",
    "LinearFactors",
    "Marginal",
    "MarginalObjective",
    "MemberTerms",
    "ModelLikelihood",
    "MomentsInTheta",
    "MomentsOfLatents",
    "Normals",
    "NumNodes",
    "PartialSteps",
    "Search",
    "Split",
    "State",
    "StateProbabilities",
    "Step",
    "TargetCompiler",
    "best_of",
    "check_monotone",
    "climb",
    "columns_of",
    "compress",
    "coupled_sites",
    "cubature",
    "exact_posterior",
    "examine",
    "fields",
    "free_energy_of",
    "general_start",
    "general_step",
    "hermite",
    "hierarchical",
    "is_at_maximum",
    "is_bent",
    "judge_best",
    "judge_estimate",
    "kinks_of",
    "latent_moments",
    "law_from_vector",
    "layout_of",
    "level_member",
    "local_sites",
    "log_likelihood_at",
    "marginal_of",
    "may_have_kinks",
    "member_terms",
    "newton_move",
    "no_start_left",
    "num_starts_of",
    "other_mode",
    "parameter_densities",
    "reached_by",
    "require_exact",
    "same_likelihood",
    "search_modes",
    "split_target",
    "squarem",
    "stacked_starts",
    "starting_point",
    "vector_from_law",
    "where_none",
    "why_collapsed",
    "without_latents",
]
